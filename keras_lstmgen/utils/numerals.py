"""Parse numbers from the command line. Only ASCII digits are accepted, and the number of digits is limited."""

import re

MAX_DIGITS = 20  # number of digits of the largest unsigned 64-bit number
SEEDS = range(-(2**63), 2**64)  # a negative seed is converted to an unsigned one by two's complement
MAX_SHOWN = 40  # maximum number of characters of a word in a message


def parse_int(word: str) -> int:
    """Parse a whole number of at most 20 digits.

    Raises:
        ValueError: the word is not a whole number, or it has more than 20 digits. The message is for the user.

    >>> parse_int("-5")
    -5
    """
    if not re.fullmatch(r"[+-]?[0-9]+", word):
        raise ValueError(f"'{shortened(word)}' is not a whole number")
    if len(word.lstrip("+-0")) > MAX_DIGITS:
        raise ValueError(f"'{shortened(word)}' is out of range; a whole number has {MAX_DIGITS} digits at most")
    return int(word)


def parse_float(word: str) -> float:
    """Parse a decimal number, ``inf`` or ``nan``. The function does not check the range.

    Raises:
        ValueError: the word is not a number. The message is for the user.

    >>> parse_float("1e-3")
    0.001
    """
    if not re.fullmatch(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|inf|nan)", word, re.IGNORECASE):
        raise ValueError(f"'{shortened(word)}' is not a number")
    return float(word)


def parse_seed(word: str) -> int:
    """Parse a 64-bit seed, signed or unsigned.

    Raises:
        ValueError: the word is not a whole number, or the number does not fit into 64 bits. The message is for the
            user.

    >>> parse_seed("-1")
    -1
    """
    number = parse_int(word)
    if number not in SEEDS:
        raise ValueError(f"{number} is out of range; give a number of 64 bits, from {SEEDS[0]} to {SEEDS[-1]}")
    return number


def shortened(word: str) -> str:
    """Shorten a word to at most 40 characters for a message. A shortened word ends with an ellipsis.

    >>> shortened("1" * 100)[-3:]
    '11…'
    """
    return word if len(word) <= MAX_SHOWN else f"{word[: MAX_SHOWN - 1]}…"
