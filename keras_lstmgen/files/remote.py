"""Files at addresses such as ``gs://bucket/text.txt``, by the file systems that Apache Beam has for them."""

from collections.abc import Callable
from typing import Any, BinaryIO, cast

from keras_lstmgen.utils.errors import UserError, first_line


def is_address(name: str) -> bool:
    """Whether a name is an address for Beam. What can be downloaded, and a local file, is not."""
    return "://" in name and not name.startswith(("http://", "https://", "file:"))


def matches(pattern: str) -> list[str]:
    """The addresses that a pattern with ``*`` stands for, sorted; UserError if there is none."""
    found = _tried(pattern, lambda systems: [file.path for file in systems.match([pattern])[0].metadata_list])
    if not found:
        raise UserError(f"{pattern}: there is no such file")
    return sorted(found)


def size(address: str) -> int:
    """Bytes of a file."""
    return int(_tried(address, lambda systems: systems.match([address])[0].metadata_list[0].size_in_bytes))


def opened(address: str) -> BinaryIO:
    """A file to read, as it is."""
    return cast(BinaryIO, _tried(address, lambda systems: systems.open(address, compression_type=_AS_IT_IS)))


def created(address: str) -> BinaryIO:
    """A file to write, as it is."""
    return cast(BinaryIO, _tried(address, lambda systems: systems.create(address, compression_type=_AS_IT_IS)))


def below(folder: str) -> list[str]:
    """The addresses of all files in a folder."""
    pattern = f"{folder.rstrip('/')}/*"
    return [file.path for file in _tried(folder, lambda systems: systems.match([pattern])[0].metadata_list)]


def delete(addresses: list[str]) -> None:
    """Remove files."""
    if addresses:
        _tried(addresses[0], lambda systems: systems.delete(addresses))


_AS_IT_IS = "uncompressed"  # Beam's CompressionTypes.UNCOMPRESSED: its files are unpacked here, or not at all


def _tried(address: str, work: Callable[[Any], Any]) -> Any:
    try:
        from apache_beam.io.filesystems import FileSystems
    except ModuleNotFoundError as error:
        raise UserError(f"{address}: needs Apache Beam; pip install 'keras_lstmgen[beam]'") from error
    try:
        return work(FileSystems)
    except Exception as error:  # each file system has its own
        raise UserError(f"{address}: cannot be reached ({first_line(error)})") from error
