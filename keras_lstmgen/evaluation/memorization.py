"""Measure how much of the generated text is copied from the training text."""

from collections.abc import Iterable, Sequence

from keras_lstmgen.data.token_cache import batches


def longest_copies(samples: Sequence[str], training: Iterable[str]) -> list[str]:
    """Return for each sample its longest passage that stands in the training text, which is read once, in pieces.

    A passage is looked for only where it would be longer than the best so far, so one search for each character of the
    samples and piece of the text is enough. Short pieces are joined first.
    """
    best, before = [""] * len(samples), ""
    kept = max(map(len, samples), default=0)
    for pieces in batches(training):
        text = before + "".join(pieces)
        best = [_longer_copy(sample, copy, text) for sample, copy in zip(samples, best, strict=True)]
        before = text[max(len(text) - kept, 0) :]  # so that no passage is cut in two
    return best


def _longer_copy(sample: str, best: str, text: str) -> str:
    """Return the first longest passage of a sample that stands in a text and is longer than ``best``, or ``best``."""
    for start in range(len(sample)):
        while (end := start + len(best) + 1) <= len(sample) and sample[start:end] in text:
            best = sample[start:end]
    return best


def whole_lines(sample: str) -> list[str]:
    """Return the lines of a sample but the last, which is cut, and empty ones."""
    return [line for line in sample.split("\n")[:-1] if line.strip()]


def lines_seen(lines: Iterable[str], training: Iterable[str]) -> set[str]:
    """Return those of these lines that stand whole in the training text, which is read once, in pieces.

    Memory is bounded by the lines: a longer one of the training text is none of them, and is not kept whole.
    """
    wanted = set(lines)
    missing, most = set(wanted), max(map(len, wanted), default=0) + 1
    rest = ""  # the line that the next piece goes on with, as far as it matters
    for piece in training:
        first, *others = piece.split("\n")
        rest = (rest + first[:most])[:most]
        if others:
            missing -= {rest, *others[:-1]}
            rest = others[-1][:most]
    return wanted - (missing - {rest})
