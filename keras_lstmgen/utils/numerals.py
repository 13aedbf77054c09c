"""Numbers as users type them: ASCII digits, and nothing that is too long to be read."""

import re

MAX_DIGITS = 20  # of the largest number of 64 bits
SEEDS = range(-(2**63), 2**64)  # a negative one counts as its two's complement
SHOWN = 40  # characters of a word in a message


def parse_int(word: str) -> int:
    """Read a whole number of at most 20 digits: ``parse_int("-5") == -5``. Raises ValueError, which says what is wrong."""
    if not re.fullmatch(r"[+-]?[0-9]+", word):
        raise ValueError(f"'{shortened(word)}' is not a whole number")
    if len(word.lstrip("+-0")) > MAX_DIGITS:
        raise ValueError(f"'{shortened(word)}' is out of range; a whole number has {MAX_DIGITS} digits at most")
    return int(word)


def parse_float(word: str) -> float:
    """Read a number: ``parse_float("1e-3") == 0.001``. ``nan`` and ``inf`` are read too: ranges refuse them."""
    if not re.fullmatch(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|inf|nan)", word, re.IGNORECASE):
        raise ValueError(f"'{shortened(word)}' is not a number")
    return float(word)


def parse_seed(word: str) -> int:
    """Read a seed of 64 bits. Raises ValueError for a number that would count as another one."""
    number = parse_int(word)
    if number not in SEEDS:
        raise ValueError(f"{number} is out of range; give a number of 64 bits, from {SEEDS[0]} to {SEEDS[-1]}")
    return number


def shortened(word: str) -> str:
    """A word that is short enough for a message."""
    return word if len(word) <= SHOWN else f"{word[: SHOWN - 1]}…"
