"""Search for LSTM cells that follow a feature of the text, such as quotations or the position in the line.

The cell that follows a feature best is selected on the first half of a text. Its score is computed on the second half.

Source: Karpathy, Johnson and Li, "Visualizing and Understanding Recurrent Networks", 2015. The authors found cells
of this kind by visual inspection.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Opening and closing marks. A mark can be in both lists, because languages differ: “ opens a quotation in English and
# closes one in German, and both «…» and »…« are used.
QUOTES, BRACKETS = ('"“”„«»‹›「『', '"“”«»‹›」』'), ("([{（【〔《〈", ")]}）】〕》〉")
SENTENCE_ENDS = r"[.!?…。！？．؟۔।॥։።][\s\"'“”’»›」』)）】]*"
# Letters of scripts that do not separate words by spaces: Thai to Tibetan, Burmese, Khmer, Japanese, Chinese.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
JOINERS = "\u200c\u200d"  # zero-width characters that occur inside words of Persian and of Indian languages
# In each half of a text, at least this number of labels of a feature must differ from the most frequent label.
# Otherwise, the feature is not measured, because the results would be mostly chance.
MIN_TOKENS = 20
ROTATIONS = 5  # number of random rotations of the labels for estimating the chance score
Labels = NDArray[Any]


class Finding(NamedTuple):
    """The cell that follows a feature best, and its score.

    Attributes:
        feature: name of the feature.
        measure: "balanced accuracy" of a threshold for a boolean feature, "correlation" for a numeric feature.
        cell: index of the cell, from 0.
        score: score of the cell on the second half of the text. The cell is selected on the first half.
        constant_score: score of the best constant guess.
        chance_score: highest score that the same search finds with rotated labels.
    """

    feature: str
    measure: str
    cell: int
    score: float
    constant_score: float
    chance_score: float

    @property
    def margin(self) -> float:
        """Difference between the score and the chance score, divided by 1 minus the constant score."""
        return (self.score - self.chance_score) / (1 - self.constant_score)


def features(parts: Sequence[str]) -> dict[str, Labels]:
    """For each token of a text, compute the label (value) of every feature after the token.

    The label of a token is the label of its last character, except for the features "upper case" and "a digit": their
    label is True if any character of the token is upper case or a digit. An empty line ends all quotations and
    brackets, so an unpaired mark affects only its paragraph. Features of words ignore scripts without spaces between
    words.

    Args:
        parts: text of each of N tokens.

    Returns:
        A dictionary that maps the name of each feature to its labels, a bool or float array of shape [N].

    >>> from keras_lstmgen.interpret.probes import features
    >>> features(["He ", "(", "x", ")"])["inside brackets"].tolist()
    [False, True, True, False]
    """
    text = "\n" + "".join(parts)  # if the first token has no text, the label of the added newline is used
    ends = np.cumsum([len(part) for part in parts], dtype=int)
    of_characters = _character_features(text)
    any_of = {"upper case": str.isupper, "a digit": str.isdigit}
    of_tokens = {name: np.array([any(map(holds, part)) for part in parts]) for name, holds in any_of.items()}
    return of_tokens | {name: labels[ends] for name, labels in of_characters.items()}


def _character_features(text: str) -> dict[str, Labels]:
    """For each character of a text that begins with a newline, compute the labels of all features after it."""
    is_letter = np.array([_is_in_word(character) for character in text])
    positions = np.arange(len(text))
    return {
        "inside quotes": _inside(text, *QUOTES),
        "inside brackets": _inside(text, *BRACKETS),
        "inside a word": is_letter,
        "a word begins next": np.append(~is_letter[:-1] & is_letter[1:], False),
        "a sentence has ended": _matched(SENTENCE_ENDS, text),
        "first line of a paragraph": _matched(r"(?<=\n\n)[^\n]+", text),
        "place in the line": positions - _last_mark(np.array([character == "\n" for character in text])),
        "letters of the word so far": positions - _last_mark(~is_letter),
        "spaces that begin the line": _indents(text),
    }


def _is_in_word(character: str) -> bool:
    """Return whether a character is a letter, digit or accent of a script that separates words by spaces."""
    in_word = character.isalnum() or unicodedata.category(character).startswith("M") or character in JOINERS
    return in_word and not UNSPACED.match(character)


def unspaced_share(parts: Sequence[str]) -> float:
    """Return the share of letters (from 0 to 1) that belong to scripts without spaces between words.

    Args:
        parts: text of each token.

    >>> from keras_lstmgen.interpret.probes import unspaced_share
    >>> unspaced_share(["ab", "明月"])
    0.5
    """
    text = "".join(parts)
    return len(UNSPACED.findall(text)) / max(sum(map(str.isalnum, text)), 1)


def _inside(text: str, opening: str, closing: str) -> Labels:
    """For each character, return True if a pair of marks is still open after the character (bool array).

    If a mark is in ``opening`` and in ``closing``, it closes an earlier mark that is still open, or opens a new pair.

    Args:
        text: the text.
        opening: all opening marks.
        closing: all closing marks.
    """
    depth, inside, previous = 0, [], ""
    for character in text:
        if previous == character == "\n":
            depth = 0
        elif character in closing and (depth or character not in opening):
            depth = max(depth - 1, 0)
        elif character in opening:
            depth += 1
        inside.append(depth > 0)
        previous = character
    return np.array(inside)


def _matched(pattern: str, text: str) -> Labels:
    """For each character of a text, return True if it is part of a match of a regular expression (bool array)."""
    marks = np.zeros(len(text), bool)
    for match in re.finditer(pattern, text):
        marks[match.start() : match.end()] = True
    return marks


def _last_mark(marks: Labels) -> Labels:
    """For each position, return the index of the nearest True entry at or before it, as a float.

    The first entry must be True.
    """
    return np.maximum.accumulate(np.where(marks, np.arange(len(marks)), 0)).astype(float)


def _indents(text: str) -> Labels:
    """For each character, count the half-width and full-width spaces at the start of its line, up to the character."""
    counts = np.zeros(len(text))
    for line in re.finditer(r"(?<=\n)([ \u3000]+)[^\n]*", text):
        positions = np.arange(1, len(line[0]) + 1)
        counts[line.start() : line.end()] = np.minimum(positions, len(line[1]))
    return counts


def find_cells(cells: NDArray[np.float32], labels: dict[str, Labels], seed: int = 0) -> tuple[list[Finding], list[str]]:
    """For each feature, find the cell that follows the feature best.

    The search is repeated with labels that are rotated by ``ROTATIONS`` random distances. The highest score of these
    searches is the chance score. Rotated labels have the same frequency as the original labels and change as slowly.
    Shuffled labels would change faster, and the chance score would be too low, because slowly changing cells correlate
    with slowly changing labels even by chance.

    Args:
        cells: float array of shape [N, H] with the cell states after each token.
        labels: maps the name of each feature to its labels, a bool or float array of shape [N].
        seed: random seed of the rotations.

    Returns:
        The findings, and the names of the features that occur too rarely to be measured.
    """
    half = len(cells) // 2
    measured = {
        name: values for name, values in labels.items() if _is_frequent(values[:half]) and _is_frequent(values[half:])
    }
    flags = {name: values for name, values in measured.items() if values.dtype == bool}
    numbers = {name: values for name, values in measured.items() if name not in flags}
    findings = _findings(cells, flags, seed, BOOLEAN) + _findings(cells, numbers, seed, NUMERIC)
    return findings, [name for name in labels if name not in measured]


def _is_frequent(values: Labels) -> bool:
    """Return whether at least ``MIN_TOKENS`` labels of a feature differ from its most frequent label."""
    _, counts = np.unique(values, return_counts=True)
    return len(counts) > 1 and int(counts.sum() - counts.max()) >= MIN_TOKENS


def _rotated(labels: Labels, seed: int) -> Labels:
    """Return labels and ``ROTATIONS`` rotated copies. The random distances are from N / 8 to 7 N / 8.

    Args:
        labels: array of shape [N, F] with the labels of F features.
        seed: random seed of the distances.

    Returns:
        An array of shape [N, 1 + ROTATIONS, F]. Index 0 of the second axis contains the original labels.
    """
    N = len(labels)
    distances = np.random.default_rng(seed).integers(N // 8, N - N // 8, ROTATIONS)
    return np.stack([labels, *(np.roll(labels, distance, axis=0) for distance in distances)], axis=1)


def _fit_thresholds(cells: Any, labels: Any, test_cells: Any, test_labels: Any) -> tuple[Any, Any]:
    """Select the best cell, threshold and direction on one half of a text, and score them on the other half.

    Args:
        cells: float array of shape [N, H] with the cell states in the first half.
        labels: bool array of shape [N, R, F] with the labels in the first half, for R rotations and F features.
        test_cells: float array of shape [M, H] with the cell states in the second half.
        test_labels: bool array of shape [M, R, F] with the labels in the second half.

    Returns:
        The index of the best cell, and its balanced accuracy on the second half. Both have the shape [R, F].
    """
    best = np.zeros((3, *labels.shape[1:]))  # score, cell, threshold
    is_above = np.zeros(labels.shape[1:], bool)
    for number, values in enumerate(cells.T):
        scores, thresholds, directions = best_threshold(values, labels)
        is_better = scores > best[0]
        candidates = np.stack([scores, np.full_like(scores, number), thresholds])
        best, is_above = np.where(is_better, candidates, best), np.where(is_better, directions, is_above)
    selected = best[1].astype(int)
    predictions = (test_cells[:, selected] > best[2]) == is_above
    return selected, _balanced_accuracy(predictions, test_labels)


def best_threshold(values: Any, labels: Any) -> tuple[Any, Any, Any]:
    """Find the threshold on values that predicts boolean labels best.

    Args:
        values: float array of shape [N].
        labels: bool array of shape [N, ...].

    Returns:
        Three arrays of shape [...]: the balanced accuracy, the threshold, and a bool array that is True if values above
        the threshold predict True. The threshold lies between two different values.

    >>> import numpy as np
    >>> from keras_lstmgen.interpret.probes import best_threshold
    >>> score, threshold, is_above = best_threshold(np.array([1.0, 2.0, 3.0]), np.array([True, True, False]))
    >>> float(score), float(threshold), bool(is_above)
    (1.0, 2.5, False)
    """
    order = np.argsort(values, kind="stable")
    ranked, marks = values[order], labels[order]
    positives_below = np.cumsum(marks, axis=0, dtype=np.int32)  # number of True labels among the k + 1 lowest values
    rank = np.arange(1, len(values) + 1).reshape(-1, *[1] * (labels.ndim - 1))
    positives, negatives = positives_below[-1], len(values) - positives_below[-1]
    true_positive_rate = (positives - positives_below) / np.maximum(positives, 1)
    true_negative_rate = (rank - positives_below) / np.maximum(negatives, 1)
    accuracy = (true_positive_rate + true_negative_rate) / 2
    accuracy[np.append(ranked[1:] == ranked[:-1], True)] = 0.5  # a threshold cannot lie between equal values
    cut = np.abs(accuracy - 0.5).argmax(axis=0)
    score = np.take_along_axis(accuracy, cut[np.newaxis], axis=0)[0]
    # The float64 mean of two different float32 values lies strictly between them.
    thresholds = np.append((ranked[:-1].astype(np.float64) + ranked[1:]) / 2, ranked[-1])
    return np.maximum(score, 1 - score), thresholds[cut], score >= 0.5


def _balanced_accuracy(predictions: Any, labels: Any) -> Any:
    """Return the mean of the true positive rate and the true negative rate, of shape [...].

    Args:
        predictions: bool array of shape [N, ...].
        labels: bool array of shape [N, ...].
    """
    is_correct = predictions == labels
    rates = [(is_correct & classes).sum(0) / np.maximum(classes.sum(0), 1) for classes in (labels, ~labels)]
    return (rates[0] + rates[1]) / 2


def _fit_numbers(cells: Any, labels: Any, test_cells: Any, test_labels: Any) -> tuple[Any, Any]:
    """Select the cell with the largest absolute correlation on one half of a text, and score it on the other half.

    The arguments are those of ``_fit_thresholds``, except that the labels are float arrays.

    Returns:
        The index of the best cell, and its correlation on the second half. Both have the shape [R, F]. The correlation
        is negative if its sign in the second half differs from its sign in the first half.
    """
    correlation = _correlation(cells, labels)
    selected = np.abs(correlation).argmax(axis=0)
    sign = np.sign(np.take_along_axis(correlation, selected[np.newaxis], axis=0)[0])
    test_correlation = np.take_along_axis(_correlation(test_cells, test_labels), selected[np.newaxis], axis=0)[0]
    return selected, test_correlation * sign


def _correlation(cells: Any, labels: Any) -> Any:
    """Return the Pearson correlation of each cell with each label.

    Args:
        cells: float array of shape [N, H].
        labels: float array of shape [N, ...].

    Returns:
        A float array of shape [H, ...]. The correlation of constant values is 0.
    """
    return np.tensordot(_standardized(cells), _standardized(labels), axes=(0, 0)) / len(cells)


def _standardized(values: Any) -> Any:
    """Subtract the mean and divide by the standard deviation along the first axis."""
    centred = np.asarray(values, np.float64) - np.mean(values, axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    return centred / np.where(deviation > 0, deviation, 1)


class _Probe(NamedTuple):
    """The method that selects and scores cells for the features of one type."""

    fit: Callable[[Any, Any, Any, Any], tuple[Any, Any]]
    measure: str
    constant_score: float


BOOLEAN = _Probe(_fit_thresholds, "balanced accuracy", 0.5)
NUMERIC = _Probe(_fit_numbers, "correlation", 0.0)


def _findings(cells: Any, labels: dict[str, Labels], seed: int, probe: _Probe) -> list[Finding]:
    """For each feature, find the best cell. All features must have the type that the probe supports."""
    if not labels:
        return []
    half, rotated = len(cells) // 2, _rotated(np.stack(list(labels.values()), axis=1), seed)
    selected, scores = probe.fit(cells[:half], rotated[:half], cells[half:], rotated[half:])
    return [
        Finding(
            feature=name,
            measure=probe.measure,
            cell=int(selected[0, n]),
            score=float(scores[0, n]),
            constant_score=probe.constant_score,
            chance_score=float(scores[1:, n].max()),
        )
        for n, name in enumerate(labels)
    ]
