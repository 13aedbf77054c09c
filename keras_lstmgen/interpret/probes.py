"""Cells that follow something readable: what a text shows at each token, and the one cell that follows it best.

Source: Karpathy, Johnson and Li, "Visualizing and Understanding Recurrent Networks", 2015, who found such cells by eye.
Here a cell is chosen on the first half of a text, and what is reported of it was measured on the second.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# What opens, what closes. Languages differ: “ opens in English and closes in German, » the other way round than «.
QUOTES, BRACKETS = ('"“”„«»‹›「『', '"“”«»‹›」』'), ("([{（【〔《〈", ")]}）】〕》〉")
SENTENCE_ENDS = r"[.!?…。！？．؟۔।॥։።][\s\"'“”’»›」』)）】]*"
# Letters of scripts that put no spaces between words: Thai to Tibetan, Burmese, Khmer, Japanese, Chinese.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
JOINERS = "\u200c\u200d"  # of letters within a word, in Persian and in scripts of India
FEWEST = 20  # tokens of each kind that a half must have: of fewer, chance makes anything
TURNS = 5  # of the labels, to see what chance makes
Labels = NDArray[Any]


class Finding(NamedTuple):
    """The cell that follows a feature best, and how well it does on text that it was not chosen on."""

    feature: str
    measure: str  # "balanced accuracy" of a threshold for a yes or no, "correlation" for a number
    cell: int
    figure: float
    constant: float  # the figure of the best constant guess
    chance: float  # the largest figure of a best cell where the labels are those of another place in the text

    @property
    def margin(self) -> float:
        """How far above chance, 1 being all that there is above a constant guess."""
        return (self.figure - self.chance) / (1 - self.constant)


def features(parts: Sequence[str]) -> dict[str, Labels]:
    """Return what can be read off a text after each of its N tokens, given the text of each: bool [N], or float [N].

    A token of several characters is as its last one is; it is upper case or a digit if any of them is. A quotation or a
    bracket ends at an empty line at the latest, so that one that stands alone does not turn round all that follows.
    A word is a run of letters of a script that separates words by spaces; Chinese, for example, has none.
    """
    text = "\n" + "".join(parts)  # as if after a line, so that a token without text may come first
    ends = np.cumsum([len(part) for part in parts], dtype=int)
    letters = np.array([_is_in_word(character) for character in text])
    begins = np.append(~letters[:-1] & letters[1:], False)
    place = np.arange(len(text))
    of_characters: dict[str, Labels] = {
        "inside quotes": _inside(text, *QUOTES),
        "inside brackets": _inside(text, *BRACKETS),
        "inside a word": letters,
        "a word begins next": begins,
        "a sentence has ended": _matched(SENTENCE_ENDS, text),
        "first line of a paragraph": _matched(r"(?<=\n\n)[^\n]+", text),
        "place in the line": place - _last(np.array([character == "\n" for character in text])),
        "letters of the word so far": place - _last(~letters),
        "spaces that begin the line": _indents(text),
    }
    any_of = {"upper case": str.isupper, "a digit": str.isdigit}
    of_tokens = {name: np.array([any(map(holds, part)) for part in parts]) for name, holds in any_of.items()}
    return of_tokens | {name: labels[ends] for name, labels in of_characters.items()}


def _is_in_word(character: str) -> bool:
    """Return whether a character is a letter, digit or accent of a script that separates words by spaces."""
    of_letters = character.isalnum() or unicodedata.category(character).startswith("M") or character in JOINERS
    return of_letters and not UNSPACED.match(character)


def without_spaces(parts: Sequence[str]) -> float:
    """Return the share of the letters of a text that are of a script without spaces between words."""
    text = "".join(parts)
    return len(UNSPACED.findall(text)) / max(sum(map(str.isalnum, text)), 1)


def _inside(text: str, opening: str, closing: str) -> Labels:
    """Whether something is open after each character; what opens and closes alike closes where anything is open."""
    depth, inside, before = 0, [], ""
    for character in text:
        if before == character == "\n":
            depth = 0
        elif character in closing and (depth or character not in opening):
            depth = max(depth - 1, 0)
        elif character in opening:
            depth += 1
        inside.append(depth > 0)
        before = character
    return np.array(inside)


def _matched(pattern: str, text: str) -> Labels:
    """Whether each character is part of a match."""
    marks = np.zeros(len(text), bool)
    for match in re.finditer(pattern, text):
        marks[match.start() : match.end()] = True
    return marks


def _last(marks: Labels) -> Labels:
    """Where the last mark up to each place is; float, of a text whose first place has a mark."""
    return np.maximum.accumulate(np.where(marks, np.arange(len(marks)), 0)).astype(float)


def _indents(text: str) -> Labels:
    """Return how many spaces, of a letter's width or a Chinese character's, the line of each character begins with."""
    counts = np.zeros(len(text))
    for line in re.finditer(r"(?<=\n)([ \u3000]+)[^\n]*", text):
        reach = np.arange(1, len(line[0]) + 1)
        counts[line.start() : line.end()] = np.minimum(reach, len(line[1]))
    return counts


def follow(cells: NDArray[np.float32], labels: dict[str, Labels], seed: int = 0) -> tuple[list[Finding], list[str]]:
    """Find the cell of [N, H] that follows each feature best; and the features that are too rare in this text to tell.

    Chance is what the same search finds, at most, when the labels are turned round the text by ``TURNS`` random
    distances: as frequent as before, in runs as long, but of another place. (Shuffled one by one they would lose their
    runs, and chance, which likes slow labels and slow cells, would look smaller than it is.)
    """
    half = len(cells) // 2
    told = {name: values for name, values in labels.items() if _enough(values[:half]) and _enough(values[half:])}
    flags = {name: values for name, values in told.items() if values.dtype == bool}
    numbers = {name: values for name, values in told.items() if name not in flags}
    findings = _findings(cells, flags, seed, _fit_thresholds, "balanced accuracy", 0.5)
    findings += _findings(cells, numbers, seed, _fit_numbers, "correlation", 0.0)
    return findings, [name for name in labels if name not in told]


def _findings(cells: Any, labels: dict[str, Labels], seed: int, fit: Any, measure: str, constant: float) -> Any:
    """A finding for each of the features, which are all of one kind."""
    if not labels:
        return []
    half, turned = len(cells) // 2, _turned(np.stack(list(labels.values()), axis=1), seed)
    chosen, figures = fit(cells[:half], turned[:half], cells[half:], turned[half:])
    return [
        Finding(name, measure, int(chosen[0, n]), float(figures[0, n]), constant, float(figures[1:, n].max()))
        for n, name in enumerate(labels)
    ]


def _enough(values: Labels) -> bool:
    """Whether a half has enough of both kinds, or numbers that differ at so many places from the commonest."""
    _, counts = np.unique(values, return_counts=True)
    return len(counts) > 1 and int(counts.sum() - counts.max()) >= FEWEST


def _turned(labels: Labels, seed: int) -> Labels:
    """Labels [N, F] as they are and turned by ``TURNS`` distances, neither near 0 nor N: [N, 1 + TURNS, F]."""
    N = len(labels)
    distances = np.random.default_rng(seed).integers(N // 8, N - N // 8, TURNS)
    return np.stack([labels, *(np.roll(labels, distance, axis=0) for distance in distances)], axis=1)


def _fit_thresholds(cells: Any, labels: Any, others: Any, other_labels: Any) -> tuple[Any, Any]:
    """The best cell [R, F] for yes or no, and its balanced accuracy [R, F] on the other half.

    ``cells`` [N, H] and ``labels`` bool [N, R, F] choose the cell, the threshold and which side of it means yes.
    """
    best = np.zeros((3, *labels.shape[1:]))  # figure, cell, threshold
    above = np.zeros(labels.shape[1:], bool)
    for number, values in enumerate(cells.T):
        figures, thresholds, sides = best_threshold(values, labels)
        better = figures > best[0]
        found = np.stack([figures, np.full_like(figures, number), thresholds])
        best, above = np.where(better, found, best), np.where(better, sides, above)
    chosen = best[1].astype(int)
    guessed = (others[:, chosen] > best[2]) == above
    return chosen, _balanced(guessed, other_labels)


def best_threshold(values: Any, labels: Any) -> tuple[Any, Any, Any]:
    """The threshold [...] on values [N] that tells labels bool [N, ...] best: its balanced accuracy and itself.

    The third result says whether what lies above it is yes. A threshold lies between two values that differ.
    """
    order = np.argsort(values, kind="stable")
    ranked, marks = values[order], labels[order]
    below = np.cumsum(marks, axis=0, dtype=np.int32)  # how many of the k + 1 lowest are yes
    rank = np.arange(1, len(values) + 1).reshape(-1, *[1] * (labels.ndim - 1))
    yes, no = below[-1], len(values) - below[-1]
    above = ((yes - below) / np.maximum(yes, 1) + (rank - below) / np.maximum(no, 1)) / 2
    above[np.append(ranked[1:] == ranked[:-1], True)] = 0.5  # no place for a threshold
    cut = np.abs(above - 0.5).argmax(axis=0)
    figure = np.take_along_axis(above, cut[np.newaxis], axis=0)[0]
    # In float64 the mean of two float32 that differ lies between them, however near they are.
    between = np.append((ranked[:-1].astype(np.float64) + ranked[1:]) / 2, ranked[-1])
    return np.maximum(figure, 1 - figure), between[cut], figure >= 0.5


def _balanced(guessed: Any, labels: Any) -> Any:
    """The mean of the shares of yes and of no that are guessed right: bool [N, ...] twice give [...]."""
    right = guessed == labels
    shares = [(right & kind).sum(0) / np.maximum(kind.sum(0), 1) for kind in (labels, ~labels)]
    return (shares[0] + shares[1]) / 2


def _fit_numbers(cells: Any, labels: Any, others: Any, other_labels: Any) -> tuple[Any, Any]:
    """The cell [R, F] that correlates most, and its correlation on the other half, above 0 if of the same direction."""
    found = _correlation(cells, labels)
    chosen = np.abs(found).argmax(axis=0)
    picked = np.take_along_axis(_correlation(others, other_labels), chosen[np.newaxis], axis=0)[0]
    return chosen, picked * np.sign(np.take_along_axis(found, chosen[np.newaxis], axis=0)[0])


def _correlation(cells: Any, labels: Any) -> Any:
    """Pearson's r of [N, H] with [N, ...]: [H, ...]; 0 for what does not vary."""
    return np.tensordot(_standard(cells), _standard(labels), axes=(0, 0)) / len(cells)


def _standard(values: Any) -> Any:
    """Less the mean, in standard deviations."""
    centred = np.asarray(values, np.float64) - np.mean(values, axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    return centred / np.where(spread > 0, spread, 1)
