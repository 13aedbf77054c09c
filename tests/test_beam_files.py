"""Shards at addresses, by a file system of Apache Beam; here one that keeps its files in memory."""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from keras_lstmgen.cli.command_line import main
from keras_lstmgen.config import recipe
from keras_lstmgen.config.recipe import Corpus
from keras_lstmgen.data import prepared_corpus, token_cache
from keras_lstmgen.utils.errors import UserError

pytest.importorskip("apache_beam", reason="the extra 'beam' is not installed")
import fsspec
from apache_beam.io.filesystem import FileMetadata, FileSystem

from keras_lstmgen.preparation import partition, pipeline

TEXT = "".join(f"line {number} of a text\n" for number in range(500))


class Written(io.BytesIO):
    """A file that is there once it is closed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def close(self) -> None:
        if not self.closed:
            Shelf.files[self.path] = self.getvalue()
        super().close()


class Shelf(FileSystem):
    """shelf://name, like a store of objects: no folders, only names."""

    files: ClassVar[dict[str, bytes]] = {}

    @classmethod
    def scheme(cls) -> str:
        return "shelf"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        pass

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[Any]:
        return (
            FileMetadata(path, len(data)) for path, data in list(self.files.items()) if path.startswith(dir_or_prefix)
        )

    def create(self, path: str, *_: object, **__: object) -> Any:
        return Written(path)

    def open(self, path: str, *_: object, **__: object) -> Any:
        return io.BytesIO(self.files[path])

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            self.files[destination] = self.files[source]

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        self.copy(source_file_names, destination_file_names)
        self.delete(source_file_names)

    def exists(self, path: str) -> bool:
        return path in self.files

    def size(self, path: str) -> int:
        return len(self.files[path])

    def last_updated(self, path: str) -> float:  # noqa: ARG002
        return 0.0

    def checksum(self, path: str) -> str:  # noqa: ARG002
        return ""

    def metadata(self, path: str) -> Any:
        return FileMetadata(path, len(self.files[path]))

    def delete(self, paths: list[str]) -> None:
        for prefix in paths:
            for path in [path for path in self.files if path == prefix or path.startswith(f"{prefix.rstrip('/')}/")]:
                del self.files[path]


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The files on the shelf: one. The text is in two files in fsspec's memory, the first packed."""
    half, memory = len(TEXT) // 2, fsspec.filesystem("memory")
    memory.pipe_file("/texts/a.txt.gz", gzip.compress(TEXT[:half].encode()))
    memory.pipe_file("/texts/b.txt", TEXT[half:].encode())
    kept = {"shelf://elsewhere/a.txt": b"of somebody else"}
    monkeypatch.setattr(Shelf, "files", kept)
    monkeypatch.setattr(partition, "PART", 1_000)
    yield kept
    memory.rm("/texts", recursive=True)


def asked(*source: str, **values: Any) -> recipe.Recipe:
    named = {f"corpus.{name}": value for name, value in values.items()}
    return recipe.override(recipe.Recipe(), {"corpus.source": list(source), "tokenizer.type": "char"} | named)


def test_shards_at_an_address_are_those_of_a_folder(files: dict[str, bytes], tmp_path: Path) -> None:
    settings = asked("memory://texts/*.txt*")
    assert main(["prepare", *settings.corpus.source, "--output", "shelf://out/ids", "--", *HERE]) == 0
    (tmp_path / "ids").mkdir()
    for path, data in files.items():
        if path.startswith("shelf://out/ids/"):
            (tmp_path / "ids" / path.rpartition("/")[2]).write_bytes(data)
    encoded = prepared_corpus.load(Corpus((str(tmp_path / "ids"),)))
    assert encoded
    own = token_cache.encode(settings, tmp_path / "cache")
    assert encoded.train[:].tolist() == own.train.tolist()
    assert encoded.validation[:].tolist() == own.validation.tolist()
    assert encoded.counts == own.counts
    shards = json.loads(files["shelf://out/ids/prepared.json"])["shards"]
    assert len(shards["train"]) > 3
    assert set(files) == {f"shelf://out/ids/{name}" for name in (
        "prepared.json", "tokenizer.model", *(shard["file"] for side in shards.values() for shard in side)
    )} | {"shelf://elsewhere/a.txt"}  # fmt: skip
    with pytest.raises(UserError, match="exists already"):
        pipeline.prepare(settings, "shelf://out/ids", HERE)


def test_nothing_is_left_at_an_address_where_it_fails(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(files)

    def stop(*_: object) -> None:
        assert set(files) > before  # shards are there by then
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_manifest", stop)
    with pytest.raises(KeyboardInterrupt):
        pipeline.prepare(asked("memory://texts/b.txt"), "shelf://out/ids", HERE)
    assert set(files) == before


HERE = (f"--runner={pipeline.LOCAL}",)
