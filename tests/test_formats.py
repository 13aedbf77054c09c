"""What is not plain text in UTF-8 is recognized by its content, named, and converted by the command that is told."""

import bz2
import gzip
import io
import lzma
import random
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.data import text_reader
from keras_lstmgen.data.text_reader import Source
from keras_lstmgen.files import formats
from keras_lstmgen.utils.errors import UserError

PROSE = "The café by the harbour.\nIt opened at seven, “as ever”.\n" * 50


def zipped(*names: str) -> bytes:
    """Return a ZIP archive of these files, stored in their order."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, "text")
    return data.getvalue()


def office(kind: str) -> bytes:
    """Return what an OpenDocument file or an EPUB book begins with."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("mimetype", kind)
    return data.getvalue()


def tarred() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        member = tarfile.TarInfo("prose.txt")
        member.size = len(PROSE.encode())
        archive.addfile(member, io.BytesIO(PROSE.encode()))
    return data.getvalue()


CONVERTED = {
    "text in UTF-16": PROSE.encode("utf-16"),
    "text in UTF-16 without": PROSE.encode("utf-16-le"),
    "text in UTF-16 without a": PROSE.encode("utf-16-be"),
    "text in UTF-32": PROSE.encode("utf-32"),
    "text in UTF-32 without": PROSE.encode("utf-32-be"),
    "text with CR line endings": PROSE.replace("\n", "\r").encode(),
    "UTF-8 at byte 7; convert it": PROSE.encode("cp1252"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("said", CONVERTED)
def test_the_command_that_is_told_makes_the_text_of_it(tmp_path: Path, said: str, packed: bool) -> None:
    path = tmp_path / ("my book's text.gz" if packed else "my book's text.txt")
    path.write_bytes(gzip.compress(CONVERTED[said]) if packed else CONVERTED[said])
    with pytest.raises(UserError, match=f"text.(txt|gz): (is|not) {said}") as caught:
        list(text_reader.read_text(Source(str(path), path)))
    command = re.search("(gunzip|iconv|tr) .*", str(caught.value))
    assert command, str(caught.value)
    subprocess.run(["bash", "-c", command[0]], check=True)
    assert (tmp_path / "my book's text.utf8.txt").read_text().removeprefix("\ufeff") == PROSE


@pytest.mark.parametrize(
    ("data", "said", "tool"),
    [
        (bz2.compress(PROSE.encode()), "is packed by bzip2", "bunzip2"),
        (lzma.compress(PROSE.encode()), "is packed by xz", "unxz"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "is packed by Zstandard", "unzstd"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "7z x"),
        (tarred(), "is a tar archive", "tar -xf"),
        (gzip.compress(tarred(), mtime=0), "is a tar archive", "tar -xf"),
        (zipped("a.txt", "b.txt"), "is a ZIP archive", "unzip"),
        (zipped("[Content_Types].xml", "word/document.xml"), "is an Office document", "pandoc"),
        (office("application/vnd.oasis.opendocument.text"), "is an OpenDocument file", "pandoc"),
        (office("application/epub+zip"), "is an EPUB book", "pandoc"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF document", "pdftotext"),
        (rb"{\rtf1\ansi The ferry\par}", "is an RTF document", "pandoc"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "is an old Word document", "antiword"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "is a picture", "give text in UTF-8"),
        (gzip.compress(gzip.compress(b"text", mtime=0), mtime=0), "is packed by gzip twice", "gunzip"),
    ],
)  # fmt: skip
def test_a_file_is_recognized_by_its_content_whatever_its_name(
    tmp_path: Path, data: bytes, said: str, tool: str
) -> None:
    for name in ("text.txt", "TEXT.GZ"):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(UserError, match=re.escape(said)) as caught:
            list(text_reader.read_text(Source(name, path)))
        assert tool in str(caught.value)


@pytest.mark.parametrize("suffix", [".bz2", ".xz"])
def test_unpacking_leaves_a_text_that_is_read(tmp_path: Path, suffix: str) -> None:
    if not (shutil.which("bunzip2") and shutil.which("unxz")):
        pytest.skip("there is no bunzip2 or unxz here")
    path = tmp_path / f"text{suffix}"
    path.write_bytes((bz2 if suffix == ".bz2" else lzma).compress(PROSE.encode()))
    with pytest.raises(UserError) as caught:
        list(text_reader.read_text(Source("text", path)))
    subprocess.run(["bash", "-c", str(caught.value).partition("convert it: ")[2]], check=True)
    assert (tmp_path / "text").read_text() == PROSE


@pytest.mark.parametrize("name", ["PROSE.TXT.GZ", "prose.txt", "prose.gz"])
def test_what_gzip_has_packed_is_unpacked_by_its_content_and_only_that(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for data in (gzip.compress(PROSE.encode()), PROSE.encode()):
        path.write_bytes(data)
        source = Source(name, path)
        assert "".join(text_reader.read_text(source)) == PROSE
        assert len(list(text_reader.split(source, 100, b"\n"))) == (1 if data[:2] == formats.GZIP else 25)


@pytest.mark.parametrize(
    "text", ["", "a\r\nb", "one line\r", "a\rb\n", "PK", "BZh1", "II*", "\\rtf", " %PDF-", "\x1b[1mbold"]
)
def test_a_text_that_only_looks_a_little_like_something_else_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    assert "".join(text_reader.read_text(Source("text.txt", path))) == text


def test_eight_bit_text_is_told_from_binary_data() -> None:
    texts = [
        PROSE.encode("cp1252"),
        "Паром\n".encode("koi8-r"),
        "床前明月光\n".encode("gb18030"),
        "渡し\n".encode("sjis"),
    ]
    assert not any(formats.is_binary(data) for data in [*texts, b"", PROSE.encode(), PROSE.encode()[:5], b"\x01 text"])
    assert formats.is_binary(b"text\0")
    assert formats.is_binary(random.Random(0).randbytes(4096).replace(b"\0", b""))


@pytest.mark.parametrize("words", [("train",), ("evaluate", "RUN"), ("inspect", "RUN", "--prompt", "a", "--text")])
def test_every_command_that_reads_texts_names_the_format(
    words: tuple[str, ...], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prose.txt"
    path.write_bytes(PROSE.encode("utf-16"))
    typed = [str(trained) if word == "RUN" else word for word in words]
    assert command_line.main([*typed, str(path), "--runs", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert f"{path}: is text in UTF-16, not text in UTF-8; convert it: iconv -f UTF-16" in said
    assert said.count("\n") == 1
