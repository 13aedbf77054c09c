"""The training source most similar to a new one: what a table of questions would answer, without a model."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.evaluation.metrics import words


class Index(NamedTuple):
    """Texts as vectors of weighted words, each of length 1, held word by word: numbers where they are not 0 alone."""

    places: dict[str, int]  # of a word in the two below
    texts: list[NDArray[np.int32]]  # of each word, the texts that have it
    weights: list[NDArray[np.float32]]  # and what it weighs in each of them
    rarity: NDArray[np.float32]  # of each word
    size: int  # texts


def index(texts: Iterable[str]) -> Index:
    """Read texts once. A word weighs how often the text has it, times 1 + ln((1 + n) / (1 + texts with the word)).

    This is TF-IDF (Spärck Jones, 1972) as scikit-learn smooths it. Memory grows with the distinct words of the texts.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    size = 0
    for number, text in enumerate(texts):
        size = number + 1
        for word, times in Counter(words(text)).items():
            found.setdefault(word, []).append((number, times))
    rarity = np.array([1 + np.log((1 + size) / (1 + len(entries))) for entries in found.values()], np.float32)
    columns = [np.array(entries, np.int32).T for entries in found.values()]
    weights = [times * weight for (_, times), weight in zip(columns, rarity, strict=True)]
    return _unit(
        Index({word: place for place, word in enumerate(found)}, [c[0] for c in columns], weights, rarity, size)
    )


def _unit(whole: Index) -> Index:
    """Give each text the length 1."""
    squares = np.zeros(whole.size, np.float32)
    for texts, weights in zip(whole.texts, whole.weights, strict=True):
        squares[texts] += weights**2
    lengths = np.sqrt(squares)
    pairs = zip(whole.texts, whole.weights, strict=True)
    return whole._replace(weights=[(weights / lengths[texts]).astype(np.float32) for texts, weights in pairs])


def nearest(whole: Index, text: str) -> int:
    """The number of the text of the largest cosine, the first of equals; 0 where no word is known."""
    cosines = np.zeros(whole.size, np.float32)  # times the length of ``text``, which is the same for all
    for word, times in Counter(words(text)).items():
        if (place := whole.places.get(word)) is not None:
            cosines[whole.texts[place]] += whole.weights[place] * (times * whole.rarity[place])
    return int(cosines.argmax())
