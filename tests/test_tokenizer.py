"""Tokenizers: text → ids → the same text, one SentencePiece model for every runtime."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from keras_lstmgen.config.recipe import Tokenizer as Settings
from keras_lstmgen.generation.detokenizer import Detokenizer
from keras_lstmgen.tokenizers import sentencepiece_trainer, tokenizer, vocabulary
from keras_lstmgen.tokenizers.tokenizer import Tokenizer
from keras_lstmgen.utils.errors import UserError

TEXT = (
    "The quick brown fox jumps over the lazy dog.\n    It was early, and the dog was lazier than most.\n\n"
    "\tQuick words, said quickly, are the quickest <s>words</s>.\nNaïve façades — “quoted” — at 12 €.\n"
) * 3
CHINESE = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n明月几时有？把酒问青天。\n明月松间照，清泉石上流。\n" * 5
LOSSLESS = ("char", "bpe", "unigram")
# No lone surrogates, and not U+2581, SentencePiece's sign for a space.
ANY_TEXT = st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]))
LIKE_TRAINING = st.text(st.sampled_from(TEXT))


def learn(kind: str, text: str = TEXT, vocab_size: int = 0) -> Tokenizer:
    def texts() -> Iterator[str]:
        lines = text.splitlines(keepends=True)
        yield from ("".join(lines[i : i + 3]) for i in range(0, len(lines), 3))

    return Tokenizer(vocabulary.train(Settings(type=kind, vocab_size=vocab_size), texts))


TOKENIZERS = {kind: learn(kind) for kind in (*LOSSLESS, "word")}


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=ANY_TEXT | LIKE_TRAINING)
@example(text="")
@example(text="\n")
@example(text="  double  spaces, leading and trailing  \n \n")
@example(text="<s>text</s> <unk> <0x41> ⁇ ▅")
@example(text="\t\r\n\r\0\x7f\u2028\ufeff\ufffd")
@example(text="👩‍👩‍👧 emoji 🎉, 日本語, العربية, हिन्दी, ĿɑtḭɴỺ")
def test_decode_of_encode_is_the_text_whatever_is_in_it(kind: str, text: str) -> None:
    tokens = TOKENIZERS[kind]
    ids = tokens.encode(text)
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert not {tokens.unk_id, tokens.start_id, tokens.end_id} & set(ids.tolist())
    assert tokens.decode(ids) == text


@pytest.mark.parametrize("kind", LOSSLESS)
def test_the_one_exception_is_the_sign_for_a_space(kind: str) -> None:
    assert TOKENIZERS[kind].decode(TOKENIZERS[kind].encode("a▁b")) == "a b"


@given(st.lists(st.sampled_from(["\n", " ", *re.findall(r"\S+", TEXT)])).map("".join) | LIKE_TRAINING)
def test_word_keeps_known_words_spaces_and_newlines_exactly(text: str) -> None:
    tokens = TOKENIZERS["word"]
    ids = tokens.encode(text)
    if tokens.unk_id not in ids:
        assert tokens.decode(ids) == text
    units = re.findall(r" ?\n| ?[^ \n]+| ", text)
    assert len(ids) == len(units)
    words = {tokens.piece_bytes(token).decode() for token in range(3, tokens.vocab_size)}
    assert [unit not in words for unit in units] == (ids == tokens.unk_id).tolist()


def test_word_round_trips_its_own_training_text() -> None:
    tokens = TOKENIZERS["word"]
    assert tokens.decode(tokens.encode(TEXT)) == TEXT
    assert tokens.unk_id not in tokens.encode(TEXT)


def test_word_marks_each_unknown_word_and_says_so_in_text() -> None:
    tokens = learn("word", "a b c \n a b\n")
    a, b = tokens.encode("a b").tolist()
    assert tokens.encode("a x y b\nz").tolist() == [a, tokens.unk_id, tokens.unk_id, b, tokens.newline_id, 0]
    assert tokens.decode(tokens.encode("a x b")) == "a ⁇ b"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_never_becomes_a_control_symbol(kind: str) -> None:
    tokens = learn(kind, "<s> and </s> and <unk>\n<s>\n</s>\n" * 5)
    for text in ("<s>", "</s>", "<s> and </s>"):
        assert not {tokens.start_id, tokens.end_id} & set(tokens.encode(text).tolist())


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=LIKE_TRAINING | ANY_TEXT, data=st.data())
def test_encoding_in_pieces_that_end_after_newlines_gives_the_ids_of_the_whole(
    kind: str, text: str, data: st.DataObject
) -> None:
    tokens = TOKENIZERS[kind]
    cuts = [i + 1 for i, character in enumerate(text) if character == "\n" and data.draw(st.booleans())]
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert np.concatenate([tokens.encode(piece) for piece in pieces]).tolist() == tokens.encode(text).tolist()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_many_lines_in_parallel_give_the_ids_of_one_line_after_another(kind: str) -> None:
    tokens = TOKENIZERS[kind]
    text = TEXT * (tokenizer.PARALLEL_LINES // 2)
    assert text.count("\n") > tokenizer.PARALLEL_LINES
    by_line = [tokens.encode(line) for line in text.splitlines(keepends=True)]
    assert np.array_equal(tokens.encode(text), np.concatenate(by_line))


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=ANY_TEXT | LIKE_TRAINING)
def test_sentencepiece_itself_gives_the_same_ids_for_a_line(kind: str, text: str) -> None:
    tokens = TOKENIZERS[kind]
    line = text.partition("\n")[0] + "\n"
    alone = sentencepiece.SentencePieceProcessor(model_proto=tokens.model)
    assert tokens.encode(line).tolist() == alone.encode(line)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_the_graph_tokenizer_of_tensorflow_text_gives_the_same_ids_and_text(kind: str) -> None:
    import tensorflow_text

    tokens = TOKENIZERS[kind]
    graph = tensorflow_text.SentencepieceTokenizer(tokens.model)
    texts = [
        *TEXT.splitlines(keepends=True),
        "",
        "\n\n",
        " a  b ",
        "<s>\t\r\n",
        "日本 🎉 façade",
        "quick  quickly\n",
    ]
    for text, ids in zip(texts, graph.tokenize(texts), strict=True):
        assert ids.numpy().tolist() == tokens.encode(text).tolist()
        assert graph.detokenize(ids).numpy().decode() == tokens.decode(ids.numpy())


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_decode_is_sentencepiece_s_for_any_ids_whatsoever(kind: str, data: st.DataObject) -> None:
    tokens = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tokens.vocab_size - 1)))
    text = tokens.decode(ids)
    assert text == sentencepiece.SentencePieceProcessor(model_proto=tokens.model).decode(ids)
    text.encode("utf-8")
    tail = Detokenizer(tokens)
    assert "".join(map(tail.push, ids)) + tail.flush() == text


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_symbol_between_the_bytes_of_a_character_parts_them(kind: str) -> None:
    tokens = TOKENIZERS[kind]
    byte = {tokens.piece_bytes(token): token for token in range(4, 260)}
    ids = [byte[b"\xc2"], tokens.start_id, byte[b"\x80"]]
    theirs = sentencepiece.SentencePieceProcessor(model_proto=tokens.model)
    assert tokens.decode(ids) == theirs.decode(ids) == "\ufffd\ufffd"


@pytest.mark.parametrize("kind", LOSSLESS)
def test_byte_pieces_that_spell_no_character_become_replacement_signs(kind: str) -> None:
    tokens = TOKENIZERS[kind]
    byte = {tokens.piece_bytes(token): token for token in range(4, 260)}
    assert sorted(byte) == [bytes([value]) for value in range(256)]
    assert tokens.decode([byte[b"\xe6"], byte[b"\x97"]]) == "\ufffd\ufffd"
    assert tokens.decode([byte[b"\xe6"], byte[b"\x97"], byte[b"\xa5"], byte[b"\xff"]]) == "日\ufffd"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_control_symbols_vanish_and_stand_first(kind: str) -> None:
    tokens = TOKENIZERS[kind]
    assert (tokens.unk_id, tokens.start_id, tokens.end_id, tokens.newline_id) == (0, 1, 2, 3)
    assert tokens.piece_bytes(tokens.start_id) == tokens.piece_bytes(tokens.end_id) == b""
    assert tokens.encode("\n").tolist() == [tokens.newline_id]
    assert tokens.decode([1, 3, 2, 3, 2]) == "\n\n"


def test_char_has_every_character_most_frequent_first() -> None:
    tokens = learn("char", "abbccc\nccc d\n▅\t▅\t▁")
    learned = [tokens.piece_bytes(token).decode() for token in range(260, tokens.vocab_size)]
    assert learned == ["c", "\t", " ", "b", "▅", "a", "d"]
    assert len(tokens.encode("cab d▅\t")) == 7


def test_char_cuts_chinese_into_its_characters_and_spells_those_it_never_saw() -> None:
    tokens = learn("char", CHINESE)
    assert [tokens.piece(token) for token in tokens.encode("明月，思故乡")] == list("明月，思故乡")
    assert [tokens.piece_bytes(token) for token in tokens.encode("月龘")[1:]] == [b"\xe9", b"\xbe", b"\x98"]
    assert tokens.decode(tokens.encode("月龘")) == "月龘"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_subwords_of_chinese_are_what_is_often_side_by_side_and_never_half_characters(kind: str) -> None:
    tokens = learn(kind, CHINESE)
    ids = tokens.encode(CHINESE)
    pieces = [tokens.piece_bytes(token).decode() for token in ids.tolist()]
    assert "".join(pieces) == tokens.decode(ids) == CHINESE
    assert len(pieces) <= len(CHINESE) - CHINESE.count("明月")
    assert any("明月" in piece for piece in pieces)


def test_word_takes_chinese_as_it_is_spaced() -> None:
    """Cut into words by spaces, it has words; a line without is one word."""
    tokens = learn("word", "举头 望 明月 ，\n低头 思 故乡 。\n" * 3)
    ids = tokens.encode("低头 望 故乡 。\n举头望\n").tolist()
    assert [tokens.piece(token) for token in ids] == ["低头", "▁望", "▁故乡", "▁。", "\n", "<unk>", "\n"]
    assert learn("word", CHINESE).decode(learn("word", CHINESE).encode(CHINESE)) == CHINESE


def test_char_with_a_limit_keeps_the_most_frequent_and_spells_the_rest() -> None:
    tokens = learn("char", "aaabbc", vocab_size=4 + 2)
    assert tokens.vocab_size == 4 + 256 + 2
    assert tokens.encode("abc").tolist() == [260, 261, 4 + ord("c")]


def test_word_with_a_limit_keeps_the_most_frequent() -> None:
    tokens = learn("word", "a a a b b b b c\n", vocab_size=4 + 2)
    assert [tokens.piece_bytes(token) for token in range(4, tokens.vocab_size)] == [b" b", b" a"]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("vocab_size", [5, 40, 60])
def test_vocab_size_counts_everything_but_the_byte_pieces(kind: str, vocab_size: int) -> None:
    tokens = learn(kind, vocab_size=vocab_size)
    assert tokens.vocab_size == vocab_size + 256
    assert tokens.decode(tokens.encode(TEXT)) == TEXT


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_larger_than_the_text_allows_is_an_error_that_says_the_largest(kind: str) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size = 5000 is more .* give at most") as caught:
        learn(kind, vocab_size=5000)
    largest = int(str(caught.value).rsplit(" ", 1)[1])
    assert learn(kind, vocab_size=largest).vocab_size == largest + 256
    with pytest.raises(UserError, match="is more than this text allows"):
        learn(kind, vocab_size=largest + 1)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_default_size_shrinks_to_what_a_short_text_allows(kind: str) -> None:
    assert 40 < learn(kind).vocab_size - 256 < 1000


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("vocab_size", [1, 4])
def test_a_vocabulary_without_room_for_text_is_an_error(kind: str, vocab_size: int) -> None:
    with pytest.raises(UserError, match=rf"vocab_size = {vocab_size} leaves no room .* more than 4"):
        learn(kind, vocab_size=vocab_size)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_text_with_nothing_to_learn_from_is_an_error(kind: str) -> None:
    with pytest.raises(UserError, match=rf"tokenizer\.type = '{kind}': training on this text failed"):
        learn(kind, "\n\n\n")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_more_characters_than_fit_are_spelled_in_bytes(kind: str) -> None:
    text = "".join(chr(0x4E00 + number) + " the common word \n" for number in range(500))
    tokens = learn(kind, text, vocab_size=40)  # 4 are fixed, and the common words need less than 20 characters
    assert tokens.vocab_size == 40 + 256
    assert tokens.decode(tokens.encode(text)) == text
    assert {len(tokens.encode(character)) for character in text if character > "z"} == {1, 3}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_runs_of_spaces_are_single_tokens(kind: str) -> None:
    tokens = learn(kind, "".join(f"        indented {number}\n" for number in range(300)))
    assert len(tokens.encode("        ")) <= 2


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_training_is_deterministic_and_silent(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert learn(kind).model == TOKENIZERS[kind].model
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_process_of_its_own_learns_the_same_model_and_fails_in_the_same_words(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [*TEXT.split("\n"), "a\rb\x85c\u2028d 床前"] * 20
    here = sentencepiece_trainer.learn(kind, lines, 320)
    with pytest.raises(RuntimeError, match=r"value <= \d+") as said:
        sentencepiece_trainer.learn(kind, lines, 90_000)
    monkeypatch.setattr(sentencepiece_trainer, "IN_PROCESS", 0)
    assert sentencepiece_trainer.learn(kind, lines, 320) == here
    with pytest.raises(RuntimeError) as there:
        sentencepiece_trainer.learn(kind, lines, 90_000)
    assert str(there.value) == str(said.value)


def test_a_process_that_is_killed_while_it_learns_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentencepiece_trainer, "IN_PROCESS", 0)
    start = subprocess.Popen

    def start_and_kill(*given: Any, **options: Any) -> Any:
        process = start(*given, **options)
        process.kill()
        return process

    monkeypatch.setattr(subprocess, "Popen", start_and_kill)
    with pytest.raises(UserError, match=r"tokenizer\.type = 'bpe': training on .*\(it was ended by SIGKILL\)"):
        learn("bpe")


def test_the_sample_is_bounded_seeded_and_from_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "SAMPLED_LINES", 50)
    monkeypatch.setattr(vocabulary, "LONGEST_LINE", 10)
    lines = [f"line {number}" for number in range(2000)]
    sample = vocabulary._sample(lambda: iter(["\n".join(lines[:700]), "x" * 25, "\n".join(lines[700:])]))
    assert len(sample) == 50
    assert set(sample) <= {*lines, "x" * 10, "x" * 5}
    numbers = [int(line.split()[1]) for line in sample if line.startswith("line")]
    assert numbers == sorted(numbers)
    assert numbers[0] < 300
    assert numbers[-1] > 1700
    assert sample == vocabulary._sample(lambda: iter(["\n".join(lines[:700]), "x" * 25, "\n".join(lines[700:])]))


def test_a_text_within_the_sample_is_taken_whole() -> None:
    assert vocabulary._sample(lambda: iter(["a\n\nb ", "c" * 2500])) == [
        "a",
        "b ",
        "c" * 1000,
        "c" * 1000,
        "c" * 500,
    ]


def test_counting_words_forgets_the_rarest_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "DISTINCT_WORDS", 10)
    counts = vocabulary._count_words(lambda: (f"often {number} {number + 1}\n" for number in range(0, 1000, 2)))
    assert counts["often"] == 500
    assert len(counts) <= 10


def test_words_too_long_for_a_vocabulary_are_unknown() -> None:
    tokens = learn("word", f"short {'long' * 60}\n")
    assert tokens.encode(f"short {'long' * 60}").tolist() == [tokens.encode("short")[0], tokens.unk_id]


def test_half_a_surrogate_pair_is_an_error() -> None:
    with pytest.raises(UserError, match="not valid Unicode"):
        TOKENIZERS["char"].encode("a\ud83c")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_save_and_load_give_the_same_tokenizer(kind: str, tmp_path: Path) -> None:
    tokenizer.save(TOKENIZERS[kind], tmp_path / "tokenizer.model")
    loaded = tokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.model == TOKENIZERS[kind].model
    assert loaded.encode(TEXT).tolist() == TOKENIZERS[kind].encode(TEXT).tolist()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_model_cut_short_or_garbled_is_an_error(kind: str) -> None:
    model = TOKENIZERS[kind].model
    step = max(1, len(model) // 300)
    for data in [*(model[:end] for end in range(0, len(model), step)), model[:-1], b"not a model"]:
        with pytest.raises(UserError, match=r"not a (complete SentencePiece model|tokenizer of this package)"):
            Tokenizer(data)


def test_a_model_of_another_make_is_an_error(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words"] * 5), model_prefix=str(tmp_path / "other"), vocab_size=12,
        model_type="char", minloglevel=3,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"other\.model: not a tokenizer of this package"):
        tokenizer.load(tmp_path / "other.model")


def test_a_model_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.model: cannot be read"):
        tokenizer.load(tmp_path / "none.model")


@pytest.mark.skipif("KERAS_LSTMGEN_DATA" not in os.environ, reason="KERAS_LSTMGEN_DATA names no folder of corpora")
def test_wikitext_2_has_the_documented_words_and_one_token_for_each_end_of_line() -> None:
    text = Path(os.environ["KERAS_LSTMGEN_DATA"], "wikitext-2", "wiki.valid.tokens").read_text(encoding="utf-8")
    tokens = learn("word", text, vocab_size=100_000)
    assert tokens.vocab_size == 4 + len(set(text.split())) + 1  # documented: the words and <eos>
    assert len(tokens.encode(text)) == 217_646
    assert tokens.unk_id not in tokens.encode(text)
