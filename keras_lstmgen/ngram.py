"""What counting reaches: characters predicted from the few before them, n-grams interpolated as Witten and Bell do.

Source: Witten and Bell, "The Zero-Frequency Problem", 1991 (their method C). A context h that has come n times, before
t different characters, gives t parts of n + t to what the next shorter context says::

    p(c | h) = (count(h c) + t(h) p(c | h without its first character)) / (n(h) + t(h))

Below the empty context lies one in so many of all code points, for a character that training has never seen.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

LONGEST = 8  # characters of an n-gram, the predicted one among them


class Counts(NamedTuple):
    """What was counted; memory grows with the different n-grams of a text."""

    grams: Counter[str]  # n-grams of all lengths up to ``LONGEST``
    contexts: Counter[str]  # how often each has a character behind it
    kinds: Counter[str]  # how many different ones


def counted(pieces: Iterable[str], longest: int = LONGEST) -> Counts:
    """Read a text once, in pieces that go on in each other."""
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
    """What n-grams of up to 1, 2, … characters give a character behind a text."""
    p, found = 1 / (sys.maxunicode + 1), []
    for length in range(longest):
        context = before[len(before) - length :]
        if length <= len(before) and (times := counts.contexts[context]):
            kinds = counts.kinds[context]
            p = (counts.grams[context + character] + kinds * p) / (times + kinds)
        found.append(p)
    return found


def nats(counts: Counts, pieces: Iterable[str], longest: int = LONGEST) -> list[float]:
    """Mean nats a character of a text but its first, for n-grams of up to 1, 2, … characters."""
    totals, before, scored = [0.0] * longest, "", 0
    for character in (character for piece in pieces for character in piece):
        if before:
            for n, p in enumerate(probabilities(counts, before, character, longest)):
                totals[n] -= math.log(p)
            scored += 1
        before = (before + character)[-longest:]
    return [total / max(scored, 1) for total in totals]
