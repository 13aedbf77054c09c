"""Build the tokenizer of a vocabulary that a user gives as a list of strings.

The id of each string is its index in the list. SentencePiece and the clients need an unknown symbol and an end symbol,
which are added after the strings of the list.
"""

from collections.abc import Sequence
from typing import NamedTuple

from keras_lstmgen.tokenizers.sentencepiece_proto import proto
from keras_lstmgen.tokenizers.sentencepiece_trainer import learn
from keras_lstmgen.tokenizers.tokenizer import BYTES, FIXED, Tokenizer
from keras_lstmgen.utils.errors import UserError

UNKNOWN = ("[UNK]", "<unk>")  # default names of the unknown symbol: StringLookup of Keras, and SentencePiece
PADDING = ""  # the mask token of StringLookup and TextVectorization
SPACE = "▁"  # represents a space in a piece
NOT_ALLOWED = {SPACE: "stands for a space in SentencePiece", "\0": "cannot be part of a piece of SentencePiece"}
NO_SOURCE = -1

_KIND = proto.ModelProto.SentencePiece


class Piece(NamedTuple):
    """One piece of the tokenizer."""

    text: str  # name of the piece, in which ▁ represents a space
    type: int  # type of the piece in SentencePiece
    source: int  # id of the user's model whose embedding the piece has; ``NO_SOURCE`` for an added symbol


class Listed(NamedTuple):
    """The tokenizer of a list of strings.

    Attributes:
        tokenizer: the tokenizer with V ids. The first ids are those of the list.
        sources: for each of the V ids, the id of the list whose embedding it has; ``NO_SOURCE`` for an added symbol.
        start_id: id that begins a text without a prompt: the newline, or else the space, or else the first string.
        unsampled_ids: ids that the model must not generate: symbols, and added ids.
    """

    tokenizer: Tokenizer
    sources: tuple[int, ...]
    start_id: int
    unsampled_ids: tuple[int, ...]


def build(strings: Sequence[str], unknown: Sequence[str] = UNKNOWN) -> Listed:
    """Build the tokenizer of a list of strings.

    If all strings are single characters, a text is split into characters. If there are longer strings and some of them
    contain a space or a newline, a text is split into the longest strings that match, from left to right. Otherwise,
    the strings are words that are separated by one space. Each word then has a second id for the beginning of a text,
    where no space precedes it.

    Args:
        strings: the strings, in the order of their ids. An empty string is the padding symbol.
        unknown: names of the unknown symbol. At most one of the strings has such a name.

    Returns:
        The tokenizer and the ids of the symbols.

    Raises:
        UserError: if the list is empty, has duplicates, or contains strings that cannot be pieces.

    >>> from keras_lstmgen.tokenizers.listed_vocabulary import build
    >>> listed = build(["\\n", " ", "a", "b"])
    >>> listed.tokenizer.encode("a b").tolist(), listed.tokenizer.decode([3, 0, 2])
    ([2, 1, 3], 'b\\na')
    >>> build(["[UNK]", "the", "cat"]).tokenizer.decode([1, 2])
    ' the cat'
    """
    symbols = {PADDING, *unknown}
    text = [token for token, string in enumerate(strings) if string not in symbols]
    _check(strings, text, unknown)
    by_word = is_words([strings[token] for token in text])
    pieces = [_piece(string, token, by_word, unknown) for token, string in enumerate(strings)]
    pieces = [piece._replace(text=_free("<pad>", pieces)) if piece.text == PADDING else piece for piece in pieces]
    if by_word:
        pieces += [Piece(strings[token], _KIND.NORMAL, token) for token in text]
    if not any(piece.type == _KIND.UNKNOWN for piece in pieces):
        pieces.append(Piece(_free("<unk>", pieces), _KIND.UNKNOWN, NO_SOURCE))
    pieces.append(Piece(_free("</s>", pieces), _KIND.CONTROL, NO_SOURCE))
    start = next((strings.index(string) for string in ("\n", " ") if string in strings), text[0])
    unsampled = sorted(set(range(len(pieces))).difference(text))
    sources = tuple(piece.source for piece in pieces)
    return Listed(Tokenizer(_model(pieces, by_word)), sources, start, tuple(unsampled))


def is_words(text: Sequence[str]) -> bool:
    """Return whether the strings are words that are separated by spaces.

    >>> is_words(["a", "b"]), is_words(["the", "cat"]), is_words(["the", " ", "cat"])
    (False, True, False)
    """
    return any(len(string) > 1 for string in text) and not any(" " in string or "\n" in string for string in text)


def _check(strings: Sequence[str], text: Sequence[int], unknown: Sequence[str]) -> None:
    """Raise UserError if the strings cannot be a vocabulary, or if ``text``, the ids that are no symbols, is empty."""
    if not text:
        raise UserError("vocabulary: is empty; give at least one string besides padding and unknown symbols")
    seen: dict[str, int] = {}
    for token, string in enumerate(strings):
        if string in seen:
            raise UserError(
                f"vocabulary: {string!r} has the ids {seen[string]} and {token}; remove one, so that each string has "
                "one id"
            )
        seen[string] = token
        _check_string(string, token)
    if sum(name in seen for name in unknown) > 1:
        raise UserError(f"vocabulary: contains several unknown symbols, {' and '.join(unknown)}; use one")


def _check_string(string: str, token: int) -> None:
    """Raise UserError if a string cannot be a piece."""
    for character, reason in NOT_ALLOWED.items():
        if character in string:
            raise UserError(
                f"vocabulary: entry {token}, {string!r}, contains {character!r}, which {reason}; replace it"
            )
    if "\n" in string[:-1]:
        raise UserError(
            f"vocabulary: entry {token}, {string!r}, contains a newline before its end, but text is encoded line by "
            "line; split the entry after the newline"
        )
    try:
        string.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"vocabulary: entry {token}, {string!r}, is not valid Unicode (half a surrogate pair)"
        ) from None


def _piece(string: str, token: int, by_word: bool, unknown: Sequence[str]) -> Piece:
    """Return the piece of one string of the list."""
    if string == PADDING:
        return Piece(PADDING, _KIND.CONTROL, token)  # ``build`` replaces the name
    if string in unknown:
        return Piece(string, _KIND.UNKNOWN, token)
    joined = SPACE + string if by_word else string.replace(" ", SPACE)
    return Piece(joined, _KIND.NORMAL if by_word or len(string) == 1 else _KIND.USER_DEFINED, token)


def _free(name: str, pieces: Sequence[Piece]) -> str:
    """Return the name of an added symbol; if a piece already has this name, append underscores."""
    taken = {piece.text for piece in pieces}
    while name in taken:
        name += "_"
    return name


def _model(pieces: Sequence[Piece], by_word: bool) -> bytes:
    """Return the bytes of a SentencePiece model with these pieces in this order."""
    model = proto.ModelProto.FromString(learn("char", ["a"], FIXED + BYTES + 1))
    del model.pieces[:]
    for piece in pieces:
        model.pieces.add(piece=piece.text, type=piece.type, score=0.0)
    spec = model.trainer_spec
    added = any(piece.type == _KIND.UNKNOWN and piece.source == NO_SOURCE for piece in pieces)
    spec.unk_surface = "" if added else next(piece.text for piece in pieces if piece.type == _KIND.UNKNOWN)
    spec.model_type = spec.WORD if by_word else spec.CHAR
    spec.byte_fallback, spec.vocab_size = False, len(pieces)
    del spec.user_defined_symbols[:]
    return bytes(model.SerializeToString(deterministic=True))
