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

MAX_ORDER = 8  # maximum n: characters of an n-gram, including the predicted one


class Counts(NamedTuple):
    """Counts of n-grams. Memory grows with the number of different n-grams."""

    grams: Counter[str]  # n-grams of all lengths up to ``MAX_ORDER``
    contexts: Counter[str]  # n(h): occurrences of each context
    followers: Counter[str]  # t(h): different characters after each context


def count(pieces: Iterable[str], max_order: int = MAX_ORDER) -> Counts:
    """Count the n-grams of a text that is given in consecutive pieces.

    >>> from keras_lstmgen.evaluation.ngram_model import count
    >>> counts = count(["ab", "ab"], max_order=2)
    >>> counts.grams["ab"], counts.contexts["a"], counts.followers["a"]
    (2, 2, 1)
    """
    grams, before = Counter[str](), ""
    for piece in pieces:
        for n in range(1, max_order + 1):
            text = before[max(len(before) - n + 1, 0) :] + piece
            grams.update(text[at : at + n] for at in range(len(text) - n + 1))
        before = (before + piece)[-max_order:]
    contexts, followers = Counter[str](), Counter[str]()
    for gram, occurrences in grams.items():
        contexts[gram[:-1]] += occurrences
        followers[gram[:-1]] += 1
    return Counts(grams, contexts, followers)


def probabilities(counts: Counts, before: str, character: str, max_order: int = MAX_ORDER) -> list[float]:
    """Return the probability of a character after a text, for n-gram models of order 1 to ``max_order``."""
    p, of_orders = 1 / (sys.maxunicode + 1), []
    for length in range(max_order):
        context = before[len(before) - length :]
        if length <= len(before) and (occurrences := counts.contexts[context]):
            followers = counts.followers[context]
            p = (counts.grams[context + character] + followers * p) / (occurrences + followers)
        of_orders.append(p)
    return of_orders


def cross_entropy(counts: Counts, pieces: Iterable[str], max_order: int = MAX_ORDER) -> list[float]:
    """Return the mean cross entropy in nats per character, for n-gram models of order 1 to ``max_order``.

    The first character of the text is not scored.
    """
    totals, before, scored = [0.0] * max_order, "", 0
    for character in (character for piece in pieces for character in piece):
        if before:
            for n, p in enumerate(probabilities(counts, before, character, max_order)):
                totals[n] -= math.log(p)
            scored += 1
        before = (before + character)[-max_order:]
    return [total / max(scored, 1) for total in totals]
