"""Texts at addresses, by fsspec; here in its file system that keeps files in memory."""

import gzip
import hashlib
import subprocess
import sys
from collections.abc import Iterator

import fsspec
import pytest

from keras_lstmgen.config.recipe import Corpus, Recipe, override
from keras_lstmgen.data import sources, splits, text_reader
from keras_lstmgen.files import remote
from keras_lstmgen.training import input_pipeline
from keras_lstmgen.utils.errors import UserError

TEXT = "".join(f"line {number} of a text\n" for number in range(500))
HALF = TEXT.index("\n", len(TEXT) // 2) + 1
FILES = {"a.txt.gz": gzip.compress(TEXT[:HALF].encode()), "b.txt": TEXT[HALF:].encode(), "below/c.txt": b"another\n"}


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """The text in two files, the first packed, and another file in a folder below."""
    system = fsspec.filesystem("memory")
    for name, data in FILES.items():
        system.pipe_file(f"/texts/{name}", data)
    yield
    system.rm("/texts", recursive=True)


def read(*found: text_reader.Source) -> str:
    return "".join(piece for source in found for piece in text_reader.read_text(source))


def test_text_is_read_at_an_address() -> None:
    [first, second] = sources.resolve(Corpus(("memory://texts/*.txt*",)))
    assert read(first, second) == TEXT
    assert [text_reader.size_of(one) for one in (first, second)] == [len(FILES["a.txt.gz"]), len(FILES["b.txt"])]
    assert not sources.is_available(Corpus(("memory://texts/b.txt",)))


def test_a_file_at_an_address_is_read_in_parts() -> None:
    [source] = sources.resolve(Corpus(("memory://texts/b.txt",)))
    parts = list(text_reader.split(source, 1_000, b"\n"))
    assert len(parts) > 3
    assert read(*parts) == TEXT[HALF:]


def test_the_checksum_of_a_file_at_an_address_is_verified() -> None:
    checksum = hashlib.sha256(FILES["b.txt"]).hexdigest()
    sources.resolve(Corpus(("memory://texts/b.txt",), (checksum,)))
    with pytest.raises(UserError, match="its sha256 is"):
        sources.resolve(Corpus(("memory://texts/b.txt",), ("0" * 64,)))


def test_a_glob_gives_files_alone() -> None:
    assert remote.glob("memory://texts/*") == ["memory:///texts/a.txt.gz", "memory:///texts/b.txt"]
    assert len(remote.glob("memory://texts/**")) == 3


def test_training_reads_an_address_as_it_reads_the_same_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    here = tmp_path_factory.mktemp("here")
    (here / "text.txt").write_text(TEXT)
    ids = []
    for name in ("memory://texts/*.txt*", str(here / "text.txt")):
        settings = override(Recipe(), {"corpus.source": name, "tokenizer.type": "char"})
        encoded = input_pipeline.load(settings, here / "runs").encoded
        ids.append([encoded.train[:].tolist(), encoded.validation[:].tolist()])
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("memory://texts/d*", "there is no such file"),
        ("memory://texts/d.txt", "there is no such file"),
        ("nowhere://a", "cannot be reached .*nowhere"),
        ("zip://a.txt::memory://texts/a.zip", "a chain of file systems"),
    ],
)
def test_addresses_that_lead_nowhere_are_one_line(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        list(splits.pieces(Corpus((address,)), "train"))


def test_a_url_and_a_file_are_no_addresses() -> None:
    assert not any(map(remote.is_address, ("https://example.org/a.txt", "file:///a.txt", "a.txt", "pydoc", "-")))


def test_without_fsspec_the_message_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['fsspec'] = None; from keras_lstmgen.files import remote\n"
        "try: remote.glob('gs://bucket/a.txt')\n"
        "except Exception as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert answer.stdout == "gs://bucket/a.txt: needs fsspec; pip install 'keras_lstmgen[remote]'\n"
