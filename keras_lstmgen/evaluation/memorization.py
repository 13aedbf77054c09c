"""Measure how much of the generated text is copied from the training text."""

from collections.abc import Iterable, Sequence

from keras_lstmgen.data.token_cache import batches


def longest_copies(samples: Sequence[str], training: Iterable[str]) -> list[str]:
    """For each sample, return its longest passage that occurs in the training text.

    The training text is read in blocks of about 64k characters. For each block, the function runs about one
    substring search per character of the samples. No more searches are necessary, because the function only looks for
    passages that are longer than the longest passage so far.

    Args:
        samples: the generated texts.
        training: the training text in consecutive pieces. It is read once.

    >>> from keras_lstmgen.evaluation.memorization import longest_copies
    >>> longest_copies(["a red fox", "no"], ["the red ", "fence"])
    [' red f', 'n']
    """
    longest, previous = [""] * len(samples), ""
    overlap = max(map(len, samples), default=0)
    for pieces in batches(training):
        text = previous + "".join(pieces)
        longest = [_longer_copy(sample, copy, text) for sample, copy in zip(samples, longest, strict=True)]
        previous = text[max(len(text) - overlap, 0) :]  # a passage can begin in one block and end in the next
    return longest


def _longer_copy(sample: str, longest: str, text: str) -> str:
    """Return the longest passage of a sample that occurs in a text and is longer than ``longest``, else ``longest``."""
    for start in range(len(sample)):
        while (end := start + len(longest) + 1) <= len(sample) and sample[start:end] in text:
            longest = sample[start:end]
    return longest


def whole_lines(sample: str) -> list[str]:
    r"""Return the complete lines of a sample, without blank lines.

    The text after the last newline is omitted, because it may be an incomplete line.

    >>> from keras_lstmgen.evaluation.memorization import whole_lines
    >>> whole_lines("one\n\ntwo\nthr")
    ['one', 'two']
    """
    return [line for line in sample.split("\n")[:-1] if line.strip()]


def lines_seen(lines: Iterable[str], training: Iterable[str]) -> set[str]:
    r"""Return the given lines that occur as whole lines in the training text.

    Only the beginning of a long training line is stored, because a training line that is longer than all given lines
    cannot match.

    Args:
        lines: the lines to search for.
        training: the training text in consecutive pieces. It is read once.

    >>> from keras_lstmgen.evaluation.memorization import lines_seen
    >>> sorted(lines_seen(["one", "two"], ["one\nt", "wo three\n"]))
    ['one']
    """
    wanted = set(lines)
    missing, limit = set(wanted), max(map(len, wanted), default=0) + 1
    unfinished = ""  # beginning of the last line of a piece, which may continue in the next piece
    for piece in training:
        first, *others = piece.split("\n")
        unfinished = (unfinished + first[:limit])[:limit]
        if others:
            missing -= {unfinished, *others[:-1]}
            unfinished = others[-1][:limit]
    return wanted - (missing - {unfinished})
