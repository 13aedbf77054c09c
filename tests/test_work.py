"""Work and memory grow with the size of a text, not with its square, and what stays the same is worked out once."""

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pytest

from keras_lstmgen.config import recipe
from keras_lstmgen.data import readers, splits, text_reader
from keras_lstmgen.evaluation import memorization, naive_bayes, report, task, text_metrics
from keras_lstmgen.generation import batch_generation, beam_search, decoding_loop, detokenizer, text_generation
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.generation.logits_processors import Constraints, HostOptions
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.tokenizers import vocabulary
from keras_lstmgen.tokenizers.tokenizer import Tokenizer


class Counted(str):
    """A text that counts the characters copied out of it, how often it is cut, and how often it is measured."""

    __slots__ = ()
    copied = cuts = lengths = 0

    @classmethod
    def reset(cls) -> None:
        cls.copied = cls.cuts = cls.lengths = 0

    def __getitem__(self, place: SupportsIndex | slice) -> "Counted":
        part = Counted(super().__getitem__(place))
        Counted.copied, Counted.cuts = Counted.copied + str.__len__(part), Counted.cuts + 1
        return part

    def __len__(self) -> int:
        Counted.lengths += 1
        return super().__len__()

    def __radd__(self, before: str) -> "Counted":
        return Counted(str.__add__(before, self))

    def split(self, *_: Any) -> list[Any]:
        return [self]


GOLDEN = Path(__file__).parent / "golden" / "run"


@pytest.fixture(scope="module")
def model() -> run_directory.Run:
    """The committed run, on a stream of characters."""
    return run_directory.load(GOLDEN)


def peak(call: Callable[[], object]) -> int:
    """Return the most bytes that were held at a time."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


PIECE = 1 << 16


def one_line() -> Iterator[str]:
    """16 million characters without a newline, in 256 pieces."""
    return (f"{number:08}" * (PIECE // 8) for number in range(256))


@pytest.mark.parametrize("samples", [[""], ["", "no such passage"]])
def test_the_search_for_copies_keeps_no_more_of_the_corpus_than_a_sample_is_long(samples: list[str]) -> None:
    assert peak(lambda: memorization.longest_copies(samples, one_line())) < 16 * PIECE


def test_lines_are_looked_for_in_a_text_without_newlines_in_little_memory() -> None:
    assert peak(lambda: memorization.lines_seen(["a line"], one_line())) < 16 * PIECE
    assert memorization.lines_seen(["00000007", "x"], ["0" * 7, "7", "\n"]) == {"00000007"}


def test_short_documents_are_searched_together() -> None:
    Counted.reset()
    sample = Counted("no passage of this stands there")
    memorization.longest_copies([sample], ("q" * 10 for _ in range(1000)))
    assert 0 < Counted.cuts <= 2 * str.__len__(sample)


def test_a_text_without_a_place_to_cut_is_cut_into_pieces_once() -> None:
    Counted.reset()
    text = Counted("x" * (64 * splits.PIECE))
    assert [str.__len__(piece) for piece in splits._cut_after_newlines(iter([text]))] == [splits.PIECE] * 64
    assert Counted.copied <= 3 * str.__len__(text)


def test_a_line_of_many_pieces_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Counted.reset()
    monkeypatch.setattr(readers, "read_text", lambda _: (Counted("ab") for _ in range(200)))
    assert list(readers._lines(text_reader.Source("one line", None))) == ["ab" * 200]
    assert Counted.lengths <= 2 * 200


def test_a_text_is_put_together_once_however_many_tokens_it_has(
    model: run_directory.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = list[int]()
    letter = int(model.tokenizer.encode("e")[0])

    @dataclass
    class Watched(Sample):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "text":
                put.append(len(value))
            super().__setattr__(name, value)

    def loop(request: decoding_loop.Request, state: decoding_loop.DecodingState) -> decoding_loop.DecodingResult:
        tokens = np.full(request.noise.shape, letter, np.int32)
        return decoding_loop.DecodingResult(_Array(tokens), _Array(np.zeros(tokens.shape, np.float32)), state)

    monkeypatch.setattr(text_generation, "Sample", Watched)
    generator = Generator(model)
    generator.loop = loop
    (sample,) = generator.generate("a", GenerationConfig(5000))
    assert sample.text == "e" * 5000
    assert sum(put) == 5000


@dataclass(frozen=True)
class _Array:
    """What stands for a tensor."""

    values: Any

    def numpy(self) -> Any:
        return self.values


def test_a_search_reads_only_the_end_of_a_text_for_stop_strings(
    model: run_directory.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[int]()
    step, decoded = decoding_loop.compile_step(model.weights), Tokenizer.decode

    def counting(self: Tokenizer, ids: Sequence[int]) -> str:
        read.append(len(ids))
        return decoded(self, ids)

    monkeypatch.setattr(Tokenizer, "decode", counting)
    text_generation.search(model, step, "The ", beam_search.BeamSearchConfig(2, 0.0, 40))
    assert not read
    text_generation.search(model, step, "The ", beam_search.BeamSearchConfig(2, 0.0, 40), stop=["zq", ""])
    assert read
    assert max(read) <= 2 + 3


def test_the_end_of_a_text_has_the_stop_strings_that_the_whole_ends_with() -> None:
    """Over texts of bytes, half characters among them, of which no beginning has the string."""
    words = Tokenizer(vocabulary.train(recipe.Tokenizer(type="char"), lambda: iter(["am"])))
    spelled = [*words.encode("明m"), *words.encode("é€😀")]
    dice, found = np.random.default_rng(0), 0
    for _ in range(3000):
        tokens, word = (
            dice.choice(spelled, size=dice.integers(1, 9)).tolist(),
            dice.choice(["é", "m\ufffd", "\ufffd", "😀m"]),
        )
        if word in words.decode(tokens[:-1]):
            continue
        is_there = word in words.decode(tokens)
        found += is_there
        assert (word in detokenizer.last_characters(words, tokens, len(word.encode()))) == is_there
    assert found > 50


def test_a_search_keeps_no_more_texts_than_it_gives_back() -> None:
    """A model that would end after every token, so that each step finds a text."""
    logits = np.log(np.array([[1e-9, 1e-9, 0.5, 0.3, 0.2]], np.float32))
    limits = Constraints(HostOptions(), np.array([-np.inf, -np.inf, 0, 0, 0], np.float32), 2, None)
    kept = list[int]()

    def best(asked: beam_search.BeamSearchConfig, found: list[beam_search.Hypothesis]) -> list[beam_search.Hypothesis]:
        kept.append(len(found))
        return original(asked, found)

    original = beam_search._best
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam_search, "_best", best)
        beam_search.search(
            lambda ids, state: (logits.repeat(len(ids), 0), state),
            beam_search.BeamSearchConfig(2, 10.0, 60),
            limits,
            [3],
            1,
        )
    assert len(kept) > 20
    assert max(kept) <= 2 * 2


# What is the same for every row


def test_the_judge_reads_each_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known = naive_bayes.train((f"kind {number % 3}", f"word{number} of it") for number in range(30))
    asked, features = list[str](), naive_bayes.features

    def counting(text: str) -> list[str]:
        asked.append(text)
        return features(text)

    monkeypatch.setattr(naive_bayes, "features", counting)
    found = naive_bayes.predict(known, [f"word{number}" for number in range(6)])
    assert found == [f"kind {number % 3}" for number in range(6)]
    assert len(asked) == 6


def test_an_answer_is_brought_to_its_form_once_for_all_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    formed, normalised = Counter[str](), text_metrics.normalized

    def counting(text: str) -> str:
        formed[text] += 1
        return normalised(text)

    monkeypatch.setattr(text_metrics, "normalized", counting)
    text_metrics.exact_match(["an answer"], [["one", "two", "three"]])
    assert formed == Counter(["an answer", "one", "two", "three"])


def test_the_training_text_is_read_once_for_all_samples_and_kinds(
    model: run_directory.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[str]()
    settings = recipe.parse(model.metadata.recipe).corpus

    def pieces(_: recipe.Corpus, split: str) -> Iterator[str]:
        read.append(split)
        return iter(["kind\nthe text\n"])

    monkeypatch.setattr(splits, "pieces", pieces)
    written = [Sample(text=text, finish_reason="stop") for text in ("the text", "a", "b")]
    assert report._copies_report(written, settings)["longest_copy"] == "the text"
    assert len(read) == 2  # for copies, and for lines
    read.clear()
    of_kinds = task.Task(model, settings, settings, recipe.Evaluate(), 1)
    assert of_kinds.shares_in_training({"a": ["x", ""], "b": []}) == {"a": 0.0, "b": 0.0}
    assert len(read) == 1


def test_the_loop_that_writes_is_compiled_once_for_all_kinds(
    model: run_directory.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, compile_loop = list[str](), text_generation.compile_loop

    def counting(*arguments: Any) -> Any:
        compiled.append("again")
        return compile_loop(*arguments)

    monkeypatch.setattr(text_generation, "compile_loop", counting)
    found = batch_generation.samples_per_source(model, ["a", "The"], 2, 3)
    assert [len(texts) for texts in found.values()] == [2, 2]
    assert len(compiled) == 1
