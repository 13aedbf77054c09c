"""A cell that follows something is found, and its figure is that of text that it was not chosen on."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_lstmgen.interpret import probes

N, H = 800, 13


@pytest.mark.parametrize(
    ("name", "text", "holds"),
    [
        ("inside quotes", 'a "b c" d', "..####..."),
        ("inside quotes", '"a\n\nb "c"', "###...##."),  # one that stands alone ends with the paragraph
        ("inside quotes", "“a ‘b’” c", "######..."),
        ("inside quotes", "「床前」明", "###.."),
        ("inside brackets", "a (b [c] d) e", "..########..."),
        ("inside brackets", ") (a\n\nb) c", "..###....."),
        ("inside quotes", "„a“ »b« «c» ”d”", "##..##..##..##."),
        ("inside a word", "It's 2, 床前 ไป", "##.#.#......."),
        ("inside a word", "e\u0301a हिन्दी می\u200cرو", "###.######.#####"),
        ("a word begins next", "床前 a 明b", "..#..#."),
        ("a word begins next", " a bc\nd", "#.#..#."),
        ("a sentence has ended", 'No. "Or?" I', "..###..###."),
        ("a sentence has ended", "是。」नहीं। a… b", ".##....##.##."),
        ("first line of a paragraph", "a\n\nbc\nd\n\nef", "...##....##"),
        ("upper case", "aÄB c", ".##.."),
        ("a digit", "a1 2", ".#.#"),
    ],
)
def test_yes_or_no_after_each_character(name: str, text: str, holds: str) -> None:
    found = probes.features(list(text))[name]
    assert "".join(".#"[int(yes)] for yes in found) == holds


@pytest.mark.parametrize(
    ("name", "text", "counts"),
    [
        ("place in the line", "ab\nc", [1, 2, 0, 1]),
        ("letters of the word so far", "ab, c", [1, 2, 0, 0, 1]),
        ("spaces that begin the line", "  a b\n c", [1, 2, 2, 2, 2, 0, 1, 1]),
        ("spaces that begin the line", "\u3000\u3000床\n前", [1, 2, 2, 0, 0]),
        ("letters of the word so far", "ab床c", [1, 2, 0, 1]),
    ],
)
def test_numbers_after_each_character(name: str, text: str, counts: list[int]) -> None:
    np.testing.assert_array_equal(probes.features(list(text))[name], counts)


def test_a_token_of_several_characters_is_as_its_last_one_is_but_holds_a_capital_anywhere() -> None:
    found = probes.features(["", 'He "', "is", "", ' 2"\n'])
    np.testing.assert_array_equal(found["inside quotes"], [False, True, True, True, False])
    np.testing.assert_array_equal(found["upper case"], [False, True, False, False, False])
    np.testing.assert_array_equal(found["a digit"], [False, False, False, False, True])
    np.testing.assert_array_equal(found["place in the line"], [0, 4, 6, 6, 0])


@given(st.lists(st.text(max_size=4), min_size=1, max_size=12))
def test_every_text_in_any_parts_has_all_features_for_each_part(parts: list[str]) -> None:
    found = probes.features(parts)
    assert {values.shape for values in found.values()} == {(len(parts),)}
    whole = probes.features(list("".join(parts)))
    if text := "".join(parts):  # cut elsewhere, the place after the last character is the same
        for name in found.keys() - {"upper case", "a digit"}:
            assert found[name][-1] == whole[name][len(text) - 1]


small = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        arrays.arrays(np.float32, n, elements=st.integers(-3, 3)),
        arrays.arrays(np.bool_, n).filter(lambda a: 0 < a.sum() < len(a)),
    )
)


@given(small)
def test_the_threshold_is_the_best_of_all(given_: Any) -> None:
    """Held against every threshold there is, either side of it meaning yes."""
    values, labels = given_
    figure, threshold, above = probes.best_threshold(values, labels)

    def balanced(guess: Any) -> float:
        return float((np.mean(guess[labels]) + np.mean(~guess[~labels])) / 2)

    cuts = np.append(np.unique(values) + 0.5, -9.0)
    tried = [balanced((values > cut) == side) for cut in cuts for side in (True, False)]
    assert figure == pytest.approx(max(tried))
    assert balanced((values > threshold) == above) == pytest.approx(figure)


@given(small, st.sampled_from([np.tanh, np.cbrt, lambda x: 3 * x + 1]))
def test_what_keeps_the_order_of_a_cell_keeps_its_figure(given_: Any, rising: Any) -> None:
    values, labels = given_
    one, other = probes.best_threshold(values, labels), probes.best_threshold(rising(values), labels)
    assert one[0] == other[0]
    assert one[2] == other[2]


@pytest.fixture
def noise() -> Any:
    return np.random.default_rng(1).normal(size=(N, H)).astype(np.float32)


def test_a_planted_cell_is_found_and_its_figure_is_that_of_the_other_half(noise: Any) -> None:
    dice = np.random.default_rng(2)
    yes = dice.random(N) < 0.3
    noise[:, 4] = np.where(yes, -1, 1)
    spoilt = N - np.arange(1, 41)  # of the second half, 40 tokens do not follow
    noise[spoilt, 4] *= -1
    number = dice.normal(size=N)
    noise[:, 9] = -2 * number
    (first, second), rare = probes.find_cells(noise, {"yes": yes, "number": number})
    half = yes[N // 2 :]
    wrong = np.isin(np.arange(N // 2, N), spoilt)
    expected = 1 - (np.mean(wrong[half]) + np.mean(wrong[~half])) / 2
    assert (first.feature, first.measure, first.cell, first.constant_score) == ("yes", "balanced accuracy", 4, 0.5)
    assert first.score == pytest.approx(expected)
    assert first.chance_score < 0.6
    assert (second.feature, second.measure, second.cell, second.constant_score) == ("number", "correlation", 9, 0)
    assert second.score == pytest.approx(1)
    assert abs(second.chance_score) < 0.2
    assert rare == []


def test_a_cell_that_turns_round_in_the_second_half_has_a_bad_figure(noise: Any) -> None:
    yes = np.random.default_rng(2).random(N) < 0.3
    noise[:, 4] = np.where(yes, 1, -1) * np.where(np.arange(N) < N // 2, 1, -1)
    noise[:, 5] = noise[:, 4]
    (first, second), _ = probes.find_cells(noise, {"yes": yes, "number": yes.astype(float)})
    assert first.score == 0
    assert second.score == pytest.approx(-1)


def test_noise_is_no_better_than_chance(noise: Any) -> None:
    yes = np.random.default_rng(3).random(N) < 0.4
    ((finding,), _) = probes.find_cells(noise, {"yes": yes})
    assert finding.score == pytest.approx(finding.chance_score, abs=0.08)
    assert abs(finding.margin) < 0.16


def test_chance_knows_that_what_recurs_is_easily_followed() -> None:
    """Waves of all phases follow any wave of their length; labels shuffled one by one would not show it."""
    phases = 2 * np.pi * (np.arange(N)[:, np.newaxis] / 100 + np.arange(H) / H)
    waves = np.sin(phases).astype(np.float32)
    ((finding,), _) = probes.find_cells(waves, {"yes": np.arange(N) % 100 < 50})
    assert finding.score > 0.9
    assert finding.chance_score > 0.9
    assert abs(finding.margin) < 0.2


def test_what_a_half_has_too_little_of_is_named_and_not_told(noise: Any) -> None:
    late = np.arange(N) > N // 2 + 100
    never = np.zeros(N, bool)
    few = np.arange(N) % (N // 2) < probes.MIN_TOKENS - 1
    enough = np.arange(N) % (N // 2) < probes.MIN_TOKENS
    labels = {"late": late, "never": never, "few": few, "enough": enough, "same": np.ones(N)}
    findings, rare = probes.find_cells(noise, labels)
    assert [finding.feature for finding in findings] == ["enough"]
    assert rare == ["late", "never", "few", "same"]


def test_a_text_too_short_to_tell_anything_is_no_error() -> None:
    parts = ["a"]
    assert probes.find_cells(np.zeros((1, H), np.float32), probes.features(parts))[0] == []
