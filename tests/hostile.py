"""What the tests of hostile input share: bytes and values that somebody may have made, and what may come of them."""

import random
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from keras_lstmgen.utils.errors import UserError, visible

# Letters of scripts and planes, controls, what other programs take for the end of a line, and our own signs.
LETTERS = st.one_of(st.characters(exclude_categories=[]), st.sampled_from('\0\n\r\t\x1b\x85\u2028\ufeff▁▅,"\\[]{}<>=#'))
TEXTS = st.text(LETTERS, max_size=30)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-3, 400),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 10**4000, 2**31, 2**63, -1, 0, True]),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes of a file with some of them changed, cut off, repeated or put in."""
    dice, data = random.Random(draw(st.integers(0, 2**32))), bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place, size = dice.randrange(len(data) + 1), dice.choice([1, 1, 2, 8, 100])
        what = draw(st.sampled_from(["flip", "set", "cut", "end", "repeat", "put"]))
        if what == "flip" and place < len(data):
            data[place] ^= 1 << dice.randrange(8)
        elif what == "set":
            data[place : place + size] = dice.choice([b"\0", b"\xff", b"\x80", b"\x7f"]) * size
        elif what == "cut":
            del data[place : place + size]
        elif what == "end":
            del data[place:]
        elif what == "repeat":
            data[place:place] = data[max(place - size, 0) : place] * dice.choice([1, 50])
        else:
            data[place:place] = dice.randbytes(size)
    return bytes(data)


def refused_or(work: Callable[[], Any]) -> Any:
    """What comes of input: something, or None after a UserError that can be told in a line. Nothing else may come."""
    try:
        return work()
    except UserError as error:
        told = visible(str(error))
        assert told.isprintable()
        assert len(told) > 10
        return None


# For tests whose examples take tens of milliseconds; the profile "fuzz" has its own number for all.
HEAVY = settings(max_examples=30) if settings.get_current_profile_name() == "ours" else settings()
