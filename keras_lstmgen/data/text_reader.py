"""Read a text in chunks: unpack gzip, decode UTF-8, and report the position of bytes that are not plain text."""

import codecs
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from keras_lstmgen.files import formats, remote
from keras_lstmgen.utils.errors import UserError

CHUNK = 1 << 16  # bytes read at a time


@dataclass(frozen=True)
class Source:
    """A text, or a part of a text.

    Attributes:
        name: name of the text in messages.
        path: a local file, or an address such as ``gs://bucket/text.txt``. None stands for the language reference that
            is included in Python (``pydoc``).
        start: position of the first byte of the part.
        end: position after the last byte of the part, or None for the end of the file.
    """

    name: str
    path: Path | str | None
    start: int = 0
    end: int | None = None


def read_text(source: Source) -> Iterator[str]:
    """Yield a text in chunks of about 64k characters, without a byte order mark.

    Args:
        source: a text in UTF-8, optionally packed by gzip.

    Yields:
        Strings that are not empty.

    Raises:
        UserError: if the file cannot be read, is not UTF-8, contains a NUL, has CR line endings, or has another format.
            The message contains the position of the invalid byte (from 0), or a command that converts the file.
    """
    chunks = _decode(source)
    if source.start == 0:
        first = next(chunks, "").removeprefix("\ufeff")
        if formats.has_cr_line_endings(first):
            raise _wrong_format(source, formats.CR_LINE_ENDINGS)
        chunks = chain([first] if first else [], chunks)
    yield from chunks


def _wrong_format(source: Source, format_: formats.Format) -> UserError:
    """Return the error for a file in an unsupported format."""
    advice = f"convert it: {_command(source, format_.command)}" if format_.command else "give text in UTF-8"
    return UserError(f"{source.name}: is {format_.name}, not text in UTF-8; {advice}")


def _command(source: Source, command: str) -> str:
    """Return a shell command that converts a source to text in UTF-8."""
    return formats.fill_command(command, source.path, _is_packed(source))


def _decode(source: Source) -> Iterator[str]:
    """Yield the decoded text of a source in chunks that are not empty."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = source.start
    for chunk in chain(read_bytes(source), [b""]):
        if position == 0 and (format_ := formats.recognize(chunk)):
            raise _wrong_format(source, format_)
        if b"\0" in chunk:
            raise UserError(f"{source.name}: binary file (NUL at byte {position + chunk.index(0)}); give text in UTF-8")
        pending = len(decoder.getstate()[0])  # number of bytes of a character that began in the previous chunk
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise _not_utf8(source, position - pending + error.start) from error
        if text:
            yield text
        position += len(chunk)


def _not_utf8(source: Source, position: int) -> UserError:
    """Return the error for a file with an invalid byte at a position."""
    command = _command(source, formats.WINDOWS)
    return UserError(
        f"{source.name}: not UTF-8 at byte {position}; convert it with iconv, for example from Windows-1252: {command}"
    )


def read_bytes(source: Source) -> Iterator[bytes]:
    """Yield the unpacked bytes of a source in chunks of at most 64 KiB.

    Raises:
        UserError: if the file cannot be read or is a damaged gzip file.
    """
    left = sys.maxsize if source.end is None else source.end - source.start
    try:
        with _unpacked(source) as file:
            if source.start:
                file.seek(source.start)
            while chunk := file.read(min(CHUNK, left)):
                left -= len(chunk)
                yield chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{source.name}: incomplete or damaged .gz file ({error}); download or compress it again"
        ) from error
    except OSError as error:
        raise UserError(f"{source.name}: cannot be read ({error.strerror or error})") from error


def split(source: Source, size: int, separator: bytes) -> Iterator[Source]:
    """Split a file into parts that end with a separator.

    Empty files, gzip files and ``pydoc`` are not split.

    Args:
        source: the file.
        size: minimum length of a part in bytes. A part ends with the first separator that ends at or after this length.
        separator: bytes after which a file may be split, such as a newline.

    Yields:
        The parts in the order of the file.
    """
    total = size_of(source)
    if source.path is None or _is_packed(source) or not total:
        yield source
        return
    with _open(source.path) as file:
        end = 0
        while end < total:
            start, end = end, _after_separator(separator, file, end + size)
            yield replace(source, start=start, end=end)


def _after_separator(separator: bytes, file: BinaryIO, position: int) -> int:
    """Return the position after the first separator that ends at or after ``position``, or the end of the file."""
    position = file.seek(max(position - len(separator), 0))
    window = b""
    for chunk in iter(lambda: file.read(CHUNK), b""):
        window = window[-len(separator) :] + chunk  # a separator may begin in the previous chunk
        position += len(chunk)
        if (index := window.find(separator)) >= 0:
            return position - len(window) + index + len(separator)
    return min(position, file.seek(0, os.SEEK_END))


def size_of(source: Source) -> int:
    """Return the size of a source in bytes, without unpacking it. The size of ``pydoc`` is 0."""
    if source.end is not None:
        return source.end - source.start
    if source.path is None:
        return 0
    return remote.size(source.path) if isinstance(source.path, str) else source.path.stat().st_size


def lines_before(source: Source) -> int:
    """For a part of a file, return the number of lines of the file before the part."""
    return sum(chunk.count(b"\n") for chunk in read_bytes(replace(source, start=0, end=source.start)))


@contextmanager
def _unpacked(source: Source) -> Iterator[BinaryIO]:
    """Open a source, and yield a file object that returns unpacked bytes."""
    if source.path is None:
        yield io.BytesIO(_pydoc())
        return
    with _open(source.path) as file:
        yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if _has_gzip_header(file) else file


def _open(path: Path | str) -> BinaryIO:
    """Open a local file or an address for reading bytes."""
    return remote.open_file(path) if isinstance(path, str) else path.open("rb")


def _is_packed(source: Source) -> bool:
    """Return whether a file is packed by gzip. The name of the file does not matter."""
    if source.path is None:
        return False
    with _open(source.path) as file:
        return _has_gzip_header(file)


def _has_gzip_header(file: BinaryIO) -> bool:
    """Return whether a file begins with the bytes of a gzip file, and move the file back to its beginning."""
    header = file.read(len(formats.GZIP))
    file.seek(0)
    return header == formats.GZIP


def _pydoc() -> bytes:
    """Return the language reference that is included in CPython."""
    from pydoc_data.topics import topics  # imported here because it needs 0.5 MB of memory

    return "\n".join(topics[name] for name in sorted(topics)).encode()
