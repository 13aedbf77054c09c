"""The kit's sampling keeps docs/contract.md, held against oracles that are written otherwise."""

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export.contract import (
    Floats,
    Metadata,
    Options,
    choose,
    finish_reason,
    generate,
    noise,
    prompt_ids,
    read_metadata,
)

V, S = 8, 3
SEEDS = st.integers(-(2**63), 2**64 - 1)


def noise_of_the_page(seed: int, t: int) -> float:
    """The page's formula, letter by letter, in Python's own integers."""
    wrap = 0xFFFFFFFF

    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D & wrap
        x ^= x >> 15
        x = x * 0x846CA68B & wrap
        return x ^ (x >> 16)

    seed %= 2**64
    key = mix(mix((seed & wrap) + 0x9E3779B9 & wrap) ^ (seed >> 32))
    return (mix(key ^ mix(t + 0x9E3779B9 & wrap)) >> 8) / 2**24


def test_noise_of_known_seeds() -> None:
    """Worked for seed 0 and t = 0: mix(0x9e3779b9) = 0x01fce552 = a, for seed and t alike;

    key = mix(a) = 0xae6f80f1; mix(key ^ a) = 0x38607d74, whose upper 24 bits are 3694717.
    """
    assert (noise(0, 3) * 2**24).tolist() == [3694717, 11638452, 8946293]
    assert (noise(1, 3) * 2**24).tolist() == [30932, 9403609, 13036496]
    assert (noise(-1, 3) * 2**24).tolist() == [121041, 14787007, 6873863]
    assert (noise(2**32, 3) * 2**24).tolist() == [14674190, 13136535, 6455723]


@settings(deadline=None)
@given(SEEDS, st.integers(0, 2**33))
def test_noise_is_the_formula_of_the_page(seed: int, start: int) -> None:
    assert noise(seed, 5, start).tolist() == [noise_of_the_page(seed, start + t) for t in range(5)]


@settings(deadline=None)
@given(SEEDS, st.integers(0, 40))
def test_noise_continues_where_an_earlier_part_ended(seed: int, cut: int) -> None:
    assert [*noise(seed, cut), *noise(seed, 40 - cut, cut)] == noise(seed, 40).tolist()


def nothing_seen(logits: list[float]) -> Any:
    return np.zeros(len(logits), np.bool_)


def reachable(logits: list[float], unsampled: tuple[int, ...] = (), **options: Any) -> set[int]:
    """The ids that some noise chooses."""
    values = np.array(logits, np.float32)
    many = np.append(np.linspace(0, 1, 999, endpoint=False, dtype=np.float32), np.float32(1 - 2**-24))
    return {choose(values, float(u), nothing_seen(logits), Options(**options), unsampled) for u in many}


def chosen(logits: list[float], u: float, seen: tuple[int, ...] = (), **options: Any) -> int:
    mask = nothing_seen(logits)
    mask[list(seen)] = True
    return choose(np.array(logits, np.float32), u, mask, Options(**options))


def test_noise_picks_the_first_id_whose_cumulative_probability_is_above_it() -> None:
    """Four equal logits are a quarter each: 0.25 is not above 0.25, so it belongs to id 1."""
    assert [chosen([2.0] * 4, u) for u in (0.0, 0.2499, 0.25, 0.5, 0.9999)] == [0, 0, 1, 2, 3]


def test_rounding_that_leaves_no_id_above_the_noise_falls_to_the_last_one_kept() -> None:
    """A cumulative sum never exceeds a noise of 1, which stands for the sum's rounding here."""
    assert chosen([1.0, 1.0, 0.0, -9.0], 1.0, top_k=2) == 1


def test_temperature_0_takes_the_largest_logit_and_the_lowest_id_among_equals() -> None:
    assert chosen([1.0, 3.0, 2.0, 3.0], 0.99, temperature=0) == 1


def test_temperature_0_skips_what_follows_but_not_what_comes_before() -> None:
    assert chosen([3.0, 2.0], 0.5, seen=(0,), temperature=0, repetition_penalty=2.0) == 1


def test_temperature_divides_the_logits() -> None:
    """Logits ln 3 and 0 are 3/4 and 1/4; halved they are 0.634 and 0.366, doubled 0.9 and 0.1."""
    logits = [math.log(3), 0.0]
    assert [chosen(logits, 0.7, temperature=T) for T in (1.0, 2.0, 0.5)] == [0, 1, 0]
    assert [chosen(logits, 0.89, temperature=T) for T in (1.0, 2.0, 0.5)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("k", "kept"),
    [(0, {0, 1, 2, 3, 4}), (1, {2}), (2, {0, 2, 4}), (3, {0, 2, 4}), (4, {0, 1, 2, 4}), (9, {0, 1, 2, 3, 4})],
)
def test_top_k_keeps_equals_of_the_kth(k: int, kept: set[int]) -> None:
    assert reachable([1.0, 0.5, 2.0, 0.0, 1.0], top_k=k) == kept


@pytest.mark.parametrize(("p", "kept"), [(0.49, {1}), (0.51, {0, 1, 2}), (0.76, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_top_p_stops_at_the_token_that_reaches_it_and_keeps_its_equals(p: float, kept: set[int]) -> None:
    """Probabilities 0.2, 0.5, 0.2, 0.1: the sum reaches 0.51 at the first 0.2, whose equal stays too."""
    assert reachable([math.log(q) for q in (0.2, 0.5, 0.2, 0.1)], top_p=p) == kept


def test_top_p_counts_a_sum_that_equals_it_as_reached() -> None:
    logits = np.array([2.0, 1.0, 0.0], np.float32)
    powers = np.exp(logits - logits[0])
    first = float((powers / powers.sum())[0])
    assert reachable(logits.tolist(), top_p=first) == {0}
    assert reachable(logits.tolist(), top_p=float(np.nextafter(np.float32(first), np.float32(1)))) == {0, 1}


def test_min_p_is_a_part_of_the_largest_probability() -> None:
    """Probabilities 0.6, 0.25, 0.15: half of the largest is 0.3, 0.4 of it 0.24, a fifth of it 0.12."""
    logits = [math.log(q) for q in (0.25, 0.6, 0.15)]
    assert [reachable(logits, min_p=m) for m in (0.5, 0.4, 0.2, 0)] == [{1}, {0, 1}, {0, 1, 2}, {0, 1, 2}]


def test_min_p_1_keeps_the_largest_and_its_equals() -> None:
    assert reachable([1.0, 3.0, 3.0], min_p=1) == {1, 2}


def test_the_highest_threshold_decides_and_each_looks_at_all_sampled_ids() -> None:
    """Of 0.4, 0.3, 0.2, 0.1 the first two reach 0.65 but not 0.75, so that a third is kept.

    Had ``top_k`` 3 been renormalised before, 7/9 would have reached 0.75.
    """
    logits = [math.log(q) for q in (0.4, 0.3, 0.2, 0.1)]
    assert reachable(logits, top_k=3, top_p=0.65) == {0, 1}
    assert reachable(logits, top_k=3, top_p=0.75) == {0, 1, 2}
    assert reachable(logits, top_k=1, top_p=0.75, min_p=0.1) == {0}
    assert reachable(logits, top_k=3, top_p=0.95, min_p=0.7) == {0, 1}


def test_what_is_left_is_renormalised() -> None:
    """Of 0.4, 0.3, 0.2, 0.1 the two largest become 4/7 = 0.571 and 3/7."""
    logits = [math.log(q) for q in (0.4, 0.3, 0.2, 0.1)]
    assert [chosen(logits, u, top_k=2) for u in (0.5, 0.57, 0.573, 0.99)] == [0, 0, 1, 1]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    """With r = 2, seen logits of 4 and -1 become 2 and -2; unseen and zero logits stay."""
    for logits, seen, best in (
        ([4.0, 2.5], (0,), 1),
        ([4.0, 1.5], (0,), 0),
        ([-1.0, -1.5], (0,), 1),
        ([-1.0, -2.5], (0,), 0),
        ([0.0, -0.1], (0,), 0),
        ([4.0, 2.5], (0, 1), 0),
        ([0.5, 0.3], (0,), 1),
    ):
        assert chosen(logits, 0.0, seen=seen, temperature=0, repetition_penalty=2.0) == best


def test_unsampled_ids_have_no_part_in_anything() -> None:
    """Without ids 0 and 3 the others are a half each, and the second largest is among them."""
    logits = [9.0, 1.0, 1.0, 8.0, -5.0]
    for options in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0.4}, {"min_p": 0.9}, {"top_k": 2}):
        assert reachable(logits, (0, 3), **options) <= {1, 2}
    assert reachable(logits, (0, 3), top_k=5) == {1, 2, 4}
    assert choose(np.array(logits, np.float32), 1.0, nothing_seen(logits), Options(), (0, 3, 4)) == 2


def oracle(logits: list[float], u: float, seen: set[int], options: Options, unsampled: set[int]) -> int | None:
    """The table of the page with Python floats, id by id; ``None`` where rounding may decide."""
    sampled = [i for i in range(len(logits)) if i not in unsampled]
    r, T = options.repetition_penalty, options.temperature
    z = {i: logits[i] if i not in seen else logits[i] / r if logits[i] > 0 else logits[i] * r for i in sampled}
    if T == 0:
        return max(sampled, key=lambda i: (z[i], -i))
    p = shares({i: math.exp((z[i] - max(z.values())) / T) for i in sampled})
    floor = oracle_floor(sorted(p.values(), reverse=True), options)
    if floor is None or any(0 < abs(q - floor) < 1e-6 for q in p.values()):
        return None
    kept = shares({i: q for i, q in p.items() if q >= floor})
    sums = {i: math.fsum(kept[j] for j in kept if j <= i) for i in sorted(kept)}
    return None if near(sums.values(), u) else next((i for i, c in sums.items() if c > u), None)


def oracle_floor(falling: list[float], options: Options) -> float | None:
    """The lowest probability that all three thresholds keep."""
    floors = [options.min_p * falling[0]]
    if 0 < options.top_k <= len(falling):
        floors.append(falling[options.top_k - 1])
    if options.top_p < 1:
        sums = [math.fsum(falling[: n + 1]) for n in range(len(falling))]
        if near(sums, options.top_p):
            return None
        floors.append(next(q for q, c in zip(falling, sums, strict=True) if c >= options.top_p))
    return max(floors)


def shares(weights: dict[int, float]) -> dict[int, float]:
    return {i: weight / math.fsum(weights.values()) for i, weight in weights.items()}


def near(values: Iterable[float], x: float) -> bool:
    return any(abs(value - x) < 1e-5 for value in values)


@settings(deadline=None, max_examples=400)
@given(
    logits=st.lists(st.sampled_from(np.arange(-4, 4.25, 0.25).tolist()), min_size=V, max_size=V),
    u=st.integers(0, 2**24 - 1).map(lambda bits: bits / 2**24),
    seen=st.sets(st.integers(0, V - 1)),
    unsampled=st.sets(st.integers(0, V - 1), max_size=V - 1),
    options=st.builds(
        Options,
        repetition_penalty=st.sampled_from([0.5, 1.0, 1.25, 2.0]),
        temperature=st.sampled_from([0.0, 0.25, 0.75, 1.0, 2.0]),
        top_k=st.integers(0, V + 2),
        top_p=st.sampled_from([0.05, 0.3, 0.61, 0.9, 0.99, 1.0]),
        min_p=st.sampled_from([0.0, 0.013, 0.21, 0.77]),
    ),
)
def test_choose_is_the_table_of_the_page(
    logits: list[float], u: float, seen: set[int], unsampled: set[int], options: Options
) -> None:
    wanted = oracle(logits, u, seen, options, unsampled)
    assume(wanted is not None)
    mask = nothing_seen(logits)
    mask[list(seen)] = True
    assert choose(np.array(logits, np.float32), u, mask, options, sorted(unsampled)) == wanted


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("repetition_penalty", value) for value in (0, -1, math.nan, math.inf, 1e-7, 1e7)),
        *(("temperature", value) for value in (-0.1, math.nan, math.inf, 1e-7, 1e7)),
        *(("top_k", value) for value in (-1, 2**31)),
        *(("top_p", value) for value in (0, -0.5, 1.001, math.nan)),
        *(("min_p", value) for value in (-0.1, 1.001, math.nan)),
    ],
)
def test_an_option_out_of_range_is_an_error_that_names_it(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{option} is out of range"):
        Options(**{option: value})  # type: ignore[arg-type]  # the names are those above


class Recorder:
    """A step with given logits that notes what it was fed, and hands its state on as a count of calls."""

    def __init__(self, logits: list[list[float]]) -> None:
        self.logits, self.fed = np.array(logits, np.float32), list[int]()

    def __call__(self, token: int, state: Floats) -> tuple[Floats, Floats]:
        assert state.tolist() == [len(self.fed)] * S
        self.fed.append(token)
        return self.logits[token], state + np.float32(1)


def metadata(**changes: Any) -> Metadata:
    return replace(Metadata(vocab_size=V, state_size=S, start_id=1, end_id=2, unsampled_ids=()), **changes)


FLAT = [[0.0] * V] * V
GREEDY = Options(temperature=0)
CYCLE = np.roll(np.eye(V), 1, axis=1).tolist()  # after id i comes i + 1


def test_generate_feeds_the_prompt_and_every_token_but_the_last() -> None:
    step = Recorder(CYCLE)
    assert list(generate(step, [7, 3], metadata(), GREEDY, seed=0, max_new_tokens=3)) == [4, 5, 6]
    assert step.fed == [7, 3, 4, 5]


def test_generate_ends_with_the_end_token() -> None:
    tokens = list(generate(Recorder(CYCLE), [7], metadata(), GREEDY, seed=0, max_new_tokens=9))
    assert tokens == [0, 1, 2]
    assert finish_reason(tokens, metadata()) == "stop"
    assert finish_reason(tokens[:2], metadata()) == "length"


def test_a_text_that_is_over_is_not_continued() -> None:
    assert list(generate(Recorder(CYCLE), [7, 2], metadata(), GREEDY, seed=0, max_new_tokens=9)) == []


def test_token_t_is_chosen_by_noise_t() -> None:
    """Eight equal logits: the token is the noise's eighth."""
    tokens = generate(Recorder(FLAT), [4], metadata(end_id=-1), Options(), seed=5, max_new_tokens=40)
    assert list(tokens) == [int(noise_of_the_page(5, t) * 8) for t in range(40)]


def test_prompt_and_output_count_as_seen() -> None:
    """All logits fall by id; a large penalty makes each id once, but for those of the prompt, which wait."""
    step = Recorder([[float(V - i) for i in range(V)]] * V)
    options = Options(temperature=0, repetition_penalty=100.0)
    assert list(generate(step, [0, 3], metadata(end_id=-1), options, seed=0, max_new_tokens=5)) == [
        1,
        2,
        4,
        5,
        6,
    ]


def test_generate_never_writes_unsampled_ids() -> None:
    unsampled = metadata(end_id=-1, unsampled_ids=(0, 1, 5))
    tokens = set(generate(Recorder(FLAT), [4], unsampled, Options(), seed=5, max_new_tokens=90))
    assert tokens == {2, 3, 4, 6, 7}


def test_the_start_symbol_stands_where_training_had_it() -> None:
    assert prompt_ids([5, 6], metadata()) == [5, 6]
    assert prompt_ids([5, 6], metadata(prompt_start=True)) == [1, 5, 6]
    assert prompt_ids([5, 6], metadata(prompt_start=True, source_end_id=3)) == [1, 5, 6, 3]
    assert prompt_ids([5, 3, 6], metadata(prompt_start=True, source_end_id=3)) == [1, 5, 3, 6]
    assert prompt_ids([], metadata(prompt_start=True, source_end_id=3)) == [1]
    assert prompt_ids([], metadata()) == prompt_ids([], metadata(prompt_start=True)) == [1]


WRITTEN = {
    "format_version": 1,
    "vocab_size": V,
    "state_size": S,
    "start_id": 1,
    "end_id": 2,
    "unsampled_ids": [0],
}


def test_metadata_is_read_from_the_json_with_what_else_it_holds() -> None:
    assert read_metadata(json.dumps(WRITTEN | {"recipe": {"a": 1}, "metrics": {}})) == metadata(unsampled_ids=(0,))
    assert read_metadata(json.dumps(WRITTEN | {"prompt_start": True})).prompt_start


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(WRITTEN | {"format_version": 2})])
def test_metadata_of_another_format_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"format_version 1|Expecting value"):
        read_metadata(text)


def test_metadata_that_leaves_nothing_to_write_is_refused() -> None:
    assert read_metadata(json.dumps(WRITTEN | {"unsampled_ids": list(range(1, V)) * 2}))
    with pytest.raises(ValueError, match="excludes all ids from generation"):
        read_metadata(json.dumps(WRITTEN | {"unsampled_ids": list(range(V))}))


@pytest.mark.parametrize("name", sorted(WRITTEN.keys() - {"format_version"}))
def test_metadata_that_lacks_a_value_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"lacks {name}"):
        read_metadata(json.dumps({key: value for key, value in WRITTEN.items() if key != name}))
