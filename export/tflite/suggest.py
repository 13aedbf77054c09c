"""Suggest the next word, like a keyboard; requires numpy and ai-edge-litert.

    python export/tflite/suggest.py model.tflite "I wa"    # completions of the last word
    python export/tflite/suggest.py model.tflite           # suggestions for each line of standard input

A word consists of one or more pieces, and several sequences of pieces can spell the same word. A best-first search
repeatedly extends the most likely beginning of a word by one piece. It stops when all other beginnings are too unlikely
to change the result. V is the vocabulary size, and S is the state size.
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

sys.path.append(str(Path(__file__).resolve().parents[2]))  # contains export/; as the last path, it hides no module
from export.client import Model, Parser, open_model, run
from export.contract import Bools, Floats, prompt_ids
from export.tflite.generate import load
from export.tokenizer import CONTROL, SPACE, UNKNOWN, encode

sys.path.pop()

LETTER = r"(?:[^\W_]|['’])"  # characters of words; all other characters end a word
RARE = 0.1  # the search skips a beginning whose probability, divided by that of the last suggestion, is below this
MAX_STEPS = 500  # largest number of steps of the model per search


class Pieces(NamedTuple):
    """What each id adds to a text."""

    added: list[bytes]  # [V], bytes that the id adds
    ends: Bools  # bool [V], whether the id ends the word before it


class Beginning(NamedTuple):
    """Beginning of a continuation of the text.

    More likely beginnings sort first. If two beginnings have the same probability, the older one sorts first.
    """

    surprise: float  # probability of the beginning, multiplied by -1
    number: int  # lower for older beginnings
    text: bytes
    token: int  # last token, which the model has not read yet
    state: Floats  # float32 [S], state of the model before the last token


def pieces_of(model: Model) -> Pieces:
    """Return the bytes and word boundaries of all pieces."""
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
    """Return the most likely next words, or completions of the last word.

    Args:
        model: the artifact.
        pieces: result of ``pieces_of``.
        typed: the text so far.
        count: number of words.

    Returns:
        The words with their probabilities, sorted with the most likely word first. The probabilities are conditioned on
        the letters of the last word that are already typed.
    """
    word = re.search(rf" ?{LETTER}*\Z", typed)
    assert word  # the match may be empty
    begun = word[0].encode()  # the model does not read it, because it may be part of a longer piece
    *read, last = prompt_ids(encode(model.tokenizer, typed[: word.start()]), model.metadata)
    state = np.zeros(model.metadata.state_size, np.float32)
    for token in read:
        _, state = model.step(token, state)
    words, agreeing = _search(model, pieces, begun, Beginning(-1.0, 0, b"", last, state), count)
    return [(word, probability / agreeing) for word, probability in words.most_common(count)]


def _search(model: Model, pieces: Pieces, begun: bytes, start: Beginning, count: int) -> tuple[Counter[str], float]:
    """Return the probabilities of the words that begin with ``begun``, and of all texts that begin with it."""
    words, agreeing = Counter[str](), 0.0 if begun else 1.0
    waiting, numbers, least = [start], itertools.count(1), 0.0
    for _ in range(MAX_STEPS):
        if not waiting or -waiting[0].surprise <= least:
            break
        now = heapq.heappop(waiting)
        for share, text, token, state in _longer(model, pieces, begun, now, least):
            agreeing += share * (len(now.text) < len(begun) <= len(text))
            word, ended = _read(text)
            if not ended:
                heapq.heappush(waiting, Beginning(-share, next(numbers), text, token, state))
            elif word:
                words[word] += share  # type: ignore[assignment]  # a counter of probabilities
        least = RARE * words.most_common(count)[-1][1] if len(words) >= count else 0.0
    return words, agreeing


def _longer(
    model: Model, pieces: Pieces, begun: bytes, now: Beginning, least: float
) -> Iterator[tuple[float, bytes, int, Floats]]:
    """Extend a beginning by one piece, and yield the extensions that agree with the typed text.

    If the beginning is not empty, the function combines all pieces that end a word to a single extension, whose text is
    a newline.

    Yields:
        The probability, the text and the last token of each extension, and the state before the last token.
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
    """Return the probabilities of the beginning followed by each id, float64 [V], and the state after the beginning."""
    logits, state = model.step(now.token, now.state)
    logits = logits.astype(np.float64)
    logits[list(model.metadata.unsampled_ids)] = -np.inf
    powers = np.exp(logits - logits.max())
    return -now.surprise * powers / powers.sum(), state


def _read(text: bytes) -> tuple[str, bool]:
    """Return the word at the start of a text, and whether the text continues after it; skip a space before the word."""
    try:
        letters = text.decode().removeprefix(" ")
    except UnicodeDecodeError as error:
        return "", error.reason != "unexpected end of data"  # an incomplete or invalid character
    word = re.match(f"{LETTER}*", letters)
    assert word  # the match may be empty
    return word[0], len(word[0]) < len(letters)


def main() -> int:
    """Print suggestions; return the exit status, 0, or 2 after an error message in one line on standard error."""
    return run("suggest.py", _suggest_all)


def _suggest_all() -> None:
    """Print suggestions for the text on the command line, or for each line of standard input."""
    parser = Parser(description="Suggest the three most likely next words, or completions of the last word.")
    parser.add_argument("model", type=Path, help="a TFLite file")
    parser.add_argument("text", nargs="?", help="the text so far; without it, read a text from each line of the input")
    arguments = parser.parse_args()
    model = open_model(load, arguments.model)
    pieces = pieces_of(model)
    for typed in sys.stdin if arguments.text is None else [arguments.text]:
        found = suggest(model, pieces, typed.rstrip("\n"))
        print("   ".join(f"{word} {probability:.1%}" for word, probability in found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
