"""Recipes, corpora and tokenizers that somebody else has made: they work, or are refused in one line."""

import gzip
import json
import os
import tomllib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as proto

from export import tokenizer as kit
from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.data import readers, sources, splits, token_cache
from keras_lstmgen.files import downloads
from keras_lstmgen.tokenizers import tokenizer, vocabulary
from keras_lstmgen.utils.errors import UserError
from tests.hostile import HEAVY, LETTERS, TEXTS, VALUES, damaged, refused_or

pytestmark = pytest.mark.slow

QUICKSTART = (Path(__file__).parents[1] / "pipelines/quickstart.toml").read_bytes()
KINDS = sorted({"stream", *readers.READERS})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of all examples lie, one after the other."""
    return tmp_path_factory.mktemp("hostile")


# Recipes


def is_sound(settings: recipe.Recipe) -> None:
    """Whatever was accepted can be written, as TOML and as JSON, and read again."""
    tables = recipe.to_tables(settings)
    json.dumps(tables, allow_nan=False)
    assert recipe.parse(tomllib.loads(recipe.to_toml(settings))) == settings


@given(st.one_of(st.binary(max_size=200), st.text(LETTERS).map(lambda text: text.encode("utf-8", "surrogatepass")),
                 damaged(QUICKSTART)))  # fmt: skip
@example(b"a = " + b"[" * 5000)
@example(b"[training]\nseed = " + b"1" * 5000)
@example(b"[training]\nseed = 0x" + b"f" * 5000)
@example(b"[training]\nlearning_rate = 0x" + b"f" * 300)
@example(b"[training]\nclip_norm = inf")
@example(b"[model]\nunits = [0x" + b"f" * 5000 + b"]")
@example(b'[corpus]\nsource = "a\\u001b[2J\\nb"\nwhat = 1')
def test_any_bytes_are_a_recipe_or_refused(folder: Path, data: bytes) -> None:
    path = folder / "recipe.toml"
    path.write_bytes(data)
    if settings := refused_or(lambda: recipe.load(path)):
        is_sound(settings)


NAMED = st.dictionaries(st.sampled_from(list(recipe.recipe_fields())), VALUES, max_size=6)


@given(NAMED)
@example({"training.minutes": float("inf")})
@example({"export.tokens": 10**30})
@example({"model.units": -1})
def test_any_values_are_a_recipe_or_refused(values: dict[str, Any]) -> None:
    tables: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, key = name.split(".")
        tables.setdefault(section, {})[key] = value
    if settings := refused_or(lambda: recipe.parse(tables)):
        is_sound(settings)


# Corpora


FIELDS = st.lists(st.one_of(st.sampled_from(["text", "1", "2", "0", "9" * 5000]), TEXTS.filter(bool)), max_size=2)
ROWS = st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=20)


@st.composite
def corpora(draw: st.DrawFn) -> bytes:
    """Bytes that look like one kind of a corpus or another."""
    rows = draw(ROWS)
    made = draw(st.sampled_from(["bytes", "lines", "tsv", "csv", "jsonl", "objects"]))
    if made == "bytes":
        return draw(st.binary(max_size=300))
    if made == "objects":
        return b"\n".join(json.dumps({"text": row[0], "1": row[-1]}).encode() for row in rows)
    if made == "jsonl":
        return "\n".join(json.dumps(value, default=str) for value in draw(st.lists(VALUES))).encode()
    sign = {"lines": "\n", "tsv": "\t", "csv": ","}[made]
    quoted = [[f'"{cell}"' if made == "csv" else cell for cell in row] for row in rows]
    return "\n".join(sign.join(row) for row in quoted).encode("utf-8", "surrogatepass")


@st.composite
def settings_of_corpora(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "documents": draw(st.sampled_from(KINDS)),
        "field": tuple(draw(FIELDS)),
        "labels": tuple(draw(st.lists(TEXTS, max_size=1))),
        "normalize": draw(st.sampled_from(["none", "none", "nfc", "nfkc"])),
        "validation_fraction": draw(st.sampled_from([0.1, 0.5])),
    }


def written(folder: Path, data: bytes, packed: str) -> Path:
    """A file of these bytes, as they are, packed, or packed and then damaged."""
    path = folder / ("text.gz" if packed else "text.txt")
    path.write_bytes(gzip.compress(data, 1, mtime=0)[: -5 if packed == "cut" else None] if packed else data)
    return path


PACKED = st.sampled_from(["", "", "whole", "cut"])


@given(corpora(), settings_of_corpora(), PACKED)
@example(b'{"text": "\\ud800"}\n' * 20, {"documents": "jsonl", "field": ("text",)}, "")
@example(b'{"text": "\\u0000"}\n' * 20, {"documents": "jsonl", "field": ("text",)}, "")
@example(b"a,b\n" * 20, {"documents": "csv", "field": ("9" * 5000,)}, "")
def test_any_bytes_are_a_corpus_of_any_kind_or_refused(
    folder: Path, data: bytes, values: dict[str, Any], packed: str
) -> None:
    given_ = {f"corpus.{name}": value for name, value in values.items()}
    path = written(folder, data, packed)
    settings = refused_or(lambda: recipe.override(recipe.Recipe(), {"corpus.source": [str(path)], **given_}))
    if settings is None:
        return
    for split in token_cache.SPLITS:
        texts = refused_or(lambda split=split: list(splits.pieces(settings.corpus, split)))  # type: ignore[misc]
        assert texts is None or all(text and text.encode() for text in texts)
    refused_or(lambda: splits.fingerprint(settings.corpus))


@HEAVY
@given(corpora(), settings_of_corpora(), st.sampled_from(["char", "word", "bpe", "unigram"]))
def test_any_corpus_that_is_read_is_encoded_and_comes_back_as_it_was(
    folder: Path, data: bytes, values: dict[str, Any], kind: str
) -> None:
    given_ = {f"corpus.{name}": value for name, value in values.items()} | {"tokenizer.type": kind}
    path = written(folder, data * 3, "")
    settings = refused_or(lambda: recipe.override(recipe.Recipe(), {"corpus.source": [str(path)], **given_}))
    found = settings and refused_or(lambda: token_cache.encode(settings, folder / "cache"))
    if found and settings.corpus.documents == "stream" and kind != "word":
        text = "".join(splits.pieces(settings.corpus, "train"))
        assert found.tokenizer.decode(found.train) == text.replace("▁", " ")


@pytest.mark.parametrize("name", ["a\0b", "~nobody-has-this-name/x", "[", "http://a\0b/c", "https://[", "", "x" * 300])
def test_any_name_of_a_source_is_found_or_refused(name: str, tmp_path: Path, capsys: Any) -> None:
    assert command_line.main(["train", name, "--runs", str(tmp_path), "--corpus.sha256", "0" * 64]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_checksum_that_is_a_path_makes_nothing_outside_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "_download", lambda *_: _[-1].write_bytes(b"text"))
    with pytest.raises(UserError, match=r"needs its checksum"):
        sources.resolve(recipe.Corpus(source=("http://127.0.0.1:9/x",), sha256=("../../../outside",)))
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_in_a_folder_of_texts_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    os.mkfifo(tmp_path / "b.txt")
    (tmp_path / "c.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "d.txt").symlink_to("/dev/zero")
    (found,) = sources.resolve(recipe.Corpus(source=(str(tmp_path),)))
    assert found.path == tmp_path / "a.txt"


# A few kilobytes that unpack to 100 MB, where a reader may hold a document of a million characters, not of 16.
BOMB, LONGEST = 100, 1 << 20
PATTERNS: dict[str, bytes] = {
    "stream": b"a\n", "lines": b"a", "files": b"a", "blocks": b"a\n", "jsonl": b"[", "pairs": b"a\tb", "tsv": b"a\t",
    "csv": b'"\n",',
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_of_gzip_takes_bounded_memory(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert readers.LONGEST == readers.LONGEST_FIELD == 16 * LONGEST
    monkeypatch.setattr(readers, "LONGEST", LONGEST)
    monkeypatch.setattr(readers, "LONGEST_FIELD", LONGEST)
    path = folder / "bomb.gz"
    path.write_bytes(gzip.compress(PATTERNS[kind] * ((1 << 20) // len(PATTERNS[kind])), 1) * BOMB)
    assert path.stat().st_size < 1_000_000
    fields = ("1",) if kind in ("jsonl", "csv", "tsv") else ()
    settings = recipe.Corpus(source=(str(path),), documents=kind, field=fields, validation=(str(path),))
    tracemalloc.start()
    try:
        if kind == "stream":
            assert sum(map(len, splits.pieces(settings, "train"))) == BOMB << 20
        else:
            with pytest.raises(UserError, match=r"bomb\.gz: a document has more than 1,048,576 characters"):
                sum(map(len, splits.pieces(settings, "train")))
        assert tracemalloc.get_traced_memory()[1] < 80e6
    finally:
        tracemalloc.stop()


# Tokenizers


def models() -> dict[str, bytes]:
    def texts() -> Iterator[str]:
        yield "the cat sat on the mat, 床前明月光\n" * 30

    return {kind: vocabulary.train(recipe.Tokenizer(type=kind), texts) for kind in ("char", "word", "bpe", "unigram")}


MODELS = models()


def works(model: bytes) -> None:
    """A tokenizer that opens goes from text to ids and back."""
    opened = tokenizer.Tokenizer(model)
    for text in ("the cat 床 \0\n", "", "▁ <s>"):
        ids = opened.encode(text)
        assert all(0 <= token < opened.vocab_size for token in ids)
        opened.decode(ids).encode()
    opened.decode(range(opened.vocab_size)).encode()


def works_in_the_kit(model: bytes) -> None:
    """The same of the reader that clients have, which knows ValueError alone."""
    try:
        opened = kit.read(model)
    except ValueError:
        return
    for text in ("the cat 床 \0\n", "", "▁ <s>"):
        kit.decode(opened, kit.encode(opened, text)).encode()
    kit.decode(opened, range(len(opened.pieces))).encode()


@given(st.one_of(st.binary(max_size=300), st.sampled_from(sorted(MODELS)).flatmap(lambda name: damaged(MODELS[name]))))
@example(b"\xff" * 100_000)
@example(MODELS["word"].replace("▁cat".encode(), b"\xe2\x96\x81\xffat"))
def test_any_bytes_are_a_tokenizer_or_refused(data: bytes) -> None:
    refused_or(lambda: works(data))
    works_in_the_kit(data)


PIECES = st.tuples(st.integers(0, 300), st.sampled_from(["piece", "score", "type", "delete", "double"]),
                   st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.floats(width=32),
                   st.integers(1, 6))  # fmt: skip


@given(
    st.sampled_from(sorted(MODELS)), st.lists(PIECES, max_size=4), st.sampled_from(["", "type", "map", "bytes", "size"])
)
@example("char", [(10, "piece", "<0xZZ>", 0.0, 6)], "")
@example("char", [(10, "delete", "", 0.0, 6)], "size")
@example("unigram", [(270, "score", "", float("nan"), 1), (271, "score", "", 3e38, 1)], "")
def test_a_model_of_other_pieces_and_rules_is_a_tokenizer_or_refused(
    name: str, changes: list[tuple[int, str, str, float, int]], rule: str
) -> None:
    model = proto.ModelProto.FromString(MODELS[name])
    for place, what, text, score, kind in changes:
        piece = model.pieces[place % len(model.pieces)]
        if what == "delete":
            del model.pieces[place % len(model.pieces)]
        elif what == "double":
            model.pieces.add().CopyFrom(piece)
        else:
            setattr(piece, what, {"piece": text, "score": score, "type": kind}[what])
    if rule == "type":
        model.trainer_spec.model_type = 1 + (model.trainer_spec.model_type % 4)
    elif rule == "map":
        model.normalizer_spec.precompiled_charsmap = b"\1\0\0\0" + b"\xff" * 64
    elif rule == "bytes":
        model.trainer_spec.byte_fallback = not model.trainer_spec.byte_fallback
    elif rule == "size":
        model.trainer_spec.vocab_size = len(model.pieces)
    refused_or(lambda: works(model.SerializeToString()))
    works_in_the_kit(model.SerializeToString())
