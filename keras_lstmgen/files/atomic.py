"""Write files and folders atomically: write to a temporary name first, then rename."""

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

PLAIN = re.compile(r"[A-Za-z0-9_./-]+")  # matches paths without characters that TensorFlow interprets
WRITING = ".writing-"  # prefix of the names of temporary folders
ONE_NAME = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # errors of file systems without hard links


@contextmanager
def replacing(path: Path, before: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path for a file or folder, and rename it to ``path`` if the block succeeds.

    The old file stays in place until the rename, so that it is not lost if the disk is full. The new file gets the mode
    and the owner of the old file. If ``path`` is a symbolic link, the function replaces the target of the link. The
    temporary folder of a killed process is removed by the next process that writes into the same parent folder.

    Args:
        path: the file or folder to write.
        before: path to which the old file or folder is renamed; None to remove the old file or folder.

    Raises:
        UserError: the operating system refuses to write.
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
            f"{path}: could not be written ({error.strerror or error}); the previous version is kept"
        ) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder in ``folder``, and remove it with its content when the block ends."""
    try:
        _sweep(folder)
        place, lock = _begin(folder)
    except OSError as error:
        raise UserError(f"{folder}: could not be written ({error.strerror}); the previous version is kept") from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """Yield a path to ``folder`` that contains no characters that TensorFlow interprets.

    TensorFlow reads the path of a checkpoint as a glob pattern, in which ``[ ] * ? \\`` have a special meaning. If the
    path of ``folder`` contains such a character, the function creates a symbolic link to ``folder`` in the folder for
    temporary files, and yields the path of the link.
    """
    if PLAIN.fullmatch(str(folder)):
        yield folder
        return
    try:
        place = tempfile.mkdtemp(dir=_plain_temporary_folder())
        os.symlink(folder.absolute(), Path(place, "link"))
    except OSError as error:
        raise UserError(f"{folder}: no link to it could be made ({error.strerror}); rename the folder") from error
    try:
        yield Path(place, "link")
    finally:
        shutil.rmtree(place, ignore_errors=True)  # removes the link, not its target


def _plain_temporary_folder() -> str | None:
    """Return a writable folder that matches ``PLAIN`` for temporary files; None if there is no such folder."""
    folders = (tempfile.gettempdir(), "/tmp", "/var/tmp")
    return next((folder for folder in folders if PLAIN.fullmatch(folder) and os.access(folder, os.W_OK)), None)


def move_into_place(new: Path, path: Path) -> None:
    """Move a file or folder from ``temporary_folder`` to ``path``, and replace an existing file or folder."""
    try:
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep_rights(path, new)
        _put(new, path, None)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); the previous version is kept") from error


def check_writable(folder: Path) -> None:
    """Raise UserError if no file can be created in a folder. Call this function before a long computation."""
    with temporary_folder(folder):
        pass


def check_output(path: Path) -> None:
    """Raise UserError if ``write_output`` cannot write to ``path``. Call this function before a long computation."""
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in a folder of yours")
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"{path}: may not be written to; name another file")
    if not path.exists() and not os.access(folder, os.W_OK):
        raise UserError(f"{path}: there is no folder {folder} that may be written to; name a file in a folder of yours")


def write_output(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to a path that the user named.

    A plain file is replaced atomically. A rename cannot replace a device, a pipe, a file with several hard links, or a
    file in a read-only folder. In these cases, the function opens ``path`` and writes directly. If standard
    output or standard error is redirected to the file, the text is appended.

    Raises:
        UserError: the operating system refuses to write.
        ReaderLeft: ``path`` is a pipe, and its reader has closed the pipe.
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
    """Return whether a rename can replace the file at ``path``. If ``path`` is a link, check the target."""
    folder = Path(os.path.realpath(path)).parent
    if not path.exists():
        return True
    about = path.stat()
    return stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and os.access(folder, os.W_OK) and not _is_standard(path)


def _is_standard(path: Path) -> bool:
    """Return whether standard output or error is redirected to the file at ``path``."""
    return path.exists() and any(os.path.samestat(path.stat(), os.fstat(number)) for number in (1, 2))


def _keep_rights(old: Path, new: Path) -> None:
    """Give a new file the mode and the owner of the file that it replaces."""
    if not (old.is_file() and new.is_file()):
        return
    about = old.stat()
    with suppress(OSError):  # only root may change the owner of a file
        os.chown(new, about.st_uid, about.st_gid)
    new.chmod(stat.S_IMODE(about.st_mode))


def _begin(parent: Path) -> tuple[Path, int]:
    """Create a temporary folder and lock it, so that ``_sweep`` of another process does not remove the folder.

    Returns:
        The folder, and a file descriptor that holds the lock until the caller closes it.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=WRITING, dir=parent))
        lock = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # without locks, flock fails in _sweep too, and _sweep removes nothing
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder, lock
        os.close(lock)  # another process removed the folder before this process locked it


def _sweep(parent: Path) -> None:
    """Remove all temporary folders without a lock, because the processes that created these folders have ended."""
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
    """Lock a file or folder inside the context, so that only one process at a time runs the block.

    The operating system releases the lock of a killed process. On a file system without locks, several processes may
    run the block at the same time.

    Args:
        path: an existing file or folder.
        waiting: function that is called once before this process waits for another process that holds the lock.
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
    """Rename ``new`` to ``path``, and write the rename to the disk.

    An existing file or folder at ``path`` is renamed to ``before``, or removed if ``before`` is None.
    """
    _rename(new, path, before)
    with suppress(OSError):  # some file systems cannot synchronize a folder; the rename itself has succeeded
        _sync(path.parent)


def _rename(new: Path, path: Path, before: Path | None) -> None:
    """Rename ``new`` to ``path``; if ``before`` is given, first rename an existing file or folder to ``before``."""
    if new.is_dir() and path.is_dir():  # a folder cannot be renamed to the name of an existing folder
        before = before or new.with_name(f"{path.name}.before")
    if before is None or not path.exists():
        os.replace(new, path)
    elif new.is_dir() or not _linked(path, before, new):
        _rename_in_turn(new, path, before)
    else:
        os.replace(new, path)


def _linked(path: Path, before: Path, new: Path) -> bool:
    """Make ``before`` a second name (hard link) of the file at ``path``, so that ``path`` always exists.

    Returns:
        True, or False if the file system does not support hard links. If False, nothing has changed.
    """
    link = new.with_name(f"{path.name}.before")
    try:
        os.link(path, link)
    except OSError as error:
        if error.errno in ONE_NAME:
            return False
        raise
    os.replace(link, before)
    return True


def _rename_in_turn(new: Path, path: Path, before: Path) -> None:
    """Rename ``path`` to ``before`` and ``new`` to ``path``; undo the first rename if the second fails."""
    os.replace(path, before)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(before, path)
        raise


def _sync(path: Path) -> None:
    """Force the operating system to write a file, or the list of names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_inside(folder: Path) -> None:
    """Raise UserError if a folder contains a link to a path outside the folder, or a special file such as a pipe.

    Otherwise a program that writes into the folder could change files outside the folder.
    """
    real = os.path.realpath(folder)
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *names)):
            leads_out = path.is_symlink() and not os.path.realpath(path).startswith(real + os.sep)
            if leads_out or not (path.is_file() or path.is_dir() or path.is_symlink()):
                problem = "is a link to a path outside the folder" if leads_out else "is not a plain file"
                raise UserError(f"{path}: {problem}; a run or a corpus must contain its files: copy the file here")


def check_zip(archive: zipfile.ZipFile) -> None:
    """Raise BadZipFile if a member of an archive is damaged or compressed.

    This package never writes compressed members. They are refused, because an unpacked member could have any size.
    """
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile(f"{member.filename} is compressed; this package never compresses files")
    if (broken := archive.testzip()) is not None:
        raise zipfile.BadZipFile(f"{broken} is damaged")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to a file as UTF-8. The file is replaced atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to a file. The file is replaced atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to a file as indented JSON. The file is replaced atomically.

    Raises:
        ValueError: ``value`` contains NaN or infinity.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file; raise UserError if the file is missing or invalid."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
