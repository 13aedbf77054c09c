"""Choosing a token is what docs/contract.md says, held against an oracle that sorts and adds by hand."""

import itertools
import math
import sys
from dataclasses import astuple
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, currently_in_test_context, given, settings
from hypothesis import strategies as st

from keras_lstmgen.generation import sampling
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.utils.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests are no package that is installed
from tests.logits import logits

V = 7


@tf.function
def _choose(logits: Any, noise: Any, seen: Any, rows: sampling.Rows) -> Any:
    ready = sampling.ready(rows, logits.shape[1])
    return sampling.choose(logits, sampling.ready_noise(noise, rows), seen, ready)


def choose(logits: Any, noise: Any, seen: Any, rows: sampling.Rows, unsampled: Any) -> Any:
    """Draw ids [B] as ``decode.write`` does: among those that may be written."""
    allowed = np.flatnonzero(~unsampled)
    places = _choose(logits[:, allowed], noise[:, np.newaxis], seen[:, allowed], sampling.Rows(*map(tf.constant, rows)))
    return allowed[places[:, 0]]


def drawn(logits: list[float], noise: float, options: Options, seen: Any = (), unsampled: Any = ()) -> int:
    """One row."""
    mask = np.isin(np.arange(len(logits)), list(seen))[np.newaxis]
    never = np.isin(np.arange(len(logits)), list(unsampled))
    ids = choose(np.array([logits], np.float32), np.array([noise], np.float32), mask, sampling.rows([options]), never)
    return int(ids[0])


def scaled(logits: list[float], options: Options, seen: Any, unsampled: Any) -> dict[int, float]:
    """The logit of each id that may be written, after penalty and temperature, in float32: equals stay equal."""
    r, T = np.float32(options.repetition_penalty), np.float32(options.temperature or 1.0)
    numbers = [np.float32(x) for x in logits]
    penalised = [(x / r if x > 0 else x * r) if token in seen else x for token, x in enumerate(numbers)]
    return {token: float(x / T) for token, x in enumerate(penalised) if token not in unsampled}


def sure(holds: bool) -> None:
    """Leave an example out that rounding decides; one that a test chose is none of these."""
    if currently_in_test_context():
        assume(holds)
    else:
        assert holds


def thresholds(left: dict[int, float], options: Options) -> list[float]:
    """Where each option that is on cuts, in Python's float64, from the words of the contract."""
    falling = sorted(left.values(), reverse=True)
    whole, cuts, total = sum(math.exp(x) for x in falling), [-math.inf], 0.0
    if options.top_k:
        cuts.append(falling[min(options.top_k, len(falling)) - 1])
    if options.min_p:
        cuts.append(falling[0] + math.log(options.min_p))
    for x in falling if options.top_p < 1 else []:
        total += math.exp(x) / whole
        sure(abs(total - options.top_p) > 1e-5)  # else rounding decides
        if total >= options.top_p:
            return [*cuts, x]
    return cuts


def probabilities(logits: list[float], options: Options, seen: Any, unsampled: Any) -> list[float]:
    """What each id is drawn with."""
    left = scaled(logits, options, seen, unsampled)
    if options.temperature == 0:
        best = max(left, key=lambda token: (left[token], -token))
        return [float(token == best) for token in range(len(logits))]
    cut = max(thresholds(left, options))
    sure(all(x == cut or abs(x - cut) > 1e-5 for x in left.values()))
    weights = [math.exp(left[token]) if token in left and left[token] >= cut else 0.0 for token in range(len(logits))]
    return [weight / sum(weights) for weight in weights]


mixes = st.builds(
    Options,
    repetition_penalty=st.sampled_from([0.8, 1.0, 1.3]),
    temperature=st.sampled_from([0.0, 0.3, 0.9, 1.0, 2.0]),
    top_k=st.integers(0, V + 2),
    top_p=st.sampled_from([*np.arange(0.047, 1, 0.05).tolist(), 1.0]),
    min_p=st.sampled_from([0.0, 0.03, 0.4]),
)


@settings(max_examples=300, deadline=None)
@given(
    logits(V),
    mixes,
    st.sets(st.integers(0, V - 1)),
    st.sets(st.integers(0, V - 1), max_size=V - 1),
    st.floats(0, 0.999),
)
def test_any_mix_of_options_draws_by_the_contract_s_words(
    logits: list[float], options: Options, seen: set[int], unsampled: set[int], noise: float
) -> None:
    cumulative = np.cumsum(probabilities(logits, options, seen, unsampled))
    assume(options.temperature == 0 or np.min(np.abs(cumulative - noise)) > 1e-5)  # between two ids, rounding decides
    assert drawn(logits, noise, options, seen, unsampled) == int(np.argmax(cumulative > noise))


@pytest.mark.parametrize("p", np.arange(0.047, 1, 0.08))
def test_top_p_keeps_just_as_many_as_the_sum_needs(p: float) -> None:
    logits, noise, options = [0.9, 2.0, 0.1, 1.4, -0.5, 1.7, 0.5], np.linspace(0, 0.999, 400), Options(top_p=p)
    rows = sampling.rows([options] * len(noise))
    seen = np.zeros((len(noise), V), bool)
    ids = choose(np.array([logits] * len(noise), np.float32), noise.astype(np.float32), seen, rows, np.zeros(V, bool))
    expected = probabilities(logits, options, (), ())
    assert set(ids.tolist()) == {token for token in range(V) if expected[token]}


def test_each_id_gets_its_share_of_the_noise_in_the_order_of_ids() -> None:
    noise = np.linspace(0.001, 0.999, 500).astype(np.float32)
    rows, seen = sampling.rows([Options()] * len(noise)), np.zeros((len(noise), V), bool)
    ids = choose(np.zeros((len(noise), V), np.float32), noise, seen, rows, np.zeros(V, bool))
    np.testing.assert_array_equal(ids, np.floor(noise * V))


@pytest.mark.parametrize(("noise", "token"), [(0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3)])
def test_noise_at_the_very_edge_of_a_share_draws_the_next_id(noise: float, token: int) -> None:
    assert drawn([0.0] * V, noise, Options(), unsampled=(4, 5, 6)) == token


def test_greedy_takes_the_lowest_id_among_equals_and_looks_at_nothing_else() -> None:
    options = Options(temperature=0.0, top_k=1, top_p=0.1, min_p=1.0)
    assert drawn([1, 3, 3, 2, 0, 0, 0], 0.99, options) == 1
    assert drawn([1, 3, 3, 2, 0, 0, 0], 0.99, options, unsampled={1}) == 2
    assert drawn([1, 3, 3, 2, 0, 0, 0], 0.99, Options(temperature=0.0, repetition_penalty=2.0), seen={1}) == 2


def test_top_k_keeps_equals_of_the_k_th() -> None:
    logits = [0.0, 5, 5, 5, 0, 0, 0]
    assert {drawn(logits, noise, Options(top_k=1)) for noise in (0.1, 0.5, 0.9)} == {1, 2, 3}


def test_top_p_keeps_the_token_that_reaches_the_sum() -> None:
    logits = [math.log(p) for p in (0.4, 0.3, 0.2, 0.04, 0.03, 0.02, 0.01)]
    assert {drawn(logits, noise, Options(top_p=0.6)) for noise in np.linspace(0, 0.999, 50)} == {0, 1}


def test_the_largest_noise_draws_the_last_one_kept_that_has_a_part_of_the_sum() -> None:
    # A third thrice adds up to less than 1 in float32. What has less than 2^-36 is never drawn.
    for noise in (1 - 2**-24, 1.0):  # 1 is not asked for, but does not leave the ids
        assert drawn([0.0] * 3 + [-50.0] * 4, noise, Options(top_k=3)) == 2
        assert drawn([-50.0] + [0.0] * 3 + [-50.0] * 3, noise, Options()) == 3


def test_no_noise_draws_the_first_id_that_has_a_part_of_the_sum() -> None:
    assert drawn([-50.0] + [0.0] * 3 + [-50.0] * 3, 0.0, Options()) == 1


def exactly(logits: Any, noise: Any, options: Options) -> int:
    """The sums of the contract in Python's integers and fractions, from the graph's own softmax."""
    x = tf.constant(logits / np.float32(options.temperature))
    if options.top_p < 1:
        falling = tf.sort(x, direction="DESCENDING")
        sums = list(itertools.accumulate(whole(falling)))
        reached = next(i for i, c in enumerate(sums) if c >= Fraction(options.top_p) * sums[-1])
        x = tf.where(x >= falling[reached], x, -np.inf)
    sums = list(itertools.accumulate(whole(x)))
    return next(i for i, c in enumerate(sums) if c > Fraction(float(noise)) * sums[-1])


def whole(x: Any) -> list[int]:
    """Probabilities in parts of 2^36."""
    return [int(Fraction(p) * 2**36) for p in tf.nn.softmax(x[tf.newaxis])[0].numpy().tolist()]


@pytest.mark.parametrize("options", [Options(), Options(temperature=1.3), Options(top_p=0.875)])
def test_a_large_vocabulary_is_drawn_by_exact_sums(options: Options) -> None:
    dice, A = np.random.default_rng(5), 33_000
    logits = (dice.normal(0, 3, (12, A))).astype(np.float32)
    noise = sampling.noise(list(range(12)), 1)[:, 0]
    ids = choose(logits, noise, np.zeros((12, A), bool), sampling.rows([options] * 12), np.zeros(A, bool))
    assert ids.tolist() == [exactly(row, number, options) for row, number in zip(logits, noise, strict=True)]


def test_an_id_that_is_never_written_is_not_even_when_it_is_likeliest() -> None:
    assert all(
        drawn([50.0, 1, 1, 1, 1, 1, 1], noise, Options(), unsampled={0}) > 0 for noise in np.linspace(0, 0.999, 20)
    )


def test_each_row_has_its_own_options() -> None:
    logits = np.array([[0, 1, 2, 3, 4, 5, 6]] * 3, np.float32)
    rows = sampling.rows([Options(temperature=0.0), Options(top_k=2), Options()])
    ids = choose(logits, np.array([0, 0, 0], np.float32), np.zeros((3, V), bool), rows, np.zeros(V, bool))
    assert ids.tolist() == [6, 5, 0]


@given(st.integers(0, 2**64 - 1), st.integers(0, 50), st.integers(1, 20))
@settings(deadline=None)
def test_noise_is_in_range_and_goes_on_where_it_stopped(seed: int, start: int, N: int) -> None:
    whole = sampling.noise([seed, 1], start + N)
    np.testing.assert_array_equal(sampling.noise([seed, 1], N, start), whole[:, start:])
    assert whole.dtype == np.float32
    assert np.all((whole >= 0) & (whole < 1))


def test_noise_is_the_published_hash() -> None:
    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    for seed in (0, 1, 2**32, 2**64 - 1, 0x123456789ABCDEF):
        key = mix(mix(((seed & 0xFFFFFFFF) + 0x9E3779B9) % 2**32) ^ (seed >> 32))
        expected = [(mix(key ^ mix((t + 0x9E3779B9) % 2**32)) >> 8) / 2**24 for t in range(5)]
        np.testing.assert_array_equal(sampling.noise([seed], 5)[0], np.array(expected, np.float32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"repetition_penalty": 0.0}, {"repetition_penalty": -1.0}, {"repetition_penalty": math.inf},
        {"temperature": -0.1}, {"temperature": 1e-9}, {"temperature": math.nan}, {"temperature": math.inf},
        {"top_k": -1}, {"top_k": 2**31}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": math.nan},
        {"min_p": -0.1}, {"min_p": 1.5},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Options(**wrong)


def test_rows_keep_the_order_of_the_options() -> None:
    options = Options(1.5, 0.7, 9, 0.8, 0.1)
    assert [column.item() for column in sampling.rows([options])] == pytest.approx(list(astuple(options)))
