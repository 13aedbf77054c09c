"""Character n-gram language model with Witten-Bell smoothing, a baseline for the loss.

Source: Witten and Bell, "The Zero-Frequency Problem", 1991 (method C). A context h with n(h) occurrences before t(h)
different characters is interpolated with the next shorter context::

    p(c | h) = (count(h c) + t(h) p(c | h without its first character)) / (n(h) + t(h))

The empty context is interpolated with a uniform distribution over all code points, so unseen characters have a
probability above 0.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

LONGEST = 8  # maximum n: characters of an n-gram, including the predicted one


class Counts(NamedTuple):
    """Counts of n-grams. Memory grows with the number of different n-grams."""

    grams: Counter[str]  # n-grams of all lengths up to ``LONGEST``
    contexts: Counter[str]  # n(h): occurrences of each context
    kinds: Counter[str]  # t(h): different characters after each context


def counted(pieces: Iterable[str], longest: int = LONGEST) -> Counts:
    """Count the n-grams of a text that is given in consecutive pieces."""
    grams, before = Counter[str](), ""
    for piece in pieces:
        for n in range(1, longest + 1):
            text = before[max(len(before) - n + 1, 0) :] + piece
            grams.update(text[at : at + n] for at in range(len(text) - n + 1))
        before = (before + piece)[-longest:]
    contexts, kinds = Counter[str](), Counter[str]()
    for gram, times in grams.items():
        contexts[gram[:-1]] += times
        kinds[gram[:-1]] += 1
    return Counts(grams, contexts, kinds)


def probabilities(counts: Counts, before: str, character: str, longest: int = LONGEST) -> list[float]:
    """Return the probability of a character after a text, for n-gram models of order 1 to ``longest``."""
    p, found = 1 / (sys.maxunicode + 1), []
    for length in range(longest):
        context = before[len(before) - length :]
        if length <= len(before) and (times := counts.contexts[context]):
            kinds = counts.kinds[context]
            p = (counts.grams[context + character] + kinds * p) / (times + kinds)
        found.append(p)
    return found


def nats(counts: Counts, pieces: Iterable[str], longest: int = LONGEST) -> list[float]:
    """Return the mean negative log-likelihood in nats per character, for n-gram models of order 1 to ``longest``.

    The first character of the text is not scored.
    """
    totals, before, scored = [0.0] * longest, "", 0
    for character in (character for piece in pieces for character in piece):
        if before:
            for n, p in enumerate(probabilities(counts, before, character, longest)):
                totals[n] -= math.log(p)
            scored += 1
        before = (before + character)[-longest:]
    return [total / max(scored, 1) for total in totals]
