"""List the files of a folder of texts, and the files and folders that are left out, with the reasons."""

import os
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from keras_lstmgen.utils.errors import UserError

METADATA = "keras_lstmgen.json"  # identifies a run, or an artifact
RECIPE, TOKENIZER = "recipe.toml", "tokenizer.model"  # the only files of a run whose training ended at once
SAVED_MODEL = "saved_model.pb"
MANIFEST = "prepared.json"  # identifies a prepared corpus
MAX_NAMES = 3  # names for each reason in a summary


class LeftOut(NamedTuple):
    """A file or folder that is not read: the reason, and the path, which ends with a slash if it is a folder."""

    why: str
    path: str


def files_below(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """Return the files below a folder, and the files and folders that are left out.

    Left out are hidden files, links to folders, runs, prepared corpora, and everything that is not a plain file.

    Args:
        folder: the folder to search.

    Returns:
        The files, sorted by path, and the rest with the reasons.

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
    """Return the names without a reason to be left out, and the paths with one."""
    reasons = {name: why(Path(parent, name)) for name in names}
    left_out = [LeftOut(reason, str(Path(parent, name))) for name, reason in reasons.items() if reason]
    return [name for name in names if not reasons[name]], left_out


def _raise_unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); allow it, or name the texts one by one")


def _why_skip_folder(folder: Path) -> str:
    """Return why the files of a folder are left out, or ""."""
    if folder.name.startswith("."):
        return "hidden"
    return "link to a folder" if folder.is_symlink() else why_no_texts(folder)


def why_no_texts(folder: Path) -> str:
    """Return "run", "prepared corpus" or "SavedModel" for such a folder, "" for a folder of texts."""
    if (folder / METADATA).is_file():
        return "run"
    if (folder / MANIFEST).is_file():
        return "prepared corpus"
    if (folder / SAVED_MODEL).is_file():
        return "SavedModel"
    return "run" if (folder / RECIPE).is_file() and set(os.listdir(folder)) <= {RECIPE, TOKENIZER} else ""


def _why_skip_file(path: Path) -> str:
    """Return why a file is left out, or ""."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_file():
        return ""
    return "broken link" if path.is_symlink() and not path.exists() else "no plain file"


def run_above(path: Path, below: Path) -> str:
    """Return the run, prepared corpus or SavedModel that contains a path, or "".

    Args:
        path: a file or folder below ``below``.
        below: only folders below this one are considered.
    """
    inside = path.parents[: len(path.parents) - len(below.parents) - 1]
    return next((f"{folder}/" for folder in inside if why_no_texts(folder)), "")


def summary(left_out: Iterable[LeftOut]) -> str:
    """Return a summary of files and folders that are left out, grouped by reason.

    >>> summary([LeftOut("hidden", "a/.b"), LeftOut("binary", "c.png")])
    'binary (c.png), hidden (a/.b)'
    """
    groups = groupby(sorted(set(left_out)), key=lambda entry: entry.why)
    return ", ".join(f"{why} ({_shortened([entry.path for entry in group])})" for why, group in groups)


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
