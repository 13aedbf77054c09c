"""Read, write, list and remove files in remote file systems with Apache Beam."""

from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from keras_lstmgen.utils.errors import UserError, first_line

T = TypeVar("T")


def read(address: str) -> bytes:
    """Return the bytes of a file. A compressed file is not unpacked."""
    with _call(address, lambda: FileSystems.open(address, compression_type=CompressionTypes.UNCOMPRESSED)) as file:
        return bytes(file.read())


def create(address: str) -> BinaryIO:
    """Open a file for writing bytes. The bytes are not compressed, even if the name ends with ``.gz``."""
    return _call(address, lambda: FileSystems.create(address, compression_type=CompressionTypes.UNCOMPRESSED))


def list_files(folder: str) -> list[str]:
    """Return the addresses of all files below a folder."""
    pattern = f"{folder.rstrip('/')}/*"
    matches: list[Any] = _call(folder, lambda: FileSystems.match([pattern])[0].metadata_list)
    return [file.path for file in matches]


def delete(addresses: list[str]) -> None:
    """Remove the files at some addresses."""
    if addresses:
        _call(addresses[0], lambda: FileSystems.delete(addresses))


def _call(address: str, operation: Callable[[], T]) -> T:
    """Call an operation on an address and return its result, or raise UserError if it fails."""
    try:
        return operation()
    except Exception as error:  # the file systems have no common error class
        raise UserError(f"{address}: cannot be reached ({first_line(error)})") from error
