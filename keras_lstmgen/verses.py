"""The form of a classical Chinese quatrain: four verses of five or seven characters, the second and fourth rhyming.

What rhymes is learned from poems, as they rhymed when they were written; today's sounds say little of it.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

POEM = re.compile("(?:[^，。？！]+[，。？！]){4}")
VERSE = re.compile("([^，。？！]+)[，。？！]")
LENGTHS = (5, 7)
# One pair of ends that is no rhyme makes two rhymes one. Of the ends that stand in just one poem so many are none
# that nearly all characters become one rhyme, and any two lines rhyme; those of two poems or more are safe.
SEEN = 2


def verses(text: str) -> list[str]:
    """The four verses of a poem, of equal length, without their marks; none of a text of another form."""
    found = VERSE.findall(text) if POEM.fullmatch(text.strip()) else []
    found = [verse.strip() for verse in found]
    return found if len(set(map(len, found))) == 1 and len(found[0]) in LENGTHS else []


def ends(text: str) -> tuple[str, str] | None:
    """The last characters of the second and the fourth verse."""
    found = verses(text)
    return (found[1][-1], found[3][-1]) if found else None


def rhymes(poems: Iterable[str], seen: int = SEEN) -> dict[str, str]:
    """The rhyme of each character: its class, named by one of its characters. Others are in no class.

    Characters that end the second and fourth verse of ``seen`` poems are of one class, and so are those that a chain
    of such pairs joins (union-find).
    """
    pairs = Counter(tuple(sorted(pair)) for poem in poems if (pair := ends(poem)) and pair[0] != pair[1])
    classes: dict[str, str] = {}
    for (one, other), times in pairs.items():
        if times >= seen:
            classes[_root(classes, one)] = _root(classes, other)
    return {character: _root(classes, character) for character in classes}


def _root(classes: dict[str, str], character: str) -> str:
    """Where the chain from a character ends; a new one is its own class."""
    classes.setdefault(character, character)
    while classes[character] != character:
        classes[character] = classes[classes[character]]  # halve the chain for the next time
        character = classes[character]
    return character


def rhyme(classes: dict[str, str], one: str, other: str) -> bool:
    """Whether two characters rhyme: different ones of one class."""
    return one != other and one in classes and classes[one] == classes.get(other)


def form(poems: list[str], classes: dict[str, str]) -> dict[str, float]:
    """Shares of poems: with four equal verses, and with these and a rhyme."""
    found = [pair for poem in poems if (pair := ends(poem))]
    return {
        "four_equal_verses": len(found) / max(len(poems), 1),
        "rhyming": sum(rhyme(classes, *pair) for pair in found) / max(len(poems), 1),
    }


def by_chance(poems: list[str], classes: dict[str, str]) -> float:
    """Share of poems that rhyme if the end of each one's fourth verse is that of the poem before it."""
    found = [pair for poem in poems if (pair := ends(poem))]
    mixed = [(one, before) for (_, before), (one, _) in pairwise([*found[-1:], *found])]
    return sum(rhyme(classes, *pair) for pair in mixed) / max(len(poems), 1)
