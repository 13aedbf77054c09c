"""Corpus: what a document is in each kind of file, and a split that shares nothing."""

import csv
import gzip
import io
import json
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.config.recipe import Corpus
from keras_lstmgen.data import splits
from keras_lstmgen.data.text_reader import Source, read_text
from keras_lstmgen.utils.errors import UserError

Make = Callable[..., Corpus]
TEXTS = st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"]))
# Letters and marks that join, are put in another order, or are several in another form; and what parts them.
JOINED = st.sampled_from(
    "eo<\u0301\u0323\u0308\u0338\u1100\u1161\u11a8\uac00\u0b47\u0b3e\ufb01\u2460\u00b4\u1e9b\u212b\uf900\ufdfa \n床"
)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write texts to files and name them in a corpus: ``make("text", "another", documents="lines")``."""

    def make(*texts: str, **values: Any) -> Corpus:
        for number, text in enumerate(texts):
            (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8", newline="")
        return Corpus(source=tuple(str(tmp_path / f"{number}.txt") for number in range(len(texts))), **values)

    return make


def both(settings: Corpus) -> tuple[list[str], list[str]]:
    return list(splits.pieces(settings, "train")), list(splits.pieces(settings, "validation"))


def documents(settings: Corpus) -> list[str]:
    """All documents, in the order of the text."""
    return list(splits.pieces(replace(settings, validation=settings.source), "train"))


@pytest.mark.skipif("KERAS_LSTMGEN_DATA" not in os.environ, reason="KERAS_LSTMGEN_DATA names no folder of corpora")
def test_tiny_shakespeare_is_split_like_everywhere_else() -> None:
    train, validation = both(Corpus(source=("tinyshakespeare/input.txt",)))
    assert sum(map(len, train)) == 1_003_854
    assert sum(map(len, validation)) == 111_540
    assert validation[0].startswith("?\n\nGREMIO:\nGood morrow")


@given(
    text=st.lists(st.text(JOINED) | TEXTS).map("".join),
    cuts=st.lists(st.integers(0, 99)),
    form=st.sampled_from(list(splits.FORMS)),
)
def test_a_text_normalized_in_pieces_is_the_whole_normalized(text: str, cuts: list[int], form: str) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = (text[start:end] for start, end in pairwise(places))
    made = list(splits._in_form(Source("a.txt", None), pieces, Corpus(normalize=form)))
    assert "".join(made) == unicodedata.normalize(splits.FORMS[form], text)
    assert all(made)


def test_a_text_that_no_character_parts_is_an_error_not_a_full_memory(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras_lstmgen.data.readers.LONGEST", 100)
    with pytest.raises(UserError, match=r"0\.txt: a document has more than 100 characters"):
        both(make("가" * 101, normalize="nfc"))


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("lines", "cafe\u0301\n\u2160\n\ncaf\u00e9\n", ["caf\u00e9", "I"]),
        ("jsonl", '{"t": "e\\u0301\\n"}\n{"t": "\ufb01"}\n', ["\u00e9\n", "fi"]),
        ("pairs", "\u00b4e\to\u00a8\n", ["\u0301e\no \u0308"]),  # of a space and a mark: no turn begins with the space
    ],
)
def test_documents_are_normalized_before_they_are_compared(
    make: Make, kind: str, text: str, expected: list[str]
) -> None:
    field = ("t",) if kind == "jsonl" else ()
    assert documents(make(text, documents=kind, field=field, unique=True, normalize="nfkc")) == expected


def test_nothing_is_normalized_unasked(make: Make) -> None:
    for kind in ("stream", "lines"):
        assert documents(make("e\u0301\ufb01", documents=kind)) == ["e\u0301\ufb01"]


@given(text=TEXTS.filter(lambda text: len(text) > 3 and "\r" not in text), fraction=st.floats(0.3, 0.7))
def test_a_stream_is_cut_once_at_a_character(
    tmp_path_factory: pytest.TempPathFactory, text: str, fraction: float
) -> None:
    paths = [tmp_path_factory.mktemp("stream") / name for name in "ab"]
    for path, part in zip(paths, (text[:2], text[2:]), strict=True):
        path.write_text(part, encoding="utf-8", newline="")
    train, validation = both(Corpus(source=tuple(map(str, paths)), validation_fraction=fraction))
    text = text if text[1] == "\n" else f"{text[:2]}\n{text[2:]}"
    cut = int(len(text) * (1 - fraction))
    assert "".join(train) == text[:cut]
    assert "".join(validation) == text[cut:]


FERRY = ["the harbour", "Morning came.\n", "", "\ufeff", "Evening", "Night"]  # files, most without a final newline


@pytest.mark.parametrize("normalize", ["none", "nfkc"])
def test_every_file_of_a_stream_begins_on_a_line_of_its_own(make: Make, normalize: str) -> None:
    settings = make(*FERRY, normalize=normalize)
    expected = "the harbour\nMorning came.\nEvening\nNight"
    assert "".join(documents(settings)) == expected
    halves = replace(settings, validation_fraction=0.5)
    assert "".join(chain.from_iterable(both(halves))) == expected


@pytest.mark.parametrize("kind", ["lines", "blocks", "files"])
def test_no_document_goes_on_in_the_next_file(make: Make, kind: str) -> None:
    assert documents(make("the harbour", "Morning", documents=kind)) == ["the harbour", "Morning"]


def test_no_piece_of_a_text_is_empty(make: Make) -> None:
    for text in ("", "\ufeff", "\ufeffa", "a"):
        pieces = list(read_text(Source("0.txt", Path(make(text).source[0]))))
        assert pieces == [letter for letter in text if letter == "a"]


def test_a_byte_order_mark_is_dropped_where_a_file_comes_byte_by_byte(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras_lstmgen.data.text_reader.CHUNK", 1)
    assert documents(make("\ufeffa\ufeff")) == ["a\ufeff"]


def test_the_fingerprint_changes_only_where_a_newline_is_put_between_files(make: Make) -> None:
    one = make("a file without a final newline")
    assert splits.fingerprint(one).startswith("2f6e9d98b578fdc4")  # as before, so that cached ids stay valid
    two = make("with one\n", "and one without")
    assert splits.fingerprint(two).startswith("c01d2665694018ed")
    assert splits.fingerprint(make("one", "two", documents="lines")).startswith("8a91dbbcf67154e0")
    assert not splits.fingerprint(make("one", "two")).startswith("5046621f40eedef6")  # "onetwo" once


def test_pieces_of_a_stream_are_bounded_and_end_after_newlines(make: Make) -> None:
    text = "".join(f"line {number} of many\n" for number in range(20_000))
    pieces = list(splits.pieces(make(text, validation_fraction=0.1), "train"))
    assert len(pieces) > 4
    assert max(map(len, pieces)) <= 2 * splits.PIECE
    assert all(piece.endswith("\n") for piece in pieces[:-1])


def test_pieces_without_newlines_end_before_the_last_spaces(make: Make) -> None:
    pieces = list(splits.pieces(make("word   " * 40_000), "train"))
    assert len(pieces) > 2
    assert all(piece.endswith("word") for piece in pieces[:-1])
    unbroken = list(splits.pieces(make("x" * 300_000), "train"))
    assert [set(piece) for piece in unbroken] == [{"x"}] * len(unbroken)
    assert max(map(len, unbroken)) <= 2 * splits.PIECE


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("lines", "one\n\n two \r\nthree\n", ["one", " two ", "three"]),
        ("lines", "next\x85line\u2028is one", ["next\x85line\u2028is one"]),
        ("blocks", "\n\na\nb\n\n \t\n c\r\n\r\nd", ["a\nb", " c", "d"]),
        ("files", "a\n\nb\r\n", ["a\n\nb\r\n"]),
    ],
)
def test_documents_of_plain_text(make: Make, kind: str, text: str, expected: list[str]) -> None:
    assert documents(make(text, documents=kind)) == expected


def test_files_are_documents_in_their_order(make: Make) -> None:
    assert documents(make("b", "", "a", documents="files")) == ["b", "a"]


def test_a_line_may_span_many_pieces(make: Make) -> None:
    lines = ["a" * 500_000, "b", "c" * 300_000]
    assert documents(make("\n".join(lines), documents="lines")) == lines


@given(st.lists(TEXTS))
def test_jsonl_gives_the_field_of_each_line(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "texts.jsonl"
    lines = [json.dumps({"n": n, "body": text}) for n, text in enumerate([*texts, "last"])]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    settings = Corpus(source=(str(path),), documents="jsonl", field=("body",))
    assert documents(settings) == [text for text in [*texts, "last"] if text]


@pytest.mark.parametrize("field", ["text", "2"])
@given(texts=st.lists(TEXTS.map(lambda text: text.replace("\r", ""))))
def test_csv_gives_a_column_by_name_or_number(
    tmp_path_factory: pytest.TempPathFactory, field: str, texts: list[str]
) -> None:
    rows = [["n", "text"], *([str(n), text] for n, text in enumerate([*texts, 'say "so",\nor not']))]
    written = io.StringIO()
    csv.writer(written).writerows(rows if field == "text" else rows[1:])
    path = tmp_path_factory.mktemp("csv") / "texts.csv"
    path.write_text(written.getvalue(), encoding="utf-8", newline="")
    settings = Corpus(source=(str(path),), documents="csv", field=(field,))
    assert documents(settings) == [text for _, text in rows[1:] if text]


def test_tsv_takes_quotation_marks_as_they_are(make: Make) -> None:
    text = 'en\tfr\n"Hi", he said.\t"Salut !"\nA "\tb\n\n\tempty\n'
    assert documents(make(text, documents="tsv", field=("en",))) == ['"Hi", he said.', 'A "']
    assert documents(make(text, documents="tsv", field=("1",))) == ["en", '"Hi", he said.', 'A "']


@pytest.mark.parametrize(
    ("kind", "field", "text", "message"),
    [
        ("jsonl", "t", '{"t": "a"}\n\n{"t": ', r"0\.txt, line 3: invalid JSON"),
        ("jsonl", "t", "[" * 100_000, r"0\.txt, line 1: invalid JSON"),
        ("jsonl", "t", '{"t": "a"}\n["a"]', r"0\.txt, line 2: must be an object with a string 't'"),
        ("jsonl", "t", '{"t": 5}', r"0\.txt, line 1: must be an object with a string 't'"),
        ("jsonl", "t", '{"text": "a"}', r"0\.txt, line 1: must be an object with a string 't'"),
        ("csv", "t", "a,b\n1,2", r"0\.txt, line 1: no column 't' \(corpus\.field\); the columns are: a, b"),
        ("csv", "t", "", r"0\.txt, line 1: no column 't' \(corpus\.field\); the columns are: none"),
        ("csv", "2", 'a,"b\nc"\nd', r"0\.txt, line 3: no column '2' \(corpus\.field\); number of columns: 1"),
        ("csv", "0", "a,b", r"0\.txt, line 1: no column '0' \(corpus\.field\); number of columns: 2"),
        ("csv", "1", 'a\nb\n"open', r"0\.txt, line 3: unexpected end of data"),
        ("tsv", "3", "a\tb\tc\na\tb", r"0\.txt, line 2: no column '3' \(corpus\.field\); number of columns: 2"),
        ("tsv", "1", "a\nb\rc", r"0\.txt, line 2: new-line character"),
    ],
)
def test_a_bad_row_is_an_error_with_file_and_line(make: Make, kind: str, field: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        documents(make(text, documents=kind, field=(field,)))


def test_a_field_without_end_is_an_error_not_a_full_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keras_lstmgen.data.readers.LONGEST_FIELD", 1000)
    with pytest.raises(UserError, match="line 3: field larger than field limit"):
        documents(make('a\n"' + "b" * 600 + "\n" + "c" * 600, documents="csv", field=("1",)))


def test_no_document_stands_in_both_splits_however_often_it_occurs(make: Make) -> None:
    lines = [f"document {number % 300}" for number in range(1000)]
    train, validation = both(make("\n".join(lines), documents="lines", validation_fraction=0.3))
    assert not set(train) & set(validation)
    assert sorted(train + validation) == sorted(lines)
    assert train == [line for line in lines if line in set(train)]


def test_the_split_follows_fraction_and_seed_alone(make: Make) -> None:
    settings = make("\n".join(map(str, range(5000))), documents="lines", validation_fraction=0.2)
    train, validation = both(settings)
    assert 900 < len(validation) < 1100
    assert both(settings) == (train, validation)
    assert both(replace(settings, split_seed=1))[1] != validation
    shuffled = make("\n".join(map(str, reversed(range(5000)))), documents="lines", validation_fraction=0.2)
    assert set(both(shuffled)[1]) == set(validation)


@pytest.mark.parametrize("kind", ["stream", "lines"])
def test_given_validation_files_are_the_validation_and_the_source_is_all_training(make: Make, kind: str) -> None:
    settings = make("a\nb\nc", "d\ne", documents=kind)
    settings = replace(settings, source=settings.source[:1], validation=settings.source[1:], sha256=("",))
    expected = (["a\nb\nc"], ["d\ne"]) if kind == "stream" else (["a", "b", "c"], ["d", "e"])
    assert both(settings) == expected


@pytest.mark.parametrize("kind", ["stream", "lines", "blocks", "files"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_corpus_is_an_error(make: Make, kind: str, split: splits.Split) -> None:
    with pytest.raises(UserError, match=r"0\.txt: empty corpus; name a text in corpus\.source"):
        list(splits.pieces(make("", documents=kind), split))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_file_among_given_ones_is_an_error(make: Make, split: splits.Split) -> None:
    settings = make("", "", documents="stream")
    settings = replace(settings, source=settings.source[:1], validation=settings.source[1:])
    name = "0.txt" if split == "train" else "1.txt"
    with pytest.raises(UserError, match=rf"{re.escape(name)}: empty corpus, no text for {split}"):
        list(splits.pieces(settings, split))


@pytest.mark.parametrize("kind", ["stream", "lines"])
def test_no_validation_text_is_an_error_that_says_what_to_do(make: Make, kind: str) -> None:
    settings = make("one\ntwo", documents=kind, validation_fraction=0.0)
    assert "".join(splits.pieces(settings, "train")).replace("\n", "") == "onetwo"
    with pytest.raises(UserError, match=r"no validation text .* = 0; change the fraction.*corpus\.validation"):
        list(splits.pieces(settings, "validation"))


def test_no_training_text_is_an_error(make: Make) -> None:
    with pytest.raises(UserError, match="no train text"):
        list(splits.pieces(make("x", validation_fraction=0.5), "train"))


def test_the_fingerprint_is_of_texts_not_of_paths_or_packing(make: Make, tmp_path: Path) -> None:
    settings = make("one\ntwo\n" * 1000)
    packed = tmp_path / "other name.gz"
    packed.write_bytes(gzip.compress(("one\ntwo\n" * 1000).encode()))
    assert re.fullmatch("[0-9a-f]{64}", splits.fingerprint(settings))
    assert splits.fingerprint(replace(settings, source=(str(packed),))) == splits.fingerprint(settings)


@pytest.mark.parametrize(
    "change",
    [
        {"validation_fraction": 0.2}, {"split_seed": 1}, {"field": "other"}, {"documents": "tsv"},
        {"validation": ("1.txt",)}, {"source": ("1.txt",)}, {"source": ("0.txt", "1.txt")}, {"normalize": "nfc"},
    ],
)  # fmt: skip
def test_the_fingerprint_changes_with_everything_that_matters(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = replace(make("a,b", "c,d", documents="csv", field=("1",)), source=("0.txt",))
    assert splits.fingerprint(replace(settings, **change)) != splits.fingerprint(settings)


@pytest.mark.parametrize("change", [{"split_seed": 1}, {"field": "x"}, {"sha256": ("",)}])
def test_the_fingerprint_of_a_stream_ignores_what_does_not_matter(make: Make, change: dict[str, Any]) -> None:
    settings = make("a text")
    assert splits.fingerprint(replace(settings, **change)) == splits.fingerprint(settings)


def test_two_files_have_another_fingerprint_than_the_same_text_cut_elsewhere(make: Make) -> None:
    fingerprint = splits.fingerprint(make("ab", "c"))
    assert splits.fingerprint(make("a", "bc")) != fingerprint


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize(("kind", "field"), [("stream", ()), ("lines", ()), ("files", ()), ("tsv", ("1",))])
def test_a_prompt_is_read_as_its_text_was(make: Make, kind: str, field: tuple[str, ...], ends: str) -> None:
    """The file of a corpus, given as a prompt, is the beginning of the corpus."""
    text = f"\ufeffThe o\u0301ld ferry{ends}"
    settings = make(text, documents=kind, field=field, normalize="nfc", validation_fraction=0.0)
    assert [splits.normalized_prompt(text, settings)] == list(splits.pieces(settings, "train"))


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_prompt_of_pairs_is_a_source_as_training_read_it(make: Make, ends: str) -> None:
    settings = make(f"\ufeffThe o\u0301ld ferry \tan answer{ends}", documents="pairs", normalize="nfkc")
    settings = replace(settings, validation_fraction=0.0)
    (document,) = splits.pieces(settings, "train")
    source = document.removesuffix("an answer")
    for prompt in (f"\ufeffThe o\u0301ld ferry{ends}", f" The óld\u00a0ferry {ends}{ends}"):
        assert splits.normalized_prompt(prompt, settings) == source
        assert splits.normalized_prompt(prompt + "an a", settings) == source + "an a"
    assert splits.normalized_prompt("\ufeff The o\u0301ld ferry ", settings) + "\n" == source
    assert splits.normalized_prompt(f"a {ends}b{ends}c ", settings) == "a\nb\nc "
    assert splits.normalized_prompt("", settings) == ""


def test_a_prompt_keeps_what_its_corpus_keeps() -> None:
    for kind in ("stream", "files"):
        assert splits.normalized_prompt("a\r\nb \r\n", Corpus(documents=kind)) == "a\r\nb \r\n"
    assert splits.normalized_prompt("a\r\nb \r\n", Corpus(documents="blocks")) == "a\nb \n"
    assert splits.normalized_prompt("o\u0301", Corpus()) == "o\u0301"
    assert (
        splits.normalized_prompt("o\u0301\no\u0301", Corpus(documents="lines", labels=("o\u0301",), normalize="nfc"))
        == "o\u0301\nó"
    )
