"""Recognize a file that is not plain text by its first bytes, whatever its name, and name the command that converts it.

Text in another encoding than UTF-8, or with old line endings, is told apart from what holds no text by itself: nobody
wants such a text to be left out.
"""

import re
from pathlib import Path
from typing import NamedTuple

from keras_lstmgen.utils.errors import shell_quoted

HEAD = 1 << 12  # bytes that are enough to recognize any format
GZIP = b"\x1f\x8b"  # the only format that is unpacked while reading
PANDOC = "pandoc --to plain --output {text} {file}"
ICONV = "iconv -f {name} -t UTF-8 {{file}} > {{text}}"
CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # bytes that no encoding of eight bits has in a text


class Format(NamedTuple):
    """What a file is: its name with an article, and a command of ``{file}`` and ``{text}``, "" where there is none."""

    name: str
    command: str = ""
    is_text: bool = False


def _iconv(encoding: str, name: str = "") -> Format:
    return Format(f"text in {name or encoding}", ICONV.format(name=encoding), is_text=True)


WINDOWS = ICONV.format(name="WINDOWS-1252")
CR_LINE_ENDINGS = Format("text with CR line endings, of old Macs", "tr '\\r' '\\n' < {file} > {text}", is_text=True)
FORMATS: tuple[tuple[bytes, Format], ...] = (
    (rb"\xff\xfe\0\0|\0\0\xfe\xff", _iconv("UTF-32")),
    (rb"\xff\xfe|\xfe\xff", _iconv("UTF-16")),
    (rb"(?:[\t\n\r -~]\0\0\0){4}", _iconv("UTF-32LE", "UTF-32 without a byte order mark")),
    (rb"(?:\0\0\0[\t\n\r -~]){4}", _iconv("UTF-32BE", "UTF-32 without a byte order mark")),
    (rb"(?:[\t\n\r -~]\0){6}", _iconv("UTF-16LE", "UTF-16 without a byte order mark")),
    (rb"(?:\0[\t\n\r -~]){6}", _iconv("UTF-16BE", "UTF-16 without a byte order mark")),
    (rb"PK\x03\x04.{26}mimetypeapplication/epub", Format("an EPUB book", PANDOC)),
    (rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis", Format("an OpenDocument file", PANDOC)),
    (rb"PK\x03\x04.*(?:\[Content_Types\]\.xml|word/)", Format("an Office document", PANDOC)),
    (rb"PK(?:\x03\x04|\x05\x06)", Format("a ZIP archive", "unzip {file}")),
    (rb"BZh[1-9]1AY&SY", Format("packed by bzip2", "bunzip2 --keep {file}")),
    (rb"\xfd7zXZ\0", Format("packed by xz", "unxz --keep {file}")),
    (rb"\x28\xb5\x2f\xfd", Format("packed by Zstandard", "unzstd {file}")),
    (rb"\x04\x22\x4d\x18", Format("packed by LZ4", "unlz4 {file}")),
    (rb"\x1f\x9d", Format("packed by compress", "uncompress -k {file}")),
    (re.escape(GZIP), Format("packed by gzip twice", "gunzip -c {file} > {text}")),
    (rb"7z\xbc\xaf\x27\x1c", Format("a 7z archive", "7z x {file}")),
    (rb"Rar!\x1a\x07", Format("a RAR archive", "unrar x {file}")),
    (rb".{257}ustar", Format("a tar archive", "tar -xf {file}")),
    (rb"%PDF-", Format("a PDF document", "pdftotext {file} {text}")),
    (rb"\{\\rtf", Format("an RTF document", PANDOC)),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Format("an old Word document", "antiword {file} > {text}")),
    (rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|II\*\0|MM\0\*", Format("a picture")),
    (rb"SQLite format 3\0", Format("an SQLite database")),
)


def recognize(head: bytes) -> Format | None:
    """Return the format of a file that begins with these bytes; None for UTF-8, and for what is not known."""
    return next((found for mark, found in FORMATS if re.match(mark, head[:HEAD], re.DOTALL)), None)


def has_cr_line_endings(text: str) -> bool:
    r"""Return whether a text that goes on ends its lines with "\r" alone."""
    return "\n" not in text and "\r" in text[:-1]  # the last may be half of "\r\n"


def is_binary(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is text in no encoding of eight bits, nor in UTF-8."""
    if b"\0" in head or not CONTROL.search(head):
        return b"\0" in head
    try:
        head[:-3].decode()  # its last character may be cut
    except UnicodeDecodeError as error:
        return error.start < len(head) - 6
    return False


def fill_command(command: str, path: Path | str | None, is_packed: bool) -> str:
    """Return the command of a format for a file; one that is packed by gzip is unpacked first."""
    file = Path(path or "TEXT")
    unpacked = file.with_suffix("") if file.suffix.lower() == ".gz" else file.with_name(f"{file.name}.unpacked")
    words = f"gunzip -c {shell_quoted(file)} > {shell_quoted(unpacked)} && " if is_packed else ""
    file = unpacked if is_packed else file
    text = file.with_name(f"{file.stem}.utf8.txt")
    return f"{words}{command.format(file=shell_quoted(file), text=shell_quoted(text))}"
