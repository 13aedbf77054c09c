"""Locate the user's data folder and the cache folder, and search the data folder for a file.

The environment variable ``KERAS_LSTMGEN_DATA`` contains the path of the data folder.
"""

import os
from itertools import islice
from pathlib import Path

from keras_lstmgen.files import folders
from keras_lstmgen.files.checksums import sha256

VARIABLE = "KERAS_LSTMGEN_DATA"


def data_folder() -> Path | None:
    """Return the user's data folder, or None if ``KERAS_LSTMGEN_DATA`` is not set."""
    name = os.environ.get(VARIABLE)
    return Path(name) if name else None


def cache_folder() -> Path:
    """Return the folder that contains downloaded files and copies of pipes and standard input."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras_lstmgen"


def find(name: str, checksum: str) -> list[Path]:
    """Search the data folder for files with the given checksum or the given name.

    Args:
        name: file name without folders.
        checksum: SHA-256 in hexadecimal; "" to search only by name.

    Returns:
        All files with the name. If the data folder contains a file with the checksum, this file comes first, even if it
        has another name.
    """
    folder = data_folder()
    files = folders.files_below(folder)[0] if folder else []
    named = [path for path in files if path.name == name]
    matching = (path for path in named + files if checksum and sha256(path) == checksum)
    return [*islice(matching, 1), *named]
