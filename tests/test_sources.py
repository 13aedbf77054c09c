"""Sources: every way to name a text gives it back exactly, in pieces, or one clear line of what is wrong."""

import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_lstmgen.config.recipe import Corpus
from keras_lstmgen.data import sources, text_reader
from keras_lstmgen.data.text_reader import Source
from keras_lstmgen.files import spooling
from keras_lstmgen.files.formats import has_cr_line_endings
from keras_lstmgen.utils.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and no folder of data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KERAS_LSTMGEN_DATA", raising=False)
    return tmp_path


def read(*entries: str | Path, sha256: tuple[str, ...] = ()) -> str:
    found = sources.resolve(Corpus(source=tuple(map(str, entries)), sha256=sha256))
    return "".join(piece for source in found for piece in text_reader.read_text(source))


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_pydoc_is_half_a_megabyte_of_the_language_reference_and_the_same_on_each_call() -> None:
    text = read("pydoc")
    assert 300_000 < len(text) < 2_000_000
    assert 'The "with" statement\n********************' in text
    assert read("pydoc") == text


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_file_is_read_exactly(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    assume(not has_cr_line_endings(text))
    path = write(tmp_path_factory.mktemp("exact") / "text.txt", text)
    assert read(path) == text.removeprefix("\ufeff")


def test_line_ends_stay_as_they_are_and_only_the_first_byte_order_mark_is_dropped(home: Path) -> None:
    path = write(home / "windows.txt", "\ufeffone\r\ntwo\rthree\u2028\ufeff")
    assert read(path) == "one\r\ntwo\rthree\u2028\ufeff"
    assert read(write(path, "x" * text_reader.CHUNK + "\ufeff")) == "x" * text_reader.CHUNK + "\ufeff"


@pytest.mark.parametrize("shift", range(4))
def test_characters_that_lie_across_two_pieces_are_whole(home: Path, shift: int) -> None:
    text = "x" * shift + "🎉" * text_reader.CHUNK
    path = write(home / "emoji.txt", text)
    assert read(path) == text
    assert max(map(len, text_reader.read_text(text_reader.Source("emoji", path)))) <= text_reader.CHUNK


def test_several_sources_keep_their_order(home: Path) -> None:
    assert read(write(home / "b", "B"), write(home / "a", "A"), home / "b") == "BAB"


def test_a_glob_is_sorted(home: Path) -> None:
    for name in ("c.txt", "a.txt", "deep/b.txt", "no.md"):
        write(home / "texts" / name, name)
    assert read(home / "texts" / "*.txt") == "a.txtc.txt"
    assert read(home / "texts" / "**" / "*.txt") == "a.txtc.txtdeep/b.txt"


def test_a_folder_gives_its_texts_sorted_without_hidden_and_binary_files(home: Path) -> None:
    for name in ("z.txt", "a/y.txt", ".hidden.txt", ".git/x.txt"):
        write(home / "texts" / name, name)
    write(home / "texts" / "picture.png", b"\x89PNG\0\0")
    write(home / "texts" / "packed.gz", gzip.compress(b"packed"))
    assert read(home / "texts") == "a/y.txtpackedz.txt"


def test_a_folder_without_text_is_an_error(home: Path) -> None:
    write(home / "texts" / ".hidden", "x")
    write(home / "texts" / "binary", b"\0")
    with pytest.raises(UserError, match="texts: the folder contains no text file"):
        read(home / "texts")


def test_gz_is_unpacked_while_reading(home: Path) -> None:
    text = "ähnlich\n" * 50_000
    assert read(write(home / "text.gz", gzip.compress(text.encode()))) == text


@pytest.mark.parametrize("damage", ["cut", "garbled"])
def test_a_gz_that_is_not_whole_is_an_error(home: Path, damage: str) -> None:
    packed = gzip.compress(os.urandom(1000).hex().encode())
    garbled = packed[:200] + bytes(100) + packed[300:]
    data = {"cut": packed[:-20], "garbled": garbled}[damage]
    with pytest.raises(UserError, match=r"text\.gz: incomplete or damaged \.gz file"):
        read(write(home / "text.gz", data))


@pytest.mark.parametrize(
    ("data", "byte"),
    [
        (b"\xff", 0),
        (b"caf\xe9 au lait", 3),
        (b"\xef\xbb\xbfabc\x80", 6),
        (b"x" * (text_reader.CHUNK - 1) + b"\xe2\x82!", text_reader.CHUNK - 1),
        (b"x" * text_reader.CHUNK + b"\xff", text_reader.CHUNK),
        (b"ends in half a sign \xe2\x82", 20),
    ],
)
def test_text_that_is_not_utf8_is_an_error_that_says_the_byte(home: Path, data: bytes, byte: int) -> None:
    with pytest.raises(UserError, match=rf"text\.txt: not UTF-8 at byte {byte}; convert it with iconv"):
        read(write(home / "text.txt", data))


@pytest.mark.parametrize("byte", [0, 7, text_reader.CHUNK + 5])
def test_a_binary_file_is_an_error_that_says_the_byte(home: Path, byte: int) -> None:
    with pytest.raises(UserError, match=rf"blob: binary file \(NUL at byte {byte}\)"):
        read(write(home / "blob", b"x" * byte + b"\0\xff"))


def test_what_is_not_there_is_an_error(home: Path) -> None:
    for entry in (home / "missing.txt", home / "*.none"):
        with pytest.raises(UserError, match="no file, folder or glob match"):
            read(entry)


def test_a_file_that_cannot_be_read_is_an_error(home: Path) -> None:
    path = write(home / "text.txt", "x")
    source = sources.resolve(Corpus(source=(str(path),)))[0]
    path.unlink()
    with pytest.raises(UserError, match=r"text\.txt: cannot be read \(No such file"):
        list(text_reader.read_text(source))


def test_a_wrong_sha256_is_an_error_with_both_sums(home: Path) -> None:
    path = write(home / "text.txt", "right")
    wrong = sum_of(b"wrong")
    assert read(path, sha256=(sum_of(b"right").upper(),)) == "right"
    with pytest.raises(UserError, match=f"text.txt: its sha256 is {sum_of(b'right')}, not {wrong}"):
        read(path, sha256=(wrong,))


def test_a_file_that_changes_is_hashed_again(home: Path) -> None:
    path = write(home / "text.txt", "right")
    assert read(path, sha256=(sum_of(b"right"),)) == "right"
    write(path, "left!!")
    with pytest.raises(UserError, match=sum_of(b"left!!")):
        read(path, sha256=(sum_of(b"right"),))


def test_a_sha256_for_a_folder_is_an_error_and_an_empty_one_is_none(home: Path) -> None:
    write(home / "texts" / "a", "A")
    write(home / "texts" / "b", "B")
    assert read(home / "texts", home / "texts" / "b", sha256=("", sum_of(b"B"))) == "ABB"
    with pytest.raises(UserError, match="this source has 2; give ''"):
        read(home / "texts", sha256=("0" * 64,))


class TestDataFolder:
    @pytest.fixture(autouse=True)
    def shelf(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in ("one/input.txt", "two/input.txt", "two/only.txt"):
            write(home / "shelf" / name, name)
        monkeypatch.setenv("KERAS_LSTMGEN_DATA", str(home / "shelf"))
        return home / "shelf"

    def test_is_searched_by_name_path_glob_and_folder(self) -> None:
        assert read("only.txt") == "two/only.txt"
        assert read("elsewhere/only.txt") == "two/only.txt"
        assert read("one/input.txt") == "one/input.txt"
        assert read("*/input.txt") == "one/input.txttwo/input.txt"
        assert read("two") == "two/input.txttwo/only.txt"

    def test_a_path_that_exists_is_used_itself(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(home)
        write(home / "only.txt", "here")
        assert read("only.txt") == "here"

    def test_a_name_that_several_files_bear_is_decided_by_sha256_or_an_error(self) -> None:
        assert read("input.txt", sha256=(sum_of(b"two/input.txt"),)) == "two/input.txt"
        with pytest.raises(UserError, match=r"input\.txt: 2 files have this name .* give more of the path"):
            read("input.txt")

    def test_a_file_of_another_name_is_found_by_its_sha256(self) -> None:
        assert read("shakespeare.txt", sha256=(sum_of(b"one/input.txt"),)) == "one/input.txt"

    def test_a_sha256_that_no_file_has_is_an_error_with_both_sums(self) -> None:
        with pytest.raises(UserError, match=f"{sum_of(b'two/only.txt')}, not {'0' * 64}"):
            read("only.txt", sha256=("0" * 64,))

    def test_saves_a_download(self) -> None:
        url = "http://nowhere.invalid/two/renamed.txt"
        assert read(url, sha256=(sum_of(b"two/only.txt"),)) == "two/only.txt"


class Server(http.server.ThreadingHTTPServer):
    asked: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        text = b"a text from far away\n" * 10_000
        self.send_response(200 if self.path.endswith(".txt") else 404)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[: 50_000 if "cut" in self.path else None])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestDownload:
    TEXT = "a text from far away\n" * 10_000

    def url(self, server: Server, name: str = "far.txt") -> str:
        return f"http://127.0.0.1:{server.server_port}/folder/{name}"

    def test_is_kept_in_the_cache_folder_and_fetched_once(self, home: Path, server: Server) -> None:
        checksum = sum_of(self.TEXT.encode())
        for _ in range(3):
            assert read(self.url(server), sha256=(checksum,)) == self.TEXT
        assert server.asked == ["/folder/far.txt"]
        kept = [path.name for path in (home / "cache" / "keras_lstmgen").iterdir()]
        assert kept == [f"{checksum[:16]}-far.txt"]

    def test_a_damaged_file_in_the_cache_is_fetched_again(self, home: Path, server: Server) -> None:
        checksum = sum_of(self.TEXT.encode())
        write(home / "cache" / "keras_lstmgen" / f"{checksum[:16]}-far.txt", "half")
        assert read(self.url(server), sha256=(checksum,)) == self.TEXT

    @pytest.mark.parametrize("name", ["far.txt", "cut.txt"])
    def test_with_a_wrong_sha256_or_cut_short_is_an_error_and_leaves_nothing(
        self, home: Path, server: Server, name: str
    ) -> None:
        said = {
            "far.txt": r"SHA256 hash of downloaded file .* expected sha256:0{64} but got [0-9a-f]{64}; correct",
            "cut.txt": r"cannot be downloaded \(.*50000 bytes read, 160000 more expected.*\); check the address",
        }[name]
        with pytest.raises(UserError, match=said):
            read(self.url(server, name), sha256=("0" * 64,))
        assert list((home / "cache" / "keras_lstmgen").iterdir()) == []

    def test_without_a_sha256_is_an_error_that_says_how_to_get_it(self) -> None:
        with pytest.raises(UserError, match=r"curl -L https://nowhere\.invalid/x\.txt \| sha256sum"):
            read("https://nowhere.invalid/x.txt")

    def test_that_fails_is_an_error(self, server: Server) -> None:
        for url in (self.url(server, "missing"), "http://127.0.0.1:1/x.txt", "http://[/x.txt"):
            with pytest.raises(UserError, match=r"cannot be downloaded .*; check the address"):
                read(url, sha256=("0" * 64,))


def test_standard_input_is_read_once_and_kept_for_every_pass(home: Path) -> None:
    code = (
        "from keras_lstmgen.config import recipe; from keras_lstmgen.data import sources, text_reader\n"
        "for _ in range(2):\n"
        "    [source] = sources.resolve(recipe.Corpus(source=('-',)))\n"
        "    print(len(''.join(text_reader.read_text(source))), source.path.name)\n"
    )
    text = "über\n" * 40_000
    answer = subprocess.run([sys.executable, "-c", code], input=text.encode(), capture_output=True, check=True)
    name = f"{sum_of(text.encode())[:16]}-stdin"
    assert answer.stdout.decode().splitlines() == [f"{len(text)} {name}"] * 2
    assert (home / "cache" / "keras_lstmgen" / name).read_text() == text


@pytest.fixture
def pipe(home: Path) -> Iterator[str]:
    """A named pipe into which another process writes once."""
    os.mkfifo(home / "pipe.txt")
    with subprocess.Popen(["bash", "-c", 'echo "über" > "$0"', home / "pipe.txt"]) as writer:
        yield str(home / "pipe.txt")
        writer.kill()


def test_a_named_pipe_is_read_once_and_kept_for_every_pass(pipe: str) -> None:
    assert [read(pipe), read(pipe)] == ["über\n"] * 2
    kept = sources.spool(Corpus(source=("a.txt", pipe), validation=(pipe,)))
    assert kept.source[0] == "a.txt"
    assert kept.source[1:] == kept.validation
    assert Path(kept.source[1]).read_text() == "über\n"
    assert not sources.is_available(Corpus(source=(pipe,)))


@pytest.mark.parametrize(
    "name", ["-", "/dev/stdin", "/dev/fd/0", "/dev/fd/99999", "/proc/self/fd/99999", "/dev/null", "/dev/zero"]
)
def test_what_is_no_file_is_known_to_be_read_once_and_a_device_is_refused(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spooling.is_read_once(name)
    assert not spooling.is_read_once(str(home))
    assert not spooling.is_read_once(str(write(home / "a.txt", "a")))
    assert not spooling.is_read_once(str(home / "none.txt"))
    monkeypatch.setattr(sys, "stdin", None)
    spooling.spool.cache_clear()
    with pytest.raises(UserError, match=r"standard input is closed|cannot be opened here|is a device, not a text"):
        read(name)


@given(text=st.lists(st.sampled_from(["a", "bc", "é", "\n", "\n\n"])), size=st.integers(1, 20), piece=st.integers(1, 5))
@pytest.mark.parametrize("mark", [b"\n", b"\n\n"])
def test_parts_end_behind_the_first_mark_after_their_size_and_lose_nothing(
    tmp_path_factory: pytest.TempPathFactory, mark: bytes, text: list[str], size: int, piece: int
) -> None:
    data = "".join(text).encode()
    path = tmp_path_factory.mktemp("parts") / "text.txt"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_reader, "CHUNK", piece)
        parts = list(text_reader.split(Source("text", path), size, mark))
        assert b"".join(chunk for part in parts for chunk in text_reader.read_bytes(part)) == data
        assert [text_reader.lines_before(part) for part in parts] == [data[: part.start].count(b"\n") for part in parts]
    for part in parts[:-1]:
        ends = [end for end in range(part.start + size, len(data) + 1) if data[:end].endswith(mark)]
        assert part.end == ends[0]


def test_what_is_packed_or_empty_is_one_part(tmp_path: Path) -> None:
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"a\nb\n" * 99))
    (tmp_path / "empty.txt").touch()
    for text in (Source("packed", tmp_path / "text.gz"), Source("empty", tmp_path / "empty.txt"), Source("p", None)):
        assert list(text_reader.split(text, 3, b"\n")) == [text]
