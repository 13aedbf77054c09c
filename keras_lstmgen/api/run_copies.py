"""Copy the folder of a run."""

import os
import shutil
from pathlib import Path
from typing import Any

from keras_lstmgen.files import atomic, folders
from keras_lstmgen.models import model_card
from keras_lstmgen.utils.errors import UserError

ESSENTIAL = (folders.METADATA, folders.TOKENIZER, folders.RECIPE, "model.keras")


def checked_path(name: str, path: Any) -> Path:
    """Return the absolute path of an argument; raise UserError if the argument is not a path or is empty."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str) or not os.fspath(path):
        raise UserError(f"{name}: {path!r:.60} is not a path; give the name of a folder")
    if "\0" in os.fspath(path):
        raise UserError(f"{name}: {path!r:.60} contains a NUL; give the name of a folder")
    return Path(path).absolute()


def run_folder(path: Any) -> Path:
    """Return the path of a run; raise UserError if it is not the folder of a run."""
    folder = checked_path("path", path)
    if not folder.is_dir():
        problem = "is a file, not the folder of a run" if folder.exists() else "there is no such folder"
        raise UserError(f"{folder}: {problem}; give the folder of a run, such as saved_models/my_run")
    if not any((folder / name).is_file() for name in ESSENTIAL):
        raise UserError(f"{folder}: is not the folder of a run; give a folder that train or save has written")
    atomic.check_inside(folder)
    return folder


def copy(run: Path, folder: Path, overwrite: bool) -> None:
    """Copy a run to a new folder.

    Args:
        run: folder of the run.
        folder: the new folder.
        overwrite: whether to replace an earlier run in ``folder``.

    Raises:
        UserError: if ``folder`` exists and may not be replaced, or cannot be written.
    """
    if folder.exists() and folder.samefile(run):
        return
    _check_replaceable(folder, overwrite)
    _copy_files(run, folder, lambda _parent, _names: [])
    if (folder / model_card.CARD).is_file():
        model_card.write(folder)  # the card contains the name of the folder


def copy_for_export(run: Path, folder: Path, overwrite: bool) -> None:
    """Copy the files of a run that an export needs, unless the folder already contains them.

    Args:
        run: folder of the run.
        folder: folder for the artifacts.
        overwrite: see ``copy``.

    Raises:
        UserError: see ``copy``.
    """
    if folder.is_dir() and all(_same(run / name, folder / name) for name in ESSENTIAL):
        return
    _check_replaceable(folder, overwrite)
    _copy_files(run, folder, lambda _parent, names: [name for name in names if name not in ESSENTIAL])


def _same(one: Path, other: Path) -> bool:
    """Return whether two files have the same content."""
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    """Raise UserError unless the folder does not exist, is empty, or is a run that may be replaced."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.exists() and not folder.is_symlink():
        return
    if not (folder / folders.METADATA).is_file():
        kind = "a folder with other files" if folder.is_dir() else "a file"
        raise UserError(f"{folder}: is {kind}, which is not replaced; give another folder")
    if not overwrite:
        raise UserError(f"{folder}: exists already; give another folder, or overwrite=True to replace the run")


def _copy_files(run: Path, folder: Path, ignore: Any) -> None:
    """Copy a run to a temporary folder beside ``folder``, and rename the copy.

    Args:
        run: folder of the run.
        folder: the new folder.
        ignore: see ``shutil.copytree``.
    """
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror})") from error
    with atomic.temporary_folder(parent) as place:
        try:
            shutil.copytree(run, place / folder.name, ignore=ignore)
        except OSError as error:  # shutil.Error, which lists all files, is an OSError
            raise UserError(f"{folder}: could not be written ({error})") from error
        atomic.move_into_place(place / folder.name, folder)
