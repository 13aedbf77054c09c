"""A simple judge of what kind a text is of: multinomial naive Bayes (McCallum and Nigam, 1998).

It counts words and pairs of neighbouring words, and adds one to each count (Laplace).
"""

import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from keras_lstmgen.evaluation.metrics import words


class Judge(NamedTuple):
    """What was counted, kind by kind."""

    documents: Counter[str]  # of each kind
    features: dict[str, Counter[str]]  # how often each kind has each feature
    totals: dict[str, int]  # the sum of these counts, each of all known features being one higher


def judge(documents: Iterable[tuple[str, str]]) -> Judge:
    """Read pairs of kind and text once. Memory grows with the distinct words and pairs of words."""
    seen, counts = Counter[str](), dict[str, Counter[str]]()
    for kind, text in documents:
        seen[kind] += 1
        counts.setdefault(kind, Counter()).update(features(text))
    known = len(set().union(*counts.values()))
    return Judge(seen, counts, {kind: found.total() + known for kind, found in counts.items()})


def features(text: str) -> list[str]:
    """``["new", "york", "new york"]`` of "New York"."""
    found = words(text)
    return found + [" ".join(neighbours) for neighbours in pairwise(found)]


def kind(known: Judge, text: str) -> str:
    """Return the likeliest kind of a text, the first that was read of equals."""
    found = features(text)
    return max(known.documents, key=lambda name: _log_likelihood(known, name, found))


def _log_likelihood(judged: Judge, name: str, found: list[str]) -> float:
    """Return ln of the documents of a kind times the probability of each feature in it."""
    counts, total = judged.features[name], judged.totals[name]
    return math.log(judged.documents[name]) + sum(math.log((counts[feature] + 1) / total) for feature in found)
