"""Encoding: a corpus becomes ids once, whole or not at all, in bounded memory; reused while unchanged."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from keras_lstmgen.config.recipe import Corpus, Recipe, Tokenizer
from keras_lstmgen.data import token_cache
from keras_lstmgen.data.splits import pieces
from keras_lstmgen.data.token_cache import encode
from keras_lstmgen.utils.errors import UserError

KINDS = ("char", "word", "bpe", "unigram")
DOCUMENTS = "".join(f"the {number % 90} documents\nof {number}, naïve\n\n" for number in range(400))


def recipe(folder: Path, text: str = DOCUMENTS, kind: str = "char", vocab_size: int = 0, **corpus: object) -> Recipe:
    (folder / "text.txt").write_text(text, encoding="utf-8", newline="")
    settings = replace(Corpus(source=(str(folder / "text.txt"),)), **corpus)  # type: ignore[arg-type]
    return Recipe(corpus=settings, tokenizer=Tokenizer(type=kind, vocab_size=vocab_size))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_encoded_as_it_is(tmp_path: Path, cache: Path, kind: str) -> None:
    settings = recipe(tmp_path, kind=kind)
    encoded = encode(settings, cache)
    cut = int(len(DOCUMENTS) * 0.9)
    for ids, text in ((encoded.train, DOCUMENTS[:cut]), (encoded.validation, DOCUMENTS[cut:])):
        assert ids.tolist() == encoded.tokenizer.encode(text).tolist()
        if kind != "word":
            assert encoded.tokenizer.decode(ids) == text
    assert encoded.start_id == encoded.tokenizer.newline_id


@pytest.mark.parametrize("kind", KINDS)
def test_documents_stand_between_start_and_end_symbols(tmp_path: Path, cache: Path, kind: str) -> None:
    settings = recipe(tmp_path, kind=kind, documents="blocks")
    encoded = encode(settings, cache)
    tokens = encoded.tokenizer
    for ids, split in ((encoded.train, token_cache.SPLITS[0]), (encoded.validation, token_cache.SPLITS[1])):
        expected = [[1, *tokens.encode(text).tolist(), 2] for text in pieces(settings.corpus, split)]
        assert len(expected) > 20
        assert ids.tolist() == [token for document in expected for token in document]
    assert (encoded.start_id, encoded.end_id) == (tokens.start_id, tokens.end_id) == (1, 2)


def made(cache: Path) -> list[Path]:
    """What is in the cache, beside the empty files by which two processes wait for each other."""
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_a_long_stream_in_pieces_gives_the_ids_of_the_whole(tmp_path: Path, cache: Path) -> None:
    text = "".join(f"    line {number} of a text that takes several pieces\n" for number in range(8000))
    encoded = encode(recipe(tmp_path, text, kind="unigram", vocab_size=60), cache)
    assert encoded.train.tolist() == encoded.tokenizer.encode(text[: int(len(text) * 0.9)]).tolist()


def test_ids_are_read_only_maps_of_the_files(tmp_path: Path, cache: Path) -> None:
    encoded = encode(recipe(tmp_path), cache)
    assert isinstance(encoded.train, np.memmap)
    assert not encoded.train.flags.writeable
    [folder] = made(cache)
    assert sorted(path.name for path in folder.iterdir()) == [
        "encoding.json", "tokenizer.model", "train.ids", "validation.ids"
    ]  # fmt: skip
    assert len(folder.name) == 16
    assert (folder / "train.ids").read_bytes() == np.asarray(encoded.train).astype("<u2").tobytes()


def test_a_vocabulary_beyond_65536_takes_four_bytes_an_id(tmp_path: Path, cache: Path) -> None:
    text = " ".join(f"w{number}" for number in range(80_000))
    encoded = encode(recipe(tmp_path, text, kind="word", vocab_size=100_000), cache)
    assert encoded.tokenizer.vocab_size > 1 << 16
    assert encoded.train.dtype == np.int32
    assert encoded.train.max() == encoded.tokenizer.vocab_size - 1


def test_counts_are_those_of_the_text(tmp_path: Path, cache: Path) -> None:
    text = "a naïve a\n" * 9 + "b  naïve\n"
    encoded = encode(recipe(tmp_path, text, kind="word", documents="lines", validation_fraction=0.5), cache)
    corpus = recipe(tmp_path, text, documents="lines", validation_fraction=0.5).corpus
    sides = {split: list(pieces(corpus, split)) for split in token_cache.SPLITS}
    assert sorted(map(len, sides.values())) == [1, 9]
    for split, texts in sides.items():
        known = {b"": 0} | {word: 1 for text in sides["train"] for word in text.split()}
        assert encoded.counts[split] == {
            "characters": sum(map(len, texts)),
            "bytes": sum(len(text.encode()) for text in texts),
            "words": sum(len(text.split()) for text in texts),
            "documents": len(texts),
            "tokens": len(encoded.train if split == "train" else encoded.validation),
            "unknown": int(np.count_nonzero((encoded.train if split == "train" else encoded.validation) == 0)),
        }
        assert (encoded.counts[split]["unknown"] > 0) == any(word not in known for t in texts for word in t.split())


def test_each_chinese_character_counts_as_a_word(tmp_path: Path, cache: Path) -> None:
    """There is no white space between its words; a line would be one word otherwise, and its perplexity astronomic."""
    counts = encode(
        recipe(tmp_path, "床前明月光，\nthe moon 月\u3000naïve 是a霜 b\n" * 50, validation_fraction=0.5), cache
    ).counts
    assert (counts["train"]["words"], counts["validation"]["words"]) == (25 * 14, 25 * 14)


def test_a_stream_is_one_document(tmp_path: Path, cache: Path) -> None:
    counts = encode(recipe(tmp_path, "ab " * 100_000), cache).counts
    assert counts["train"]["documents"] == counts["validation"]["documents"] == 1
    assert counts["train"]["characters"] == counts["train"]["tokens"] == 270_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("documents", ["stream", "lines"])
def test_unsampled_ids_are_all_that_training_never_saw_and_unknown_and_start(
    tmp_path: Path, cache: Path, kind: str, documents: str
) -> None:
    encoded = encode(recipe(tmp_path, kind=kind, vocab_size=20, documents=documents), cache)
    seen = set(encoded.train.tolist()) - {0, 1}
    assert encoded.unsampled_ids == tuple(sorted(set(range(encoded.tokenizer.vocab_size)) - seen))
    assert (encoded.end_id in encoded.unsampled_ids) == (documents == "stream")
    assert {0, 1} <= set(encoded.unsampled_ids)


def test_a_stream_without_a_newline_begins_with_its_first_id(tmp_path: Path, cache: Path) -> None:
    encoded = encode(recipe(tmp_path, "dcba " * 100 + "\n"), cache)
    assert encoded.start_id == encoded.tokenizer.encode("d")[0] == encoded.train[0]


def test_an_unchanged_corpus_is_not_encoded_again(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encode(recipe(tmp_path), cache)
    monkeypatch.setattr(token_cache, "_write", None)
    told: list[str] = []
    again = encode(recipe(tmp_path), cache, told.append)
    assert len(told) == 1
    assert "reusing" in told[0]
    assert again.train.tolist() == first.train.tolist()
    assert again.tokenizer.model == first.tokenizer.model
    assert (again.counts, again.start_id, again.end_id, again.unsampled_ids) == (
        first.counts, first.start_id, first.end_id, first.unsampled_ids
    )  # fmt: skip


def test_a_changed_text_split_or_tokenizer_gets_a_folder_of_its_own(tmp_path: Path, cache: Path) -> None:
    for settings in (
        recipe(tmp_path),
        recipe(tmp_path, validation_fraction=0.2),
        recipe(tmp_path, documents="lines"),
        recipe(tmp_path, documents="lines", split_seed=1),
        recipe(tmp_path, kind="word"),
        recipe(tmp_path, kind="word", vocab_size=30),
    ):
        encode(settings, cache)
    encode(recipe(tmp_path, DOCUMENTS + "."), cache)
    assert len(made(cache)) == 7


@pytest.mark.parametrize(
    "damage",
    ["no json", "half json", "wrong json", "short ids", "changed ids", "no ids", "changed tokenizer"],
)
def test_a_damaged_folder_is_made_anew(tmp_path: Path, cache: Path, damage: str) -> None:
    expected = encode(recipe(tmp_path), cache).train.tolist()
    [folder] = made(cache)
    about = (folder / "encoding.json").read_bytes()
    ids = (folder / "train.ids").read_bytes()
    name, data = {
        "no json": ("encoding.json", None),
        "half json": ("encoding.json", about[: len(about) // 2]),
        "wrong json": ("encoding.json", b"[]"),
        "short ids": ("train.ids", ids[:-2]),
        "changed ids": ("train.ids", ids[:-2] + b"\0\0"),
        "no ids": ("train.ids", None),
        "changed tokenizer": ("tokenizer.model", b"x"),
    }[damage]
    (folder / name).unlink()
    if data is not None:
        (folder / name).write_bytes(data)
    assert encode(recipe(tmp_path), cache).train.tolist() == expected
    assert (folder / "encoding.json").read_bytes() == about


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), UserError("no text")])
def test_an_encoding_that_breaks_off_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(token_cache, "write_json", fail)
        with pytest.raises((UserError, KeyboardInterrupt)):
            encode(recipe(tmp_path), cache)
    assert made(cache) == []
    assert len(encode(recipe(tmp_path), cache).train) > 0


def test_an_empty_corpus_is_an_error_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="empty corpus"):
        encode(recipe(tmp_path, ""), cache)
    assert made(cache) == []


def test_report_says_what_is_going_on_with_the_numbers(tmp_path: Path, cache: Path) -> None:
    told: list[str] = []
    encode(recipe(tmp_path, "abc\n" * 2500), cache, told.append)
    assert told == [
        "Training a vocabulary of type char",
        "Encoded train: 9,000 characters, 9,000 bytes, 2,250 words, 1 documents, 9,000 tokens, 0 unknown",
        "Encoded validation: 1,000 characters, 1,000 bytes, 250 words, 1 documents, 1,000 tokens, 0 unknown",
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak memory from")
@pytest.mark.parametrize(("kind", "documents", "size"), [("char", "stream", 30), ("word", "lines", 10)])
def test_memory_is_bounded_however_long_the_text(tmp_path: Path, kind: str, documents: str, size: int) -> None:
    """A text of ``size`` MB, up to twice that as ids, takes hardly more memory than one of 1 MB."""
    line = "a line of ordinary words, not long, not short, which is there again and again\n"
    for name, megabytes in (("small", 1), ("large", size)):
        with (tmp_path / name).open("w") as file:
            for number in range(megabytes * 1_000_000 // (len(line) + 5)):
                file.write(f"{number % 1000:04} {line}")
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from keras_lstmgen.data.token_cache import encode\n"
        "from keras_lstmgen.config.recipe import Recipe, override\n"
        "folder, kind, documents = sys.argv[1:]\n"
        "for name in ('small', 'large'):\n"
        "    values = {'corpus.source': f'{folder}/{name}', 'corpus.documents': documents}\n"
        "    values['tokenizer.type'] = kind\n"
        "    encode(override(Recipe(), values), Path(folder, 'cache'))\n"
        "    print(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), kind, documents]
    small, large = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    shutil.rmtree(tmp_path / "cache")
    assert large - small < size * 300  # KiB
