"""List the text files in a folder, and list all skipped files and folders with the reasons."""

import os
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from keras_lstmgen.utils.errors import UserError

METADATA = "keras_lstmgen.json"  # file that identifies the folder of a run or of an exported artifact
RECIPE, TOKENIZER = "recipe.toml", "tokenizer.model"  # the only files of a run before its first checkpoint
SAVED_MODEL = "saved_model.pb"  # file that identifies a SavedModel
MANIFEST = "prepared.json"  # file that identifies a prepared corpus
MAX_NAMES = 3  # maximum number of names for each reason in a summary


class LeftOut(NamedTuple):
    """A file or folder that is not read as text."""

    why: str  # the reason, such as "hidden"
    path: str  # ends with a slash if it is a folder


def files_below(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """List the text files below a folder, and the files and folders that are skipped.

    The function skips hidden files and folders, links to folders, runs, prepared corpora, SavedModels, and files that
    are not plain files.

    Args:
        folder: the folder to search.

    Returns:
        The paths of the text files, sorted, and a list of the skipped files and folders.

    Raises:
        UserError: a folder cannot be read.
    """
    files: list[Path] = []
    left_out: list[LeftOut] = []
    for parent, folders, names in os.walk(folder, onerror=_raise_unreadable):
        folders[:], excluded = _partition(parent, folders, _why_skip_folder)
        left_out += [LeftOut(entry.why, f"{entry.path}/") for entry in excluded]
        plain, excluded = _partition(parent, names, _why_skip_file)
        left_out += excluded
        files += [Path(parent, name) for name in plain]
    return sorted(files), left_out


def _partition(parent: str, names: list[str], why: Callable[[Path], str]) -> tuple[list[str], list[LeftOut]]:
    """Divide the names in a folder into two lists: files or folders to read, and files or folders to skip.

    Args:
        parent: the folder.
        names: names of files or folders in ``parent``.
        why: function that returns the reason to skip a path, or "" if the path is not skipped.

    Returns:
        The names to read, and the skipped paths with their reasons.
    """
    reasons = {name: why(Path(parent, name)) for name in names}
    left_out = [LeftOut(reason, str(Path(parent, name))) for name, reason in reasons.items() if reason]
    return [name for name in names if not reasons[name]], left_out


def _raise_unreadable(error: OSError) -> None:
    """Raise UserError for a folder that cannot be listed."""
    raise UserError(
        f"{error.filename}: cannot be read ({error.strerror}); change its permissions, or name the texts one by one"
    )


def _why_skip_folder(folder: Path) -> str:
    """Return the reason to skip a folder, or "" if the folder is searched."""
    if folder.name.startswith("."):
        return "hidden"
    return "link to a folder" if folder.is_symlink() else why_no_texts(folder)


def why_no_texts(folder: Path) -> str:
    """Return the kind of a folder without texts: "run", "prepared corpus" or "SavedModel"; "" for other folders."""
    if (folder / METADATA).is_file():
        return "run"
    if (folder / MANIFEST).is_file():
        return "prepared corpus"
    if (folder / SAVED_MODEL).is_file():
        return "SavedModel"
    return "run" if (folder / RECIPE).is_file() and set(os.listdir(folder)) <= {RECIPE, TOKENIZER} else ""


def _why_skip_file(path: Path) -> str:
    """Return the reason to skip a file, or "" if the file is read."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_file():
        return ""
    return "broken link" if path.is_symlink() and not path.exists() else "not a plain file"


def run_above(path: Path, below: Path) -> str:
    """Return the path of the run, prepared corpus or SavedModel that contains a file or folder.

    Args:
        path: the file or folder.
        below: a parent folder of ``path``; only folders between ``below`` and ``path`` are checked.

    Returns:
        The path with a slash at its end; "" if no such folder contains ``path``. If several folders contain ``path``,
        the innermost one is returned.
    """
    inside = path.parents[: len(path.parents) - len(below.parents) - 1]
    return next((f"{folder}/" for folder in inside if why_no_texts(folder)), "")


def summary(left_out: Iterable[LeftOut]) -> str:
    """Return one line that lists skipped files and folders, grouped by reason.

    >>> summary([LeftOut("hidden", "a/.b"), LeftOut("binary", "c.png")])
    'binary (c.png), hidden (a/.b)'
    """
    groups = groupby(sorted(set(left_out)), key=lambda entry: entry.why)
    return ", ".join(f"{why} ({_shortened([entry.path for entry in group])})" for why, group in groups)


def _shortened(names: list[str]) -> str:
    """Join the first ``MAX_NAMES`` names, and add how many names are omitted."""
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
