"""Search the folder that the environment variable ``KERAS_LSTMGEN_DATA`` names, and locate the cache folder."""

import os
from itertools import islice
from pathlib import Path

from keras_lstmgen.files import folders
from keras_lstmgen.files.checksums import sha256

VARIABLE = "KERAS_LSTMGEN_DATA"


def data_folder() -> Path | None:
    """Return the folder of texts of the user, or None if the variable is not set."""
    name = os.environ.get(VARIABLE)
    return Path(name) if name else None


def cache_folder() -> Path:
    """Return the folder for downloads and for copies of pipes and standard input."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras_lstmgen"


def find(name: str, checksum: str) -> list[Path]:
    """Return the files of the data folder with a file name, or with a checksum.

    Args:
        name: file name without folders.
        checksum: SHA-256 in hexadecimal, or "".

    Returns:
        The file with the checksum, whatever its name, if there is one, then all files with the name.
    """
    folder = data_folder()
    files = folders.files_below(folder)[0] if folder else []
    named = [path for path in files if path.name == name]
    matching = (path for path in named + files if checksum and sha256(path) == checksum)
    return [*islice(matching, 1), *named]
