"""Write, list and remove files at addresses with the file systems of Apache Beam."""

from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from keras_lstmgen.utils.errors import UserError, first_line

T = TypeVar("T")


def read(address: str) -> bytes:
    """Return the content of a file, without unpacking it."""
    with _call(address, lambda: FileSystems.open(address, compression_type=CompressionTypes.UNCOMPRESSED)) as file:
        return bytes(file.read())


def create(address: str) -> BinaryIO:
    """Open a file for writing its bytes, without packing them."""
    return _call(address, lambda: FileSystems.create(address, compression_type=CompressionTypes.UNCOMPRESSED))


def list_files(folder: str) -> list[str]:
    """Return the addresses of all files below a folder."""
    pattern = f"{folder.rstrip('/')}/*"
    matches: list[Any] = _call(folder, lambda: FileSystems.match([pattern])[0].metadata_list)
    return [file.path for file in matches]


def delete(addresses: list[str]) -> None:
    """Remove files."""
    if addresses:
        _call(addresses[0], lambda: FileSystems.delete(addresses))


def _call(address: str, operation: Callable[[], T]) -> T:
    """Call an operation; raise UserError if it fails."""
    try:
        return operation()
    except Exception as error:  # each file system has its own errors
        raise UserError(f"{address}: cannot be reached ({first_line(error)})") from error
