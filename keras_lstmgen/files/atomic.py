"""Files that are either whole or not there: written under a temporary name, then renamed."""

import errno
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from keras_lstmgen.utils.errors import ReaderLeft, UserError

PLAIN = re.compile(r"[A-Za-z0-9_./-]+")  # a path that every library takes as it is
WRITING = ".writing-"  # begins the names of folders in which something is being written
ONE_NAME = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # from file systems without hard links


@contextmanager
def replacing(path: Path, before: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path, for a file or a folder, that takes the place of ``path`` if the block succeeds.

    Whatever stood at ``path`` before stays until then, also when the disk is full; then it goes to ``before``, if that
    is given. A new file keeps the mode and the owner of the old one, and a symbolic link stays one: its target is
    replaced. What a process left that was killed here is removed by the next that writes into the same folder.
    """
    folder, path = None, Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        folder, lock = _begin(path.parent)
        yield folder / path.name
        _keep_rights(path, folder / path.name)
        _sync(folder / path.name)
        _put(folder / path.name, path, before)
    except OSError as error:
        raise UserError(
            f"{path}: could not be written ({error.strerror or error}); what was there before is kept"
        ) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder in ``folder``, for what is not to be seen yet; in the end it goes with its content."""
    try:
        _sweep(folder)
        place, lock = _begin(folder)
    except OSError as error:
        raise UserError(f"{folder}: could not be written ({error.strerror}); what was there before is kept") from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """Yield a path to ``folder`` that TensorFlow takes as it is.

    TensorFlow reads the path of a checkpoint as a pattern, in which ``[ ] * ? \\`` match other names. A folder whose
    path holds such a character gets a symbolic link in the folder for temporary files, for as long as the block runs.
    """
    if PLAIN.fullmatch(str(folder)):
        yield folder
        return
    try:
        place = tempfile.mkdtemp(dir=_plain_place())
        os.symlink(folder.absolute(), Path(place, "link"))
    except OSError as error:
        raise UserError(f"{folder}: no link to it could be made ({error.strerror}); rename the folder") from error
    try:
        yield Path(place, "link")
    finally:
        shutil.rmtree(place, ignore_errors=True)  # which removes the link, not what it leads to


def _plain_place() -> str | None:
    """Find a folder for temporary files that has a plain path; None where there is none."""
    places = (tempfile.gettempdir(), "/tmp", "/var/tmp")
    return next((place for place in places if PLAIN.fullmatch(place) and os.access(place, os.W_OK)), None)


def move_into_place(new: Path, path: Path) -> None:
    """Move a file or folder from ``temporary_folder`` to ``path`` and replace what is there."""
    try:
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep_rights(path, new)
        _put(new, path, None)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); what was there before is kept") from error


def check_writable(folder: Path) -> None:
    """Raise UserError, before any work is done, if nothing can be written into a folder."""
    with temporary_folder(folder):
        pass


def check_output(path: Path) -> None:
    """Raise UserError, before any work is done, if ``write_output`` cannot write to ``path``."""
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in a folder of yours")
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"{path}: may not be written to; name another file")
    if not path.exists() and not os.access(folder, os.W_OK):
        raise UserError(f"{path}: there is no folder {folder} that may be written to; name a file in a folder of yours")


def write_output(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to a path of the user's.

    A plain file is replaced, whole or not at all. Everything else is opened and written to, because a rename would
    remove it: a device, a pipe, a file with several names, a file in a folder that may not be written to. The file
    that standard output or error goes to is appended to.
    """
    if _is_replaceable(path):
        write_text(path, text)
        return
    try:
        with path.open("a" if _is_standard(path) else "w", encoding="utf-8", newline="") as file:
            file.write(text)
    except BrokenPipeError as error:
        raise ReaderLeft from error
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error})") from error


def _is_replaceable(path: Path) -> bool:
    """Whether a rename can put another file at ``path``, or at the file that a link there leads to."""
    folder = Path(os.path.realpath(path)).parent
    if not path.exists():
        return True
    about = path.stat()
    return stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and os.access(folder, os.W_OK) and not _is_standard(path)


def _is_standard(path: Path) -> bool:
    """Whether standard output or error goes to the file at ``path``."""
    return path.exists() and any(os.path.samestat(path.stat(), os.fstat(number)) for number in (1, 2))


def _keep_rights(old: Path, new: Path) -> None:
    """Give a new file the mode and the owner of the file that it replaces."""
    if not (old.is_file() and new.is_file()):
        return
    about = old.stat()
    with suppress(OSError):  # only root may give a file away
        os.chown(new, about.st_uid, about.st_gid)
    new.chmod(stat.S_IMODE(about.st_mode))


def _begin(parent: Path) -> tuple[Path, int]:
    """A new folder to write in, locked as long as the descriptor is open, so that ``_sweep`` leaves it alone."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=WRITING, dir=parent))
        lock = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # a file system that knows no locks: there nothing is swept either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder, lock
        os.close(lock)  # swept between its making and its locking


def _sweep(parent: Path) -> None:
    """Remove the folders that nobody writes in any more: the lock of a process goes with it."""
    for folder in parent.glob(f"{WRITING}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def exclusive_lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time into the block, by a lock on a file or folder; ``waiting`` is called before a wait.

    The lock of a process that is killed goes with it. On a file system that knows no locks, all come in.
    """
    lock = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
    finally:
        os.close(lock)


def _put(new: Path, path: Path, before: Path | None) -> None:
    """Rename ``new`` to ``path``, for good. What has this name goes to ``before``, if that is given, or back."""
    _rename(new, path, before)
    with suppress(OSError):  # a file system that cannot: there is nothing to take back any more
        _sync(path.parent)


def _rename(new: Path, path: Path, before: Path | None) -> None:
    if new.is_dir() and path.is_dir():  # which only takes a name that is free
        before = before or new.with_name(f"{path.name}.before")
    if before is None or not path.exists():
        os.replace(new, path)
    elif new.is_dir() or not _linked(path, before, new):
        _by_turns(new, path, before)
    else:
        os.replace(new, path)


def _linked(path: Path, before: Path, new: Path) -> bool:
    """Give a file the name ``before`` too, so that it never is without its own; False where a file has but one name."""
    link = new.with_name(f"{path.name}.before")
    try:
        os.link(path, link)
    except OSError as error:
        if error.errno in ONE_NAME:
            return False
        raise
    os.replace(link, before)
    return True


def _by_turns(new: Path, path: Path, before: Path) -> None:
    os.replace(path, before)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(before, path)
        raise


def _sync(path: Path) -> None:
    """Push a file's bytes to the disk, so that the rename cannot overtake them, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_inside(folder: Path) -> None:
    """Refuse a folder in which a link leads out of it, or something is neither file nor folder, a pipe say.

    What is written into such a folder, or removed from it, would be written or removed elsewhere.
    """
    real = os.path.realpath(folder)
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *names)):
            leads_out = path.is_symlink() and not os.path.realpath(path).startswith(real + os.sep)
            if leads_out or not (path.is_file() or path.is_dir() or path.is_symlink()):
                what = "leads out of the folder" if leads_out else "is no file"
                raise UserError(f"{path}: {what}; what belongs to a run, or a corpus, lies in its folder: put it there")


def check_zip(archive: zipfile.ZipFile) -> None:
    """Raise BadZipFile where a member is packed, so that it might unpack to any size, or is not as it was written."""
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile(f"{member.filename} is packed, as this package packs nothing")
    if (broken := archive.testzip()) is not None:
        raise zipfile.BadZipFile(f"{broken} is damaged")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all. NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a file that is missing or damaged is the user's to know about."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
