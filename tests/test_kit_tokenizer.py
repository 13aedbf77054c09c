"""The kit reads SentencePiece models by itself, and encodes and decodes as the library does."""

import io
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lstmgen.tokenizers.sentencepiece_proto import proto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export.tokenizer import Tokenizer, decode, decode_stream, encode, read

KINDS = ("char", "bpe", "unigram", "word")
LOSSLESS = ("char", "bpe", "unigram")
LINES = [
    "A language model reads one token after another and says which token may come next.",
    "The cat sat on the mat, the dog sat on the log; the catalogue says so.",
    "语言模型一个接一个地读取标记，并说出下一个标记可能是什么。",
    "猫坐在垫子上，狗坐在木头上。你好，世界！",
    "Emoji 😀 and 🚀 and 👩‍🚀 are characters too, 😀😀.",
]


def train(kind: str, **changes: Any) -> bytes:
    """A small model with the settings that exported models have, as bytes."""
    file = io.BytesIO()
    options: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": {"char": 1000, "bpe": 460, "unigram": 420, "word": 60}[kind],
        "hard_vocab_limit": False,
        "character_coverage": 1.0,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": kind != "word",
        "user_defined_symbols": ["\n"],
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(LINES * 3), model_writer=file, **options | changes)
    return file.getvalue()


def changed(kind: str, types: dict[str, int] = {}, scores: dict[str, float] = {}) -> bytes:  # noqa: B006
    """A small model in which some pieces have another type, and normal pieces are added with their scores."""
    model = proto.ModelProto.FromString(train(kind))
    for piece in model.pieces:
        piece.type = types.get(piece.piece, piece.type)
    for name, score in scores.items():
        model.pieces.add(piece=name, score=score, type=types.get(name, 1))
    return bytes(model.SerializeToString())


@lru_cache
def both(kind: str) -> tuple[Tokenizer, Any]:
    """The same model for the kit and for the library."""
    model = train(kind)
    return read(model), sentencepiece.SentencePieceProcessor(model_proto=model)


def by_library(kind: str, library: Any, text: str) -> list[int]:
    """What the library makes of each line or, in a word model, of each word."""
    cuts = r" ?\n| ?[^ \n]+| " if kind == "word" else r"[^\n]*\n|[^\n]+"
    parts = re.findall(cuts, text.replace("\u2581", " "))
    return [i for part in parts for i in library.encode(part)]


# Texts near the training text, so that long pieces compete, and texts of anything at all.
WORDS = st.sampled_from(
    [*re.findall(r"\w+|\W", " ".join(LINES)), "\n", "  ", "\t", "<s>", "</s>", "<0x41>", "\u2581", "ʘ", "한"]
)
TEXTS = st.one_of(st.lists(WORDS, max_size=40).map("".join), st.text(st.characters(exclude_categories=["Cs"])))


def test_models_are_of_the_kind_and_size_that_they_are_made_for() -> None:
    for kind in KINDS:
        kit, library = both(kind)
        assert kit.kind == kind
        assert list(kit.pieces) == [library.id_to_piece(i) for i in range(library.vocab_size())]
        assert list(kit.scores) == [library.get_score(i) for i in range(library.vocab_size())]
    assert max(map(len, both("bpe")[0].ids)) > 2
    assert max(map(len, both("unigram")[0].ids)) > 2


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(text=TEXTS)
def test_encode_is_the_librarys(kind: str, text: str) -> None:
    kit, library = both(kind)
    assert encode(kit, text) == by_library(kind, library, text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("between", ["\n", " "])
def test_encode_is_the_librarys_over_a_long_text(kind: str, between: str) -> None:
    """One line, joined by spaces, is long enough for a unigram model's float32 sums to tell."""
    kit, library = both(kind)
    text = between.join(LINES * 150)
    assert encode(kit, text) == by_library(kind, library, text)


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(deadline=None)
@given(words=st.lists(WORDS, max_size=20), other=st.lists(WORDS, max_size=20))
def test_lines_are_encoded_each_by_itself(kind: str, words: list[str], other: list[str]) -> None:
    kit, _ = both(kind)
    first, second = "".join(words) + "\n", "".join(other)
    assert encode(kit, first + second) == encode(kit, first) + encode(kit, second)


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(deadline=None)
@given(text=TEXTS)
def test_text_comes_back_as_it_was(kind: str, text: str) -> None:
    """All of it, but for U+2581, which is how SentencePiece itself writes a space."""
    kit, _ = both(kind)
    assert decode(kit, encode(kit, text)) == text.replace("\u2581", " ")


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_decode_is_the_librarys_for_any_ids(kind: str, data: st.DataObject) -> None:
    """Among them start, end and unknown symbols, and bytes that make no character."""
    kit, library = both(kind)
    ids = data.draw(st.lists(st.integers(0, len(kit.pieces) - 1)))
    assert decode(kit, ids) == library.decode(ids)


BYTES = st.one_of(
    st.sampled_from([b"\xe7\x8c", b"\xf0\x9f\x98", b"\x80", b"\xc0\xaf", b"\xe0\x80", b"\xed\xa0\x80", b"\xf5", b"a"]),
    st.characters(exclude_categories=["Cs"]).map(str.encode),
    st.binary(max_size=3),
)


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(deadline=None)
@given(parts=st.lists(BYTES, max_size=8))
def test_decode_of_bytes_is_the_librarys(kind: str, parts: list[bytes]) -> None:
    kit, library = both(kind)
    ids = [kit.byte_ids[byte] for byte in b"".join(parts)]
    assert decode(kit, ids) == library.decode(ids)


@settings(deadline=None)
@given(text=TEXTS)
def test_a_stream_shows_each_character_with_its_last_byte_and_no_half_of_one(text: str) -> None:
    kit, _ = both("char")
    text = text.replace("\u2581", " ")
    ids = [kit.byte_ids[byte] for byte in text.encode()]
    shown = list(decode_stream(kit, ids))
    ends = [text.encode()[: n + 1].decode(errors="ignore") for n in range(len(ids))]
    assert ["".join(shown[: n + 1]) for n in range(len(ids))] == ends
    assert shown[-1] == ""


def test_bytes_that_will_never_be_a_character_are_not_held_back() -> None:
    """0xE7 0x8C waits for a third byte; the letter that comes instead settles it."""
    kit, _ = both("char")
    ids = [kit.byte_ids[0xE7], kit.byte_ids[0x8C], *encode(kit, "a"), kit.byte_ids[0xE7]]
    assert list(decode_stream(kit, ids)) == ["", "", "\ufffd\ufffda", "", "\ufffd"]


def test_a_word_model_looks_up_each_word_with_the_space_before_it() -> None:
    """Unknown words are one id each; a newline stands by itself, with the space before it if there is one."""
    kit = read(changed("word", scores={"\u2581\n": -1.0, "\u2581\u2581": -1.0}))
    text = "The cat xxx yyy\n\nsat \n  on"
    words = ["The", "\u2581cat", "", "", "\n", "\n", "", "\u2581\n", "\u2581", "\u2581on"]
    assert encode(kit, text) == [kit.ids.get(word, 0) for word in words]
    assert kit.ids.keys() >= {word for word in words if word not in ("", "\u2581")}


def same(model: bytes, texts: list[str]) -> list[list[str]]:
    """The pieces of each text by the kit, which are the library's too."""
    kit, library = read(model), sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in texts:
        assert encode(kit, text) == library.encode(text)
    return [[kit.pieces[i] for i in encode(kit, text)] for text in texts]


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_user_defined_symbols_are_cut_out_whole_the_longest_first(kind: str) -> None:
    model = train(kind, user_defined_symbols=["\n", "<x", "<xy>", "mat"])
    assert same(model, ["<x<xy>", "mat\n\n<xy"]) == [["<x", "<xy>"], ["mat", "\n", "\n", "<x", "y"]]


def test_user_defined_symbols_are_never_joined_with_others() -> None:
    free, fixed = train("bpe"), changed("bpe", types={"a": 4})
    assert same(free, [" cat"]) == [["\u2581cat"]]
    assert "a" in same(fixed, [" cat", "sat on a mat"])[0]


def test_a_unigram_model_prefers_user_defined_symbols_and_scores_unknown_ones_10_below_the_lowest() -> None:
    """Joint pieces against their parts, and two cuts of the same score: the library is the judge of both."""
    low = min(score for score in both("unigram")[0].scores if score < 0)
    symbols = changed("unigram", types={"ʘʗ": 4}, scores={"ʘ": -1.0, "ʗ": -1.0, "ʘʗ": 0.0})
    assert same(symbols, ["ʘʗʘ"]) == [["ʘʗ", "ʘ"]]
    unknown = changed("unigram", scores={"ʘʗ": low, "ʖʔ": -5.0, "ʗʖʔ": -0.5})
    assert same(unknown, ["ʘʗʖʔ"]) == [["ʘʗ", "ʖʔ"]]
    equal = changed("unigram", scores={"ʘ": -2.0, "ʗʖ": -2.0, "ʘʗ": -2.0, "ʖ": -2.0})
    assert len(same(equal, ["ʘʗʖ"])[0]) == 2


def test_sums_of_a_unigram_model_are_float32_and_begin_with_the_line() -> None:
    """Two cuts differ by 0.00001, which float32 sums of some thousands cannot hold: the first found stays."""
    model = changed("unigram", scores={"ʘ": -2.0, "ʗʖ": -2.0, "ʘʗ": -2.0, "ʖ": -1.99999})
    long = "the cat sat " * 200
    _, far = same(model, ["ʘʗʖ", long + "ʘʗʖ"])
    assert far[-2:] == ["ʘ", "ʗʖ"]
    kit = read(model)
    assert [kit.pieces[i] for i in encode(kit, f"{long}\nʘʗʖ")[-2:]] == same(model, ["ʘʗʖ"])[0] == ["ʘʗ", "ʖ"]


@pytest.mark.parametrize("length", [0, 1, 50, -1])
def test_a_model_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        read(train("char")[:length])


@pytest.mark.parametrize(
    "changes",
    [{"normalization_rule_name": "nmt_nfkc"}, {"add_dummy_prefix": True}, {"remove_extra_whitespaces": True}],
)
def test_a_model_that_changes_the_text_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="changes the text"):
        read(train("char", **changes))
