"""Form of classical Chinese quatrains: four verses of five or seven characters; the second and the fourth rhyme.

Rhymes are learned from poems of the period, because modern pronunciation does not preserve them.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

POEM = re.compile("(?:[^，。？！]+[，。？！]){4}")
VERSE = re.compile("([^，。？！]+)[，。？！]")
LENGTHS = (5, 7)
# Minimum number of poems in which a pair of verse ends must occur to count as a rhyme. A single wrong pair merges two
# rhyme classes. With a minimum of 1, nearly all characters end up in one class.
SEEN = 2


def verses(text: str) -> list[str]:
    """Return the four verses of a poem without punctuation, or an empty list if the text has another form."""
    found = VERSE.findall(text) if POEM.fullmatch(text.strip()) else []
    found = [verse.strip() for verse in found]
    return found if len(set(map(len, found))) == 1 and len(found[0]) in LENGTHS else []


def ends(text: str) -> tuple[str, str] | None:
    """Return the last characters of the second and the fourth verse, or None if the text is not a quatrain."""
    found = verses(text)
    return (found[1][-1], found[3][-1]) if found else None


def rhymes(poems: Iterable[str], seen: int = SEEN) -> dict[str, str]:
    """Learn rhyme classes from poems.

    Two characters are in the same class if they end the second and fourth verse of at least ``seen`` poems, directly or
    through a chain of such pairs (union-find).

    Returns:
        The class of each character, named by one character of the class. Other characters have no class.
    """
    pairs = Counter(tuple(sorted(pair)) for poem in poems if (pair := ends(poem)) and pair[0] != pair[1])
    classes: dict[str, str] = {}
    for (one, other), times in pairs.items():
        if times >= seen:
            classes[_root(classes, one)] = _root(classes, other)
    return {character: _root(classes, character) for character in classes}


def _root(classes: dict[str, str], character: str) -> str:
    """Return the root of the tree of a character; a new character is its own root."""
    classes.setdefault(character, character)
    while classes[character] != character:
        classes[character] = classes[classes[character]]  # path halving
        character = classes[character]
    return character


def rhyme(classes: dict[str, str], one: str, other: str) -> bool:
    """Return whether two different characters are in the same rhyme class."""
    return one != other and one in classes and classes[one] == classes.get(other)


def form(poems: list[str], classes: dict[str, str]) -> dict[str, float]:
    """Return the share of texts that are quatrains, and the share that are quatrains and rhyme."""
    found = [pair for poem in poems if (pair := ends(poem))]
    return {
        "four_equal_verses": len(found) / max(len(poems), 1),
        "rhyming": sum(rhyme(classes, *pair) for pair in found) / max(len(poems), 1),
    }


def by_chance(poems: list[str], classes: dict[str, str]) -> float:
    """Return the share of poems that rhyme when each fourth verse is replaced by that of the previous poem."""
    found = [pair for poem in poems if (pair := ends(poem))]
    mixed = [(one, before) for (_, before), (one, _) in pairwise([*found[-1:], *found])]
    return sum(rhyme(classes, *pair) for pair in mixed) / max(len(poems), 1)
