"""Encode and decode text with the SentencePiece model of an artifact; requires only Python.

Example::

    tokenizer = read(Path("tokenizer.model").read_bytes())
    decode(tokenizer, encode(tokenizer, "any text"))  # "any text"

The module supports SentencePiece models of the types char, word, bpe and unigram that do not normalize the text and do
not add a dummy prefix. In pieces, the character U+2581 represents a space.
"""

import codecs
import heapq
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True)
class Tokenizer:
    """A SentencePiece model: the piece, the score and the type of each id, and the options of the model."""

    kind: str  # "char", "word", "bpe" or "unigram"
    pieces: tuple[str, ...]  # [V]
    scores: tuple[float, ...]  # [V]
    types: tuple[int, ...]  # [V], ``NORMAL`` to ``BYTE``
    byte_fallback: bool  # whether text without a piece is encoded as bytes
    unknown_surface: str  # text that the unknown id is decoded to

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids of the pieces that are text, which excludes control symbols such as ``<s>`` and byte pieces."""
        return {piece: i for i, piece in enumerate(self.pieces) if self.types[i] in (NORMAL, USER_DEFINED)}

    @cached_property
    def byte_ids(self) -> dict[int, int]:
        """Ids of the byte pieces by their bytes, 0 to 255; for example, the piece ``<0x0A>`` has the byte 10."""
        return {int(piece[3:5], 16): i for i, piece in enumerate(self.pieces) if self.types[i] == BYTE}

    @cached_property
    def user_defined(self) -> frozenset[str]:
        """User-defined pieces, which the encoder never splits or merges."""
        return frozenset(piece for i, piece in enumerate(self.pieces) if self.types[i] == USER_DEFINED)


def read(model: bytes) -> Tokenizer:
    """Read a SentencePiece ``ModelProto``; raise ValueError if it is damaged or uses unsupported options."""
    try:
        proto = _fields(model)
        trainer, normalizer = (_fields(proto[number][0]) for number in (2, 3))
        pieces = [_fields(piece) for piece in proto[1]]
        tokenizer = Tokenizer(
            kind=KINDS[trainer.get(3, [1])[0]],
            pieces=tuple(piece[1][0].decode() for piece in pieces),
            scores=tuple(struct.unpack("<f", piece.get(2, [bytes(4)])[0])[0] for piece in pieces),
            types=tuple(piece.get(3, [NORMAL])[0] for piece in pieces),
            byte_fallback=bool(trainer.get(35, [0])[0]),
            unknown_surface=trainer.get(44, [" \u2047 ".encode()])[0].decode(),
        )
        _check(tokenizer)
    except (LookupError, ValueError, struct.error, TypeError, AttributeError):
        raise ValueError("its tokenizer is not a SentencePiece model") from None
    # Fields 2 to 5 are charsmap, add_dummy_prefix, remove_extra_whitespaces and escape_whitespaces. The last three are
    # true by default.
    changes = [bool(normalizer.get(number, [number > 2])[0]) for number in (2, 3, 4, 5)]
    if changes != [False, False, False, True]:
        raise ValueError("its tokenizer changes the text (normalization or a dummy prefix), which is not supported")
    return tokenizer


def _check(tokenizer: Tokenizer) -> None:
    """Raise ValueError if the model cannot encode every text, or cannot decode every id."""
    tokenizer.types.index(UNKNOWN)
    raw = [piece for piece, kind in zip(tokenizer.pieces, tokenizer.types, strict=True) if kind == BYTE]
    if not all(re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece) for piece in raw):
        raise ValueError("a byte piece is invalid")
    if tokenizer.byte_fallback and len(tokenizer.byte_ids) < 256:
        raise ValueError("a byte has no piece")
    if not all(abs(score) < 2**31 for score in tokenizer.scores):
        raise ValueError("a score is too large or not finite")
    if tokenizer.kind == "unigram" and NORMAL not in tokenizer.types:
        raise ValueError("there are no normal pieces")


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Read the fields of a protobuf message by their numbers; varints become ``int``, all other values ``bytes``.

    >>> _fields(bytes([0x08, 0x96, 0x01]))
    {1: [150]}
    """
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value: Any
        if key & 7 == 0:
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            value, at = message[at : at + size], at + size
        fields.setdefault(key >> 3, []).append(value)
    if at > len(message):
        raise ValueError("the message is truncated")
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Read a varint, which has seven bits per byte; return the number and the position after it."""
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if message[at - 1] < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a varint has more than 64 bits")


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a text to ids, line by line.

    A part of the text that is not a piece is encoded as its UTF-8 bytes. If the model has no byte pieces, it becomes
    the unknown id.
    """
    ids: list[int] = []
    unknown = tokenizer.types.index(UNKNOWN)
    for line in re.findall("[^\n]*\n|[^\n]+", text.replace(" ", SPACE)):
        for part in _CUT[tokenizer.kind](tokenizer, line):
            if part in tokenizer.ids:
                ids.append(tokenizer.ids[part])
            elif tokenizer.byte_fallback:
                ids.extend(tokenizer.byte_ids[byte] for byte in part.encode())
            else:
                ids.append(unknown)
    return ids


def _chars(tokenizer: Tokenizer, text: str) -> list[str]:
    """Split a text into characters and user-defined pieces; where several match, the longest piece is used."""
    whole = sorted(tokenizer.user_defined, key=len, reverse=True)
    return re.findall("|".join([*map(re.escape, whole), "."]), text, re.DOTALL)


def _words(_: Tokenizer, text: str) -> list[str]:
    """Split a text before each space and newline, but not between a space and a newline."""
    return re.findall(f"{SPACE}?\n|{SPACE}?[^{SPACE}\n]+|{SPACE}", text)


def _bpe(tokenizer: Tokenizer, text: str) -> list[str]:
    """Split a text into characters, and merge the adjacent pair with the best score until no pair can be merged.

    If several pairs have the same score, the leftmost pair is merged first.
    """
    # The empty part at the end is the right neighbour of the last part and, as index -1, the left one of the first.
    parts = [*_chars(tokenizer, text), ""]
    before = [at - 1 for at in range(len(parts))]
    after = [at + 1 for at in range(len(parts))]
    agenda: list[tuple[float, int, int, str]] = []

    def propose(left: int, right: int) -> None:
        joint = parts[left] + parts[right]
        fixed = {parts[left], parts[right]} & {"", *tokenizer.user_defined}
        if not fixed and joint in tokenizer.ids:
            heapq.heappush(agenda, (-tokenizer.scores[tokenizer.ids[joint]], left, right, joint))

    for at in range(len(parts) - 1):
        propose(at, at + 1)
    while agenda:
        _, left, right, joint = heapq.heappop(agenda)
        if not parts[left] or not parts[right] or parts[left] + parts[right] != joint:
            continue  # one part of this pair was merged with another part before
        parts[left], parts[right] = joint, ""
        after[left] = after[right]
        before[after[left]] = left
        propose(before[left], left)
        propose(left, after[left])
    return [part for part in parts if part]


def _unigram(tokenizer: Tokenizer, text: str) -> list[str]:
    """Split a text so that the sum of the scores is highest, by the Viterbi algorithm.

    The sums are rounded to float32, as in SentencePiece.
    """
    longest = max(map(len, tokenizer.ids))
    normal = [score for score, kind in zip(tokenizer.scores, tokenizer.types, strict=True) if kind == NORMAL]
    unknown = min(normal) - 10
    best = [0.0] + [float("-inf")] * len(text)
    came_from = [0] * len(best)
    for at in range(len(text)):
        for end in range(at + 1, min(at + longest, len(text)) + 1):
            part = text[at:end]
            if part in tokenizer.user_defined:
                score = -0.1  # higher than the scores of normal pieces, which are log-probabilities
            elif part in tokenizer.ids:
                score = tokenizer.scores[tokenizer.ids[part]]
            elif end == at + 1:
                score = unknown
            else:
                continue
            total = _float32(best[at] + score)
            if total > best[end]:
                best[end], came_from[end] = total, at
    return _path(text, came_from)


def _path(text: str, came_from: list[int]) -> list[str]:
    """Split the text along the best path, which is stored from its end to its start."""
    parts = []
    end = len(text)
    while end:
        parts.append(text[came_from[end] : end])
        end = came_from[end]
    return parts[::-1]


def _float32(number: float) -> float:
    """Round a number to float32."""
    return struct.unpack("<f", struct.pack("<f", number))[0]


_CUT: dict[str, Callable[[Tokenizer, str], list[str]]] = {
    "char": _chars,
    "word": _words,
    "bpe": _bpe,
    "unigram": _unigram,
}


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Decode ids to a text; a byte that is not part of a valid UTF-8 character becomes U+FFFD."""
    return "".join(decode_stream(tokenizer, ids))


def decode_stream(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Decode ids one by one, and yield one string per id.

    If the byte pieces so far end with an incomplete character, the string is "" or ends before this character. After
    the last id, the function yields the text of the bytes that are left.
    """
    held = b""
    for i in ids:
        if tokenizer.types[i] == BYTE:
            text, held = _read_utf8(held + bytes.fromhex(tokenizer.pieces[i][3:5]), final=False)
        else:
            text, held = _read_utf8(held, final=True)[0] + _surface(tokenizer, i), b""
        yield text
    yield _read_utf8(held, final=True)[0]


def _surface(tokenizer: Tokenizer, i: int) -> str:
    """Return the text of an id that is not a byte piece; the text of a control symbol is empty."""
    if tokenizer.types[i] == CONTROL:
        return ""
    return tokenizer.unknown_surface if tokenizer.types[i] == UNKNOWN else tokenizer.pieces[i].replace(SPACE, " ")


def _read_utf8(data: bytes, *, final: bool) -> tuple[str, bytes]:
    """Decode bytes; return the text, and the bytes of an incomplete character at its end.

    If ``final`` is true, an incomplete character is replaced by U+FFFD for each byte, and no bytes are returned.
    """
    text = ""
    while True:
        try:
            read, used = codecs.utf_8_decode(data, "strict", final)
            return text + read, data[used:]
        except UnicodeDecodeError as error:
            text += data[: error.start].decode() + "\ufffd"
            data = data[error.start + 1 :]
