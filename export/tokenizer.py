"""The tokenizer of an exported model, read from its SentencePiece file with the standard library alone.

>>> tokenizer = read(Path("tokenizer.model").read_bytes())
>>> decode(tokenizer, encode(tokenizer, "any text"))
'any text'

It reads the models that these artifacts carry: char, word, bpe or unigram over text taken as it is (nothing
normalised, no space put before it), in which a space is written U+2581.
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
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # the types of a piece
KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True)
class Tokenizer:
    """A SentencePiece model: piece, score and type of each id, and the rules that go with them."""

    kind: str
    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    byte_fallback: bool
    unknown_surface: str

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of each piece that text is cut into: not symbols like ``<s>``, and not bytes."""
        return {piece: i for i, piece in enumerate(self.pieces) if self.types[i] in (NORMAL, USER_DEFINED)}

    @cached_property
    def byte_ids(self) -> dict[int, int]:
        """Id of each byte 0 to 255: the piece ``<0x0A>`` stands for byte 10."""
        return {int(piece[3:5], 16): i for i, piece in enumerate(self.pieces) if self.types[i] == BYTE}

    @cached_property
    def user_defined(self) -> frozenset[str]:
        """Pieces that are always cut out whole and never merged."""
        return frozenset(piece for i, piece in enumerate(self.pieces) if self.types[i] == USER_DEFINED)


def read(model: bytes) -> Tokenizer:
    """Read a SentencePiece ``ModelProto``; ``ValueError`` if it is damaged or needs rules not known here."""
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
    # A charsmap; add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, which are on by default.
    changes = [bool(normalizer.get(number, [number > 2])[0]) for number in (2, 3, 4, 5)]
    if changes != [False, False, False, True]:
        raise ValueError("its tokenizer changes the text (normalisation, a dummy prefix), this client does not")
    return tokenizer


def _check(tokenizer: Tokenizer) -> None:
    """Raise ValueError where text, or an id, would find no way through the pieces."""
    tokenizer.types.index(UNKNOWN)
    raw = [piece for piece, kind in zip(tokenizer.pieces, tokenizer.types, strict=True) if kind == BYTE]
    if not all(re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece) for piece in raw):
        raise ValueError("a byte that is none")
    if tokenizer.byte_fallback and len(tokenizer.byte_ids) < 256:
        raise ValueError("a byte without a piece")
    if not all(abs(score) < 2**31 for score in tokenizer.scores):
        raise ValueError("a score that sums to no number")
    if tokenizer.kind == "unigram" and NORMAL not in tokenizer.types:
        raise ValueError("no piece to compare others with")


def _fields(message: bytes) -> dict[int, list[Any]]:
    """The fields of a protobuf message by number: varints as ``int``, everything else as its ``bytes``.

    ``_fields(bytes([0x08, 0x96, 0x01])) == {1: [150]}``
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
        raise ValueError("cut short")
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if message[at - 1] < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of the text, line by line. What no piece covers becomes its bytes or, in a word model, unknown."""
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
    """Cut into characters, but user-defined symbols whole, the longest first."""
    whole = sorted(tokenizer.user_defined, key=len, reverse=True)
    return re.findall("|".join([*map(re.escape, whole), "."]), text, re.DOTALL)


def _words(_: Tokenizer, text: str) -> list[str]:
    """Cut before each space and each newline, but keep a space that is followed by a newline with it."""
    return re.findall(f"{SPACE}?\n|{SPACE}?[^{SPACE}\n]+|{SPACE}", text)


def _bpe(tokenizer: Tokenizer, text: str) -> list[str]:
    """Join, again and again, the two neighbours whose joint piece scores best, the leftmost of equals."""
    # The empty part at the end stands for the neighbour that the first (index -1) and the last one lack.
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
            continue  # one of the two has been joined elsewhere since
        parts[left], parts[right] = joint, ""
        after[left] = after[right]
        before[after[left]] = left
        propose(before[left], left)
        propose(left, after[left])
    return [part for part in parts if part]


def _unigram(tokenizer: Tokenizer, text: str) -> list[str]:
    """The cut with the highest sum of scores (Viterbi), with SentencePiece's scores and its float32 sums."""
    longest = max(map(len, tokenizer.ids))
    normal = [score for score, kind in zip(tokenizer.scores, tokenizer.types, strict=True) if kind == NORMAL]
    unknown = min(normal) - 10
    best = [0.0] + [float("-inf")] * len(text)
    came_from = [0] * len(best)
    for at in range(len(text)):
        for end in range(at + 1, min(at + longest, len(text)) + 1):
            part = text[at:end]
            if part in tokenizer.user_defined:
                score = -0.1  # above any normal piece's, which is the log of its probability
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
    """Cut the text along the best path, found from its end."""
    parts = []
    end = len(text)
    while end:
        parts.append(text[came_from[end] : end])
        end = came_from[end]
    return parts[::-1]


def _float32(number: float) -> float:
    return struct.unpack("<f", struct.pack("<f", number))[0]


_CUT: dict[str, Callable[[Tokenizer, str], list[str]]] = {
    "char": _chars,
    "word": _words,
    "bpe": _bpe,
    "unigram": _unigram,
}


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of the ids, always valid UTF-8: a byte that is part of no character becomes U+FFFD."""
    return "".join(decode_stream(tokenizer, ids))


def decode_stream(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Yield the text that each id completes (none while a character lacks bytes); last, what is left over."""
    held = b""
    for i in ids:
        if tokenizer.types[i] == BYTE:
            text, held = _read_utf8(held + bytes.fromhex(tokenizer.pieces[i][3:5]), final=False)
        else:
            text, held = _read_utf8(held, final=True)[0] + _surface(tokenizer, i), b""
        yield text
    yield _read_utf8(held, final=True)[0]


def _surface(tokenizer: Tokenizer, i: int) -> str:
    """How an id that is no byte looks in text: control symbols are invisible."""
    if tokenizer.types[i] == CONTROL:
        return ""
    return tokenizer.unknown_surface if tokenizer.types[i] == UNKNOWN else tokenizer.pieces[i].replace(SPACE, " ")


def _read_utf8(data: bytes, *, final: bool) -> tuple[str, bytes]:
    """The characters that are decided, and the bytes that may still become one (none if ``final``)."""
    text = ""
    while True:
        try:
            read, used = codecs.utf_8_decode(data, "strict", final)
            return text + read, data[used:]
        except UnicodeDecodeError as error:
            text += data[: error.start].decode() + "\ufffd"
            data = data[error.start + 1 :]
