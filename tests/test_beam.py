"""Beam search finds what its page says, in Keras and in every client alike."""

import itertools
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lstmgen.generation import beam_search, decoding_loop, logits_processors, text_generation
from keras_lstmgen.generation.growing_text import UNFINISHED, Sample
from keras_lstmgen.generation.logits_processors import Constraints, HostOptions
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import inference_step, run_directory
from keras_lstmgen.utils.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export import beam as kit
from export import contract
from export import tokenizer as kit_tokenizer
from export.onnx import generate as onnx
from export.tflite import generate as tflite

V, S, END, START = 5, 2, 2, 1
LONGEST = 20  # tokens in a text
NEVER = {0, START}
Text = tuple[tuple[int, ...], float]  # tokens, sum of log-probabilities


class Table:
    """A model whose next token depends on the last two, logits [V, V, V] of (last but one, last, next), and the place.

    The state is the last token read and how many were, so that a search that mixes up the states of its texts goes
    wrong. Without the place, texts of the same steps in another order would be as likely but for the last bit.
    """

    def __init__(self, seed: int, bias: dict[int, float] | None = None) -> None:
        dice = np.random.default_rng(seed)
        self.logits = dice.normal(0, 2, (V, V, V)).astype(np.float32)
        self.places = dice.normal(0, 0.5, (LONGEST, V)).astype(np.float32)
        fixed = np.zeros(V, np.float32)
        for token, value in (bias or {}).items():
            fixed[token] = value
        fixed[list(NEVER)] = -np.inf
        self.limits = Constraints(HostOptions(), fixed, END, None)

    def step(self, ids: Any, state: Any) -> tuple[Any, Any]:
        """As ``decode.stepper`` gives it."""
        assert len(ids) == len(state)
        last, read = state.astype(int).T
        return self.logits[last, ids] + self.places[read], np.stack([ids, read + 1], axis=1).astype(np.float32)

    def one(self, token: int, state: Any) -> tuple[Any, Any]:
        """As a client has it."""
        logits, state = self.step(np.array([token]), state[np.newaxis])
        return logits[0], state[0]

    def logprob(self, tokens: tuple[int, ...], token: int) -> float:
        """Of a token behind others, the start symbol before them."""
        before, last = (0, START, *tokens)[-2:]
        row = [float(x) for x in self.logits[before, last] + self.places[len(tokens)]]
        return row[token] - math.log(sum(math.exp(x) for x in row))

    def search(self, N: int, A: float, T: int) -> list[beam_search.Hypothesis]:
        """Behind the start symbol."""
        return beam_search.search(self.step, beam_search.BeamSearchConfig(N, A, T), self.limits, [START], S)


def score(text: Text, A: float) -> float:
    """Wu et al. (2016), equation 14."""
    return text[1] / ((5 + len(text[0])) ** A / (5 + 1) ** A)


def everything(table: Table, T: int) -> list[Text]:
    """All texts of up to T tokens that end, and all of T that do not."""
    texts = list[Text]()
    going: list[Text] = [((), 0.0)]
    for n in range(1, T + 1):
        longer = [
            ((*tokens, token), total + table.logprob(tokens, token) + float(table.limits.fixed[token]))
            for tokens, total in going
            for token in set(range(V)) - NEVER
        ]
        texts += [text for text in longer if text[0][-1] == END or n == T]
        going = [text for text in longer if text[0][-1] != END]
    return texts


def narrow(table: Table, N: int, A: float, T: int) -> list[Text]:
    """The page, word by word, without its early end."""
    living: list[Text] = [((), 0.0)]
    found = list[Text]()
    for n in range(1, T + 1):
        candidates = [
            (-(total + table.logprob(tokens, token) + float(table.limits.fixed[token])), place, token, tokens)
            for place, (tokens, total) in enumerate(living)
            for token in set(range(V)) - NEVER
        ]
        living = []
        for rank, (total, _, token, tokens) in enumerate(sorted(candidates)[: 2 * N]):
            if token != END and len(living) < N:
                living.append(((*tokens, token), -total))
            elif token == END and rank < N:
                found.append(((*tokens, token), -total))
        if n == T:
            found += living
    return sorted(found, key=lambda text: -score(text, A))[:N]


def agree(found: list[beam_search.Hypothesis], expected: list[Text], A: float) -> None:
    """The same texts in the same order, with the same sums and scores."""
    assert [text.tokens for text in found] == [list(tokens) for tokens, _ in expected]
    assert [text.total for text in found] == pytest.approx([total for _, total in expected], abs=1e-9)
    assert [text.score for text in found] == pytest.approx([score(text, A) for text in expected], abs=1e-9)


SEEDS, PENALTIES = st.integers(0, 10_000), st.sampled_from([0.0, 0.6, 1.0, 3.0])


@settings(max_examples=40)
@given(SEEDS, PENALTIES, st.integers(1, 4))
def test_a_search_as_wide_as_all_texts_finds_the_best_of_all(seed: int, A: float, T: int) -> None:
    table, N = Table(seed), 3**4
    expected = sorted(everything(table, T), key=lambda text: -score(text, A))
    agree(table.search(N, A, T), expected[:N], A)


@settings(max_examples=150)
@given(SEEDS, st.integers(1, 5), PENALTIES, st.integers(1, 9))
def test_a_narrow_search_is_the_page_s_although_it_ends_early(seed: int, N: int, A: float, T: int) -> None:
    agree(Table(seed).search(N, A, T), narrow(Table(seed), N, A, T), A)


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 4), st.dictionaries(st.integers(2, 4), st.sampled_from([-math.inf, -1.0]), max_size=2))
def test_a_bias_is_added_to_the_log_probability_and_minus_infinity_forbids(
    seed: int, N: int, bias: dict[int, float]
) -> None:
    table = Table(seed, bias)
    expected = [text for text in narrow(table, N, 0.6, 5) if text[1] > -math.inf]
    found = table.search(N, 0.6, 5)
    agree(found, expected, 0.6)
    for text in found:
        own = sum(table.logprob(tuple(text.tokens[:n]), token) for n, token in enumerate(text.tokens))
        assert text.logprob == pytest.approx(own, abs=1e-9)


@settings(max_examples=100)
@given(SEEDS, st.integers(1, 5), PENALTIES, st.integers(1, 9))
def test_the_client_s_search_finds_the_same_of_any_model(seed: int, N: int, A: float, T: int) -> None:
    table = Table(seed)
    metadata = contract.Metadata(V, S, START, END, tuple(NEVER))
    found = kit.search(table.one, [3, START], metadata, kit.Options(N, A), max_new_tokens=T)
    expected = beam_search.search(table.step, beam_search.BeamSearchConfig(N, A, T), table.limits, [3, START], S)
    assert [list(text.tokens) for text in found] == [text.tokens for text in expected]
    assert [text.score for text in found] == pytest.approx([text.score for text in expected], abs=1e-12)
    assert [text.logprob for text in found] == pytest.approx([text.logprob for text in expected], abs=1e-12)


def test_the_length_penalty_is_that_of_the_paper() -> None:
    assert beam_search.penalty(1, 0.6) == 1.0
    assert beam_search.penalty(13, 2.0) == 9.0
    assert beam_search.penalty(13, 0.0) == 1.0


def test_equals_stand_in_the_order_of_their_texts_and_then_of_ids() -> None:
    table = Table(0)
    table.logits[:] = table.places[:] = 0
    assert [text.tokens for text in table.search(3, 0.0, 2)] == [[2], [3, 2], [3, 3]]
    assert [text.tokens for text in table.search(3, 0.0, 1)] == [[2], [3], [4]]


def test_ids_that_end_with_the_end_token_are_a_text_that_is_over() -> None:
    table = Table(1)
    found = beam_search.search(table.step, beam_search.BeamSearchConfig(3, 0.0, 4), table.limits, [START, END], S)
    assert [(text.tokens, text.total, text.ended) for text in found] == [([], 0.0, True)]
    metadata = contract.Metadata(V, S, START, END, tuple(NEVER))
    assert kit.search(table.one, [START, END], metadata, kit.Options(3), max_new_tokens=4) == [kit.Text()]


@pytest.mark.parametrize(
    ("N", "A", "named"), [(0, 0.0, "beams"), (-2, 0.0, "beams"), (3, -0.1, "length"), (3, math.nan, "length")]
)
def test_what_is_out_of_range_names_its_option(N: int, A: float, named: str) -> None:
    with pytest.raises(UserError, match=rf"^--{named}[a-z-]*: .* is out of range; give "):
        beam_search.BeamSearchConfig(N, A)
    with pytest.raises(ValueError, match=rf"^{named}\w* is out of range"):
        kit.Options(N, A)


# Trained models


@pytest.fixture(scope="module")
def stream(trained: Path) -> run_directory.Run:
    """A model of characters, which has no end token to write."""
    return run_directory.load(trained)


@pytest.fixture(scope="module")
def lines(trained_lines: Path) -> run_directory.Run:
    """A model of documents in subwords, which ends its texts."""
    return run_directory.load(trained_lines)


def found(source: run_directory.Run, prompt: str, asked: beam_search.BeamSearchConfig, **host: Any) -> list[Sample]:
    """What a search finds, under options of the host."""
    limits = text_generation.compile_constraints(source, HostOptions(**host))
    return text_generation.search(source, decoding_loop.compile_step(source.weights), prompt, asked, constraints=limits)


@pytest.mark.parametrize("fixture", ["stream", "lines"])
def test_one_beam_takes_the_likeliest_token_each_time(fixture: str, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(fixture)
    for prompt in ("", "the ", "月a"):
        greedy = Generator(source).generate(prompt, GenerationConfig(30, Options(temperature=0.0)))[0]
        (sample,) = found(source, prompt, beam_search.BeamSearchConfig(1, 0.0, 30))
        assert (sample.text, sample.tokens, sample.finish_reason) == (greedy.text, greedy.tokens, greedy.finish_reason)
        assert sample.logprob == sample.score == pytest.approx(greedy.logprob, abs=1e-3)


def test_scores_are_those_of_the_model_over_all_ids(lines: run_directory.Run) -> None:
    samples = found(lines, "the ", beam_search.BeamSearchConfig(5, 0.7, 25))
    assert len({sample.text for sample in samples}) == 5
    assert "stop" in [sample.finish_reason for sample in samples]
    prompt = lines.prompt_ids("the ")
    for sample in samples:
        ids = np.array([prompt + sample.tokens], np.int32)
        logprobs, _ = inference_step.score(lines.weights, ids, np.zeros((1, lines.metadata.state_size), np.float32))
        own = float(np.sum(logprobs.numpy()[0, len(prompt) - 1 :]))
        assert sample.logprob == pytest.approx(own, abs=1e-3)
        assert sample.score == pytest.approx(score((tuple(sample.tokens), own), 0.7), abs=1e-3)
    assert [sample.score for sample in samples] == sorted((sample.score or 0 for sample in samples), reverse=True)


def test_a_search_finds_the_same_again(lines: run_directory.Run) -> None:
    asked = beam_search.BeamSearchConfig(6, 0.5, 25)
    assert found(lines, "the ", asked) == found(lines, "the ", asked)


def test_what_the_host_forbids_no_beam_holds(stream: run_directory.Run) -> None:
    asked = beam_search.BeamSearchConfig(4, 0.0, 24)
    free = found(stream, "The ", asked)[0].tokens
    assert len(logits_processors.repeats(np.array(free[:-1], np.int32), 2))  # a search of characters goes round
    for sample in found(stream, "The ", asked, no_repeat_ngram=2):
        text = stream.prompt_ids("The ") + sample.tokens
        assert len(set(itertools.pairwise(text))) == len(text) - 1
    for sample in found(stream, "The ", asked, regex="[a-z]{3,9}(, [a-z]{2})?[.!]"):
        assert re.fullmatch("[a-z]{3,9}(, [a-z]{2})?[.!]", sample.text)
        assert (sample.finish_reason, sample.note) == ("stop", "")
    (sample,) = found(stream, "The ", beam_search.BeamSearchConfig(1, 0.0, 4), regex="[a-z]{5}")
    assert (sample.finish_reason, sample.note) == ("length", UNFINISHED)


def test_a_search_that_can_go_nowhere_gives_what_it_has(lines: run_directory.Run) -> None:
    samples = found(lines, "", beam_search.BeamSearchConfig(3, 0.0, 9), regex="(on){3}", no_repeat_ngram=1)
    assert [(sample.text, sample.finish_reason) for sample in samples] == [("on", "stop")]
    assert samples[0].note.startswith("all tokens are excluded by --no-repeat-ngram and --regex")
    assert [sample.text for sample in found(lines, "", beam_search.BeamSearchConfig(3, 0.0, 9), regex="")] == [""]


def test_a_stop_string_ends_a_text_of_the_search_and_stands_outside_it(stream: run_directory.Run) -> None:
    asked, step = beam_search.BeamSearchConfig(3, 0.0, 20), decoding_loop.compile_step(stream.weights)
    free = text_generation.search(stream, step, "The ", asked)[0].text
    samples = text_generation.search(stream, step, "The ", asked, stop=[free[8:10]])
    assert [sample.finish_reason for sample in samples].count("stop") >= 1
    for sample in samples:
        assert free[8:10] not in sample.text
        assert stream.tokenizer.decode(sample.tokens) == sample.text + free[8:10] * (sample.finish_reason == "stop")


ARTIFACTS = {"tflite": (tflite, "tflite/model.tflite"), "onnx": (onnx, "onnx/model.onnx")}


@pytest.mark.parametrize("artifact", ARTIFACTS)
@pytest.mark.parametrize("fixture", ["trained", "trained_lines"])
def test_a_client_finds_the_texts_of_keras(fixture: str, artifact: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(fixture)
    client, place = ARTIFACTS[artifact]
    step, metadata, words = client.load(folder / place)
    source, about, pieces = run_directory.load(folder), contract.read_metadata(metadata), kit_tokenizer.read(words)
    for prompt, N, A in (("", 4, 0.0), ("the ", 1, 0.0), ("床前", 3, 1.0), ("a moon", 6, 0.6)):
        ids = contract.prompt_ids(kit_tokenizer.encode(pieces, prompt), about)
        texts = kit.search(step, ids, about, kit.Options(N, A), max_new_tokens=23)
        samples = found(source, prompt, beam_search.BeamSearchConfig(N, A, 23))
        assert [kit_tokenizer.decode(pieces, text.tokens) for text in texts] == [sample.text for sample in samples]
        assert [list(text.tokens) for text in texts] == [sample.tokens for sample in samples]
        assert [text.score for text in texts] == pytest.approx([sample.score for sample in samples], abs=1e-3)
        assert [contract.finish_reason(text.tokens, about) for text in texts] == [
            sample.finish_reason for sample in samples
        ]
