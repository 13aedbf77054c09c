"""A loss is the loss of the whole text, in every unit; a copy is found wherever it stands."""

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.config import recipe
from keras_lstmgen.data import token_cache
from keras_lstmgen.evaluation import likelihood, memorization
from keras_lstmgen.models import builder, inference_step

V, H, N = 9, 6, 1500
BUILT = builder.build(recipe.Model(embedding_size=4, units=H, layers=2, dropout=0.0), V)
WEIGHTS = inference_step.weights_of(BUILT)
IDS = np.random.default_rng(0).integers(0, V, N)


@tf.function(input_signature=[tf.TensorSpec([1, None], tf.int64)], autograph=False)
def read(ids: Any) -> Any:
    """Return the log-probabilities of the Sequential, float32 [T, V], in a graph, which is faster than eager steps."""
    return tf.nn.log_softmax(BUILT(ids, training=False)[0])


@pytest.fixture(scope="module")
def whole() -> float:
    """The whole text in one call of the Sequential: nats of all tokens but the first."""
    logprobs = read(IDS[np.newaxis, :-1]).numpy()
    return -float(np.take_along_axis(logprobs, IDS[1:, np.newaxis], axis=1).sum(dtype=np.float64))


def test_the_loss_is_that_of_the_whole_text_with_the_state_carried(whole: float) -> None:
    assert likelihood.stream_nll(WEIGHTS, IDS) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("parts", [2, 5, 7])
def test_in_parts_side_by_side_after_a_warm_up_it_is_the_same(whole: float, parts: int) -> None:
    assert likelihood.stream_nll(WEIGHTS, IDS, parts) == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_every_token_is_scored_once(parts: int) -> None:
    scored: list[int] = []
    likelihood.stream_nll(WEIGHTS, IDS, parts, on_progress=scored.append)
    assert sum(scored) == N - 1


@pytest.mark.parametrize("length", [2, 3, 256, 257, 258, 513])
def test_texts_of_every_length_are_scored_to_the_end(length: int) -> None:
    logprobs = read(IDS[np.newaxis, : length - 1]).numpy()
    expected = -logprobs[np.arange(length - 1), IDS[1:length]].sum(dtype=np.float64)
    assert likelihood.stream_nll(WEIGHTS, IDS[:length]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_a_window_read_layer_by_layer_is_scored_as_step_by_step(tied: bool) -> None:
    B, P = 3, 20
    built = builder.build(recipe.Model(embedding_size=H if tied else 4, units=H, layers=2, dropout=0.0, tied=tied), V)
    weights, ids = inference_step.weights_of(built), IDS[: B * P].reshape(B, P).astype(np.int32)
    state = np.random.default_rng(1).normal(size=(B, 4 * H)).astype(np.float32)
    expected = inference_step.score(weights, tf.constant(ids), tf.constant(state))
    for found, wanted in zip(likelihood.scorer(weights)(ids, state), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_large_vocabulary_is_scored_in_shorter_windows(whole: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    score = likelihood.scorer(WEIGHTS)

    def call(ids: Any, state: Any) -> Any:
        shapes.append(ids.shape)
        return score(ids, state)

    monkeypatch.setattr(likelihood, "MAX_LOGITS", 5 * V * 40)
    assert likelihood.stream_nll(WEIGHTS, IDS, parts=5, score=call) == pytest.approx(whole, rel=1e-4)
    assert {B for B, _ in shapes} == {5}
    assert max(P for _, P in shapes) == 32 + 1


def test_the_loss_of_fresh_windows_is_the_mean_over_windows_read_from_an_empty_state() -> None:
    """Against the Sequential, one window at a time: all windows of a short text, seeded ones of a long one."""
    length, windows = 7, 30

    def mean(starts: Any) -> float:
        logprobs = [read(IDS[np.newaxis, at : at + length]) for at in starts]
        rows = np.arange(length)
        pairs = zip(starts, logprobs, strict=True)
        return -float(np.mean([row.numpy()[rows, IDS[at + 1 :][rows]] for at, row in pairs]))

    few = IDS[: windows + length]
    assert likelihood.windows_cross_entropy(WEIGHTS, few, length, windows) == pytest.approx(
        mean(range(windows)), rel=1e-5
    )
    drawn = np.random.default_rng(0).integers(N - length, size=windows)
    assert drawn.max() + length < N
    assert likelihood.windows_cross_entropy(WEIGHTS, IDS, length, windows) == pytest.approx(mean(drawn), rel=1e-5)


def test_a_text_shorter_than_a_window_is_one_window(whole: float) -> None:
    assert likelihood.windows_cross_entropy(WEIGHTS, IDS, length=5000) == pytest.approx(whole / (N - 1), rel=1e-5)


def test_units_follow_from_the_nats_and_the_counts() -> None:
    loss = likelihood.loss_in_units(12.0, {"tokens": 8, "characters": 20, "bytes": 24, "words": 4})
    assert loss == {
        "nats_per_token": 1.5,
        "bits_per_character": pytest.approx(12 / math.log(2) / 20),
        "bits_per_byte": pytest.approx(12 / math.log(2) / 24),
        "perplexity": pytest.approx(math.exp(1.5)),
        "word_perplexity": pytest.approx(math.exp(3)),
    }


def test_a_hopeless_loss_is_a_number_that_json_can_hold() -> None:
    assert math.isfinite(
        likelihood.loss_in_units(1e6, {"tokens": 1, "characters": 1, "bytes": 1, "words": 1})["perplexity"]
    )


pieces_of = st.lists(st.text("ab\n", max_size=9), max_size=6)


@given(st.lists(st.text("ab\n", max_size=14), max_size=3), pieces_of)
def test_the_longest_copy_is_found_also_across_pieces(samples: list[str], pieces: list[str]) -> None:
    training = "".join(pieces)
    found = memorization.longest_copies(samples, pieces)
    for sample, copy in zip(samples, found, strict=True):
        passages = {sample[i:j] for i in range(len(sample)) for j in range(i, len(sample) + 1)}
        assert len(copy) == max((len(passage) for passage in passages if passage in training), default=0)
        assert copy in sample
        assert copy in training


def test_a_copy_is_found_across_the_blocks_that_short_pieces_are_joined_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "BATCH", 5)
    assert memorization.longest_copies(["xbcdefx", "", "hij"], ["abc", "defg", "hi", "j", "k"]) == ["bcdef", "", "hij"]


@given(st.text("ab\n", max_size=14), pieces_of)
def test_lines_seen_are_whole_lines(sample: str, pieces: list[str]) -> None:
    training = set("".join(pieces).split("\n"))
    lines = [line for line in sample.split("\n")[:-1] if line]
    assert memorization.whole_lines(sample) == lines
    assert memorization.lines_seen(lines, pieces) == set(lines) & training
