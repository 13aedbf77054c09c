"""Compute the cross entropy of text under a character n-gram model with Witten-Bell smoothing, as a baseline.

Let h be a context that occurs n(h) times in the training text. After h, t(h) different characters occur. The
probability of a character c after h is interpolated with the probability of c after h without its first character::

    p(c | h) = (count(h c) + t(h) p(c | h without its first character)) / (n(h) + t(h))

The probability after the empty context is interpolated with a uniform distribution over all code points, so all
characters have a probability above 0.

Source: Witten and Bell, "The Zero-Frequency Problem", 1991 (method C).
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

MAX_ORDER = 8  # maximum number of characters of an n-gram, including the predicted character


class Counts(NamedTuple):
    """Counts of the n-grams of a text. Memory use grows with the number of different n-grams."""

    grams: Counter[str]  # number of occurrences of each n-gram, for all n up to ``MAX_ORDER``
    contexts: Counter[str]  # n(h), the number of occurrences of each context
    followers: Counter[str]  # t(h), the number of different characters that follow each context


def count(pieces: Iterable[str], max_order: int = MAX_ORDER) -> Counts:
    """Count the n-grams of a text.

    Args:
        pieces: the text in consecutive pieces.
        max_order: maximum n.

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
    """Return the probability of a character after a text, under n-gram models of several orders.

    Args:
        counts: counts of the training text.
        before: the text before the character.
        character: the character.
        max_order: maximum n.

    Returns:
        The probabilities under the n-gram models with n = 1, 2, …, ``max_order``.
    """
    p, of_orders = 1 / (sys.maxunicode + 1), []
    for length in range(max_order):
        context = before[len(before) - length :]
        if length <= len(before) and (occurrences := counts.contexts[context]):
            followers = counts.followers[context]
            p = (counts.grams[context + character] + followers * p) / (occurrences + followers)
        of_orders.append(p)
    return of_orders


def cross_entropy(counts: Counts, pieces: Iterable[str], max_order: int = MAX_ORDER) -> list[float]:
    """Return the mean cross entropy of a text without its first character, under n-gram models of several orders.

    Args:
        counts: counts of the training text.
        pieces: the text in consecutive pieces.
        max_order: maximum n.

    Returns:
        The cross entropies under the n-gram models with n = 1, 2, …, ``max_order``, in nats per character.
    """
    totals, before, scored = [0.0] * max_order, "", 0
    for character in (character for piece in pieces for character in piece):
        if before:
            for n, p in enumerate(probabilities(counts, before, character, max_order)):
                totals[n] -= math.log(p)
            scored += 1
        before = (before + character)[-max_order:]
    return [total / max(scored, 1) for total in totals]
