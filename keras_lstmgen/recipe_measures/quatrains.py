"""Measure whether generated poems have the form of classical Chinese quatrains.

A quatrain has four verses of five or seven characters. The second and the fourth verse rhyme. The rhymes are
learned from the poems of the training text, because modern pronunciation does not preserve them. The measure is used by
the recipe ``pipelines/poems_zh.toml``.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from keras_lstmgen.data import splits
from keras_lstmgen.evaluation.task import Figures, Task, split

POEM = re.compile("(?:[^，。？！]+[，。？！]){4}")
VERSE = re.compile("([^，。？！]+)[，。？！]")
LENGTHS = (5, 7)  # possible numbers of characters in a verse
# Two characters count as a rhyme if they end the second and the fourth verse of at least this number of poems. With a
# minimum of 1, nearly all characters are in the same class, because a single wrong pair merges two rhyme classes.
MIN_POEMS = 2


def verses(task: Task) -> Figures:
    """For generated and for held-out poems, compute the share that are quatrains and the share that rhyme.

    For comparison, one row contains the share of held-out poems that rhyme by chance. For this row, the fourth verse of
    each poem is replaced by the fourth verse of the previous poem.

    Args:
        task: a task whose corpus consists of pairs of a label and a poem.
    """
    classes = rhyme_classes(target for _, target in task.training_pairs())
    held_out = [split(text)[1] for text in splits.pieces(task.held_out, "validation")]
    label = "".join(task.training.labels[:1])
    samples = task.samples([label])
    generated = {"poems": len(samples[label])} | form(samples[label], classes)
    return {
        "generated": generated | {"in_training": task.shares_in_training(samples)[label]},
        "held out": {"poems": len(held_out)} | form(held_out, classes),
        "held out, ends paired by chance": {"rhyming": chance_of_rhyme(held_out, classes)},
        "rhyme table": {"characters": len(classes), "rhymes": len(set(classes.values()))},
    }


def split_verses(text: str) -> list[str]:
    """Return the four verses of a poem without punctuation, or an empty list if the text is not a quatrain.

    >>> from keras_lstmgen.recipe_measures.quatrains import split_verses
    >>> split_verses("白日依山盡，黃河入海流。欲窮千里目，更上一層樓。")
    ['白日依山盡', '黃河入海流', '欲窮千里目', '更上一層樓']
    """
    parts = VERSE.findall(text) if POEM.fullmatch(text.strip()) else []
    parts = [verse.strip() for verse in parts]
    return parts if len(set(map(len, parts))) == 1 and len(parts[0]) in LENGTHS else []


def verse_ends(text: str) -> tuple[str, str] | None:
    """Return the last characters of the second and the fourth verse, or None if the text is not a quatrain."""
    parts = split_verses(text)
    return (parts[1][-1], parts[3][-1]) if parts else None


def rhyme_classes(poems: Iterable[str], min_poems: int = MIN_POEMS) -> dict[str, str]:
    """Learn rhyme classes of characters from poems.

    Two characters rhyme if they end the second and the fourth verse of at least ``min_poems`` poems. A class contains
    all characters that are connected by rhymes, directly or through other characters (union-find).

    Args:
        poems: the poems. Texts that are not quatrains are ignored.
        min_poems: minimum number of poems with the same rhyme.

    Returns:
        A dictionary that maps each rhyming character to the name of its class. The name is one character of the class.
    """
    pairs = Counter(tuple(sorted(pair)) for poem in poems if (pair := verse_ends(poem)) and pair[0] != pair[1])
    parents: dict[str, str] = {}
    for (one, other), count in pairs.items():
        if count >= min_poems:
            parents[_root(parents, one)] = _root(parents, other)
    return {character: _root(parents, character) for character in parents}


def _root(parents: dict[str, str], character: str) -> str:
    """Return the root of the tree that contains a character. A new character becomes the root of a new tree."""
    parents.setdefault(character, character)
    while parents[character] != character:
        parents[character] = parents[parents[character]]  # path halving
        character = parents[character]
    return character


def is_rhyme(classes: dict[str, str], one: str, other: str) -> bool:
    """Return whether two different characters are in the same rhyme class.

    >>> from keras_lstmgen.recipe_measures.quatrains import is_rhyme
    >>> classes = {"流": "樓", "樓": "樓", "山": "間"}
    >>> is_rhyme(classes, "流", "樓"), is_rhyme(classes, "流", "山"), is_rhyme(classes, "流", "流")
    (True, False, False)
    """
    return one != other and one in classes and classes[one] == classes.get(other)


def form(poems: list[str], classes: dict[str, str]) -> dict[str, float]:
    """Return the share of texts that are quatrains, and the share of texts that are quatrains and rhyme."""
    ends = [pair for poem in poems if (pair := verse_ends(poem))]
    return {
        "four_equal_verses": len(ends) / max(len(poems), 1),
        "rhyming": sum(is_rhyme(classes, *pair) for pair in ends) / max(len(poems), 1),
    }


def chance_of_rhyme(poems: list[str], classes: dict[str, str]) -> float:
    """Replace the fourth verse of each poem by the fourth verse of the previous one. Return the share that rhymes."""
    ends = [pair for poem in poems if (pair := verse_ends(poem))]
    mixed = [(second, previous) for (_, previous), (second, _) in pairwise([*ends[-1:], *ends])]
    return sum(is_rhyme(classes, *pair) for pair in mixed) / max(len(poems), 1)
