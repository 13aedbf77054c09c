"""Suggest the next word, as a keyboard does: needs numpy and ai-edge-litert.

    python export/tflite/suggest.py model.tflite "I wa"    # ways to end the word that is being typed
    python export/tflite/suggest.py model.tflite           # the same after each line of standard input

A word is written piece by piece, and there may be several ways to write it. The search goes from the likeliest
beginning to the next likeliest, until none is left that could matter. V is the vocabulary size, S the state size.
"""

import heapq
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).resolve().parents[2]))  # what holds export/, last: it hides no module
from export.client import Model, Parser, open_model, run
from export.contract import Bools, Floats, prompt_ids
from export.tflite.generate import load
from export.tokenizer import CONTROL, SPACE, UNKNOWN, encode

sys.path.pop()

LETTER = r"(?:[^\W_]|['’])"  # what words are made of; all else is a boundary between them
RARE = 0.1  # beginnings less likely than this part of the last word shown are left
MOST_STEPS = 500  # of the model, for one answer


class Pieces(NamedTuple):
    """How ids look in text: the bytes that each adds, and bool [V], whether it ends the word before it."""

    added: list[bytes]
    ends: Bools


class Beginning(NamedTuple):
    """What may follow, as far as it is written; likelier ones sort first, the older of equals."""

    surprise: float  # minus its probability
    number: int
    text: bytes
    token: int  # the last one, which the model has not read yet
    state: Floats  # [S], before it


def pieces_of(model: Model) -> Pieces:
    """Look at each piece once."""
    kit = model.tokenizer
    added = [b"" if kind in (CONTROL, UNKNOWN) else piece.replace(SPACE, " ").encode() for piece, kind in
             zip(kit.pieces, kit.types, strict=True)]  # fmt: skip
    for byte, i in kit.byte_ids.items():
        added[i] = bytes([byte])
    first = [text.decode(errors="ignore")[:1] for text in added]
    ends = np.array([bool(sign) and not re.match(LETTER, sign) for sign in first])
    ends[model.metadata.end_id] = True
    return Pieces(added, ends)


def suggest(model: Model, pieces: Pieces, typed: str, count: int = 3) -> list[tuple[str, float]]:
    """The likeliest words that go on from what was typed, or end what is being typed, likeliest first.

    Each has its probability among all that the model could write there and that begins as typed.
    """
    word = re.search(rf" ?{LETTER}*\Z", typed)
    assert word  # it may be empty
    begun = word[0].encode()  # it may be part of a longer piece, so it is not fed to the model but searched for
    *read, last = prompt_ids(encode(model.tokenizer, typed[: word.start()]), model.metadata)
    state = np.zeros(model.metadata.state_size, np.float32)
    for token in read:
        _, state = model.step(token, state)
    words, agreeing = _search(model, pieces, begun, Beginning(-1.0, 0, b"", last, state), count)
    return [(word, probability / agreeing) for word, probability in words.most_common(count)]


def _search(model: Model, pieces: Pieces, begun: bytes, start: Beginning, count: int) -> tuple[Counter[str], float]:
    """Probabilities of the words that begin with ``begun``, and of all that begins so."""
    words, agreeing = Counter[str](), 0.0 if begun else 1.0
    waiting, numbers, least = [start], itertools.count(1), 0.0
    for _ in range(MOST_STEPS):
        if not waiting or -waiting[0].surprise <= least:
            break
        now = heapq.heappop(waiting)
        for share, text, token, state in _longer(model, pieces, begun, now, least):
            agreeing += share * (len(now.text) < len(begun) <= len(text))
            word, ended = _read(text)
            if not ended:
                heapq.heappush(waiting, Beginning(-share, next(numbers), text, token, state))
            elif word:
                words[word] += share  # type: ignore[assignment]  # counters of parts are fine
        least = RARE * words.most_common(count)[-1][1] if len(words) >= count else 0.0
    return words, agreeing


def _longer(
    model: Model, pieces: Pieces, begun: bytes, now: Beginning, least: float
) -> Iterator[tuple[float, bytes, int, Floats]]:
    """What may stand one piece further and begins as typed: probability, text, last token, the state before that.

    All pieces that end a word are one, written as a newline. Where nothing is written yet there is no word to end.
    """
    shares, state = _next(model, now)
    ways = [(i, pieces.added[i], float(shares[i])) for i in np.flatnonzero(shares > least).tolist()]
    if now.text:
        ways = [way for way in ways if not pieces.ends[way[0]]]
        ways.append((model.metadata.end_id, b"\n", float(shares[pieces.ends].sum())))
    for token, added, share in ways:
        text = now.text + added
        if share > 0 and added and (text.startswith(begun) or begun.startswith(text)):
            yield share, text, token, state


def _next(model: Model, now: Beginning) -> tuple[npt.NDArray[np.float64], Floats]:
    """The probability [V] of the beginning with each id behind it, and the state after the beginning."""
    logits, state = model.step(now.token, now.state)
    logits = logits.astype(np.float64)
    logits[list(model.metadata.unsampled_ids)] = -np.inf
    powers = np.exp(logits - logits.max())
    return -now.surprise * powers / powers.sum(), state


def _read(text: bytes) -> tuple[str, bool]:
    """The word that a text holds, behind a space or none, and whether the text goes on behind it."""
    try:
        letters = text.decode().removeprefix(" ")
    except UnicodeDecodeError as error:
        return "", error.reason != "unexpected end of data"  # bytes that may become a character, or never will
    word = re.match(f"{LETTER}*", letters)
    assert word  # it may be empty
    return word[0], len(word[0]) < len(letters)


def main() -> int:
    """Answer one text, or each line; the exit status is 2, after one line on stderr, for bad input."""
    return run("suggest.py", _suggest_all)


def _suggest_all() -> None:
    parser = Parser(description="Suggest the three likeliest next words.")
    parser.add_argument("model", type=Path, help="a TFLite file")
    parser.add_argument("text", nargs="?", help="what was typed; without it, each line of standard input is")
    arguments = parser.parse_args()
    model = open_model(load, arguments.model)
    pieces = pieces_of(model)
    for typed in sys.stdin if arguments.text is None else [arguments.text]:
        found = suggest(model, pieces, typed.rstrip("\n"))
        print("   ".join(f"{word} {probability:.1%}" for word, probability in found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
