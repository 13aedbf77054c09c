"""Recognize the formats of files that are not UTF-8 text, and return shell commands that convert the files.

``Format.is_text`` is true for text in another encoding or with CR line endings, and false for other formats, such as
pictures. In a folder of texts, a text in another encoding causes an error, but a picture is skipped.
"""

import re
from pathlib import Path
from typing import NamedTuple

from keras_lstmgen.utils.errors import shell_quoted

HEADER = 1 << 12  # number of first bytes of a file that are compared with the patterns
GZIP = b"\x1f\x8b"  # first bytes of a gzip file; the readers unpack only this format
PANDOC = "pandoc --to plain --output {text} {file}"
ICONV = "iconv -f {name} -t UTF-8 {{file}} > {{text}}"
CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # bytes that do not occur in text of any 8-bit encoding


class Format(NamedTuple):
    """A file format.

    Attributes:
        name: description that completes "the file is …" in messages.
        command: shell command that converts ``{file}`` to ``{text}``, or "" if no command is known.
        is_text: whether the file is text in another encoding or with CR line endings.
    """

    name: str
    command: str = ""
    is_text: bool = False


def _iconv(encoding: str, name: str = "") -> Format:
    """Return the format of text in an encoding; if ``name`` is given, messages contain it instead of the encoding."""
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
    """Recognize the format of a file by its first bytes.

    Args:
        head: the first bytes of the file; at most 4096 are used.

    Returns:
        The format; None for UTF-8 text and unknown formats.

    >>> recognize(b"%PDF-1.7").name
    'a PDF document'
    """
    return next((format_ for pattern, format_ in FORMATS if re.match(pattern, head[:HEADER], re.DOTALL)), None)


def has_cr_line_endings(text: str) -> bool:
    r"""Return whether a text uses CR line endings: "\r" without "\n", as on old Macs.

    Args:
        text: the beginning of the text.

    >>> has_cr_line_endings("one\rtwo\r"), has_cr_line_endings("one\r\ntwo")
    (True, False)
    """
    return "\n" not in text and "\r" in text[:-1]  # a final "\r" may be the first half of "\r\n"


def is_binary(head: bytes) -> bool:
    """Return whether a file is neither UTF-8 text nor text in an 8-bit encoding.

    Args:
        head: the first bytes of the file.

    >>> is_binary(b"\\x00\\x01"), is_binary(b"caf\\xe9")
    (True, False)
    """
    if b"\0" in head or not CONTROL.search(head):
        return b"\0" in head
    try:
        head[:-3].decode()  # the last character may be incomplete
    except UnicodeDecodeError as error:
        return error.start < len(head) - 6
    return False


def fill_command(command: str, path: Path | str | None, is_packed: bool) -> str:
    """Return the shell command that converts a file to text.

    Args:
        command: the command of a ``Format``, with the placeholders ``{file}`` and ``{text}``.
        path: the file; None if it has no name, such as standard input.
        is_packed: whether the file is packed by gzip. The returned command then unpacks it first.
    """
    file = Path(path or "TEXT")
    unpacked = file.with_suffix("") if file.suffix.lower() == ".gz" else file.with_name(f"{file.name}.unpacked")
    unpack = f"gunzip -c {shell_quoted(file)} > {shell_quoted(unpacked)} && " if is_packed else ""
    file = unpacked if is_packed else file
    text = file.with_name(f"{file.stem}.utf8.txt")
    return f"{unpack}{command.format(file=shell_quoted(file), text=shell_quoted(text))}"
