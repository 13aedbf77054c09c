"""The files below a folder of texts, and what is left out of them, with the reason."""

import os
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from keras_lstmgen.utils.errors import UserError

METADATA = "keras_lstmgen.json"  # what makes a folder a run, or an artifact
RECIPE, TOKENIZER = "recipe.toml", "tokenizer.model"  # all that a run has whose training was killed at once
SAVED_MODEL = "saved_model.pb"
MANIFEST = "prepared.json"  # identifies a prepared corpus
SHOWN = 3  # names for each reason in a summary


class LeftOut(NamedTuple):
    """A file or folder that is not read: why, and its path, which ends with a slash if it is a folder."""

    why: str
    path: str


def files_below(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """Return the files below a folder in the order of their paths, and what else is there.

    Hidden files, folders behind links, runs, prepared corpora and whatever is no plain file are left out.
    Raises UserError for a folder below it that may not be read.
    """
    found: list[Path] = []
    left_out: list[LeftOut] = []
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        reasons = {name: _why_no_folder(Path(parent, name)) for name in folders}
        left_out += [LeftOut(why, f"{Path(parent, name)}/") for name, why in reasons.items() if why]
        folders[:] = [name for name in folders if not reasons[name]]
        reasons = {name: _why_no_file(Path(parent, name)) for name in names}
        left_out += [LeftOut(why, str(Path(parent, name))) for name, why in reasons.items() if why]
        found += [Path(parent, name) for name in names if not reasons[name]]
    return sorted(found), left_out


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); allow it, or name the texts one by one")


def _why_no_folder(folder: Path) -> str:
    """Return why the files of a folder do not count, "" if they do."""
    if folder.name.startswith("."):
        return "hidden"
    return "link to a folder" if folder.is_symlink() else why_no_texts(folder)


def why_no_texts(folder: Path) -> str:
    """Return what else a folder is than one of texts, "" if it is nothing else."""
    if (folder / METADATA).is_file():
        return "run"
    if (folder / MANIFEST).is_file():
        return "prepared corpus"
    if (folder / SAVED_MODEL).is_file():
        return "SavedModel"
    return "run" if (folder / RECIPE).is_file() and set(os.listdir(folder)) <= {RECIPE, TOKENIZER} else ""


def _why_no_file(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if path.is_file():
        return ""
    return "broken link" if path.is_symlink() and not path.exists() else "no plain file"


def run_above(path: Path, below: Path) -> str:
    """Return the run, or its like, that a path lies in, if that itself lies below a folder; else ""."""
    inside = path.parents[: len(path.parents) - len(below.parents) - 1]
    return next((f"{folder}/" for folder in inside if why_no_texts(folder)), "")


def summary(left_out: Iterable[LeftOut]) -> str:
    """Return a summary of what is left out: "hidden (a/.b), binary (c.png, d.png, e.png and 7 more)"."""
    groups = groupby(sorted(set(left_out)), key=lambda one: one.why)
    return ", ".join(f"{why} ({_listed([one.path for one in group])})" for why, group in groups)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
