"""Read files of remote file systems, such as ``gs://bucket/text.txt``, with the package fsspec."""

import hashlib
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, cast

from keras_lstmgen.utils.errors import UserError, first_line

T = TypeVar("T")


def is_address(name: str) -> bool:
    """Return whether a name is an address that fsspec opens. Returns False for http(s) URLs and local files.

    >>> is_address("s3://bucket/text.txt"), is_address("https://example.org/text.txt"), is_address("text.txt")
    (True, False, False)
    """
    return "://" in name and not name.startswith(("http://", "https://", "file:"))


def glob(pattern: str) -> list[str]:
    """Return the sorted addresses of the files that match a pattern.

    Args:
        pattern: an address, in which ``*`` matches any characters except a slash.

    Raises:
        UserError: nothing matches, or the file system cannot be reached.
    """
    addresses = _call(pattern, lambda system, path: [system.unstrip_protocol(file) for file in _files(system, path)])
    if not addresses:
        raise UserError(f"{pattern}: there is no such file")
    return sorted(addresses)


def _files(system: Any, pattern: str) -> list[str]:
    """Return the paths of all files, but not of folders, that match a pattern in an fsspec file system."""
    return [path for path, about in system.glob(pattern, detail=True).items() if about["type"] == "file"]


def size(address: str) -> int:
    """Return the size of a remote file in bytes."""
    return _call(address, lambda system, path: int(system.size(path)))


def open_file(address: str) -> BinaryIO:
    """Open a remote file for reading bytes. A packed file is not unpacked."""
    return _call(address, lambda system, path: cast(BinaryIO, system.open(path, "rb")))


def sha256(address: str) -> str:
    """Return the SHA-256 of a remote file in hexadecimal."""
    with open_file(address) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _call(address: str, operation: Callable[[Any, str], T]) -> T:
    """Call a function with two arguments: the fsspec file system of an address, and the path in this file system.

    Raises:
        UserError: fsspec is not installed, the address is not supported, or the function fails.
    """
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise UserError(f"{address}: needs fsspec; pip install 'keras_lstmgen[remote]'") from error
    if "::" in address:  # such a chain may open a file that contains code templates
        raise UserError(f"{address}: a chain of file systems ('::') is not supported; give the address of the text")
    try:
        return operation(*fsspec.core.url_to_fs(address))
    except Exception as error:  # each file system raises its own exception classes
        raise UserError(f"{address}: cannot be reached ({first_line(error)})") from error
