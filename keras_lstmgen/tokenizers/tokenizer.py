"""Encode text as token ids, and decode token ids. All tokenizers are SentencePiece models (Kudo and Richardson, 2018).

All trained vocabularies begin with the same ids: 0 ``<unk>``, 1 ``<s>`` (start), 2 ``</s>`` (end), 3 newline. The next
256 ids are byte pieces, except in the type word. Byte pieces encode the characters that are not in the vocabulary. All
other ids are learned pieces. The option ``tokenizer.vocab_size`` counts all entries except the byte pieces. The
vocabulary of a user's own model has the order that the user gives, see ``listed_vocabulary``.

Text is encoded line by line, and a newline is a token. Therefore, the ids do not depend on the division of a text into
chunks. If several lines were encoded together, the ids could depend on the division, because a unigram model of
SentencePiece adds up the scores of the whole chunk in float32.

Decoding the ids of a text returns the text, with one exception: the character U+2581 (▁) becomes a space, because
SentencePiece represents spaces by this character.
"""

import codecs
import itertools
import math
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from keras_lstmgen.config import recipe
from keras_lstmgen.files.atomic import write_bytes
from keras_lstmgen.system import cpu
from keras_lstmgen.tokenizers.sentencepiece_proto import proto
from keras_lstmgen.utils.errors import UserError

UNK, START, END, NEWLINE = 0, 1, 2, 3
FIXED = 4  # entries that every vocabulary has
BYTES = 256  # byte pieces
TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}  # by their numbers in SentencePiece
# A word includes the space before it, as in the word model of SentencePiece. A newline also includes the space before
# it. For example, " a line \n" has three tokens: " a", " line" and " \n".
WORD = re.compile(r" ?\n| ?[^ \n]+| ")
LINE = re.compile(rb"(?<=\n)")
LONGEST_WORD = 200  # maximum number of characters of a word in a vocabulary; longer words become <unk>
PARALLEL_LINES = 256  # minimum number of lines for encoding with several threads

# Name of a codec error handler that replaces each invalid byte by U+FFFD, as SentencePiece does.
BYTE_BY_BYTE = "keras_lstmgen.byte_by_byte"


def _replace_byte(error: UnicodeError) -> tuple[str, int]:
    """Replace one invalid byte by U+FFFD and continue decoding at the next byte."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\N{REPLACEMENT CHARACTER}", error.start + 1


codecs.register_error(BYTE_BY_BYTE, _replace_byte)


class Tokenizer:
    """A tokenizer that encodes text as token ids and decodes token ids as text.

    Attributes:
        model: bytes of the SentencePiece model file.
        vocab_size: the vocabulary size V, including the byte pieces.
        byte_pieces: number of byte pieces.
        unk_id: id of unknown words.
        start_id: id of the start symbol; for a listed vocabulary, which has no start symbol, the id of the end symbol.
        end_id: id of the end symbol.
        newline_id: id of the newline; -1 if the vocabulary has no newline.
        special_ids: ids of the unknown symbol and of the control symbols, which never occur in text.
        is_listed: whether the vocabulary is a list that the user gave, and was not trained by this package.
        type: "char", "word", "bpe" or "unigram".
        by_word: whether each piece is a whole word, as defined by ``WORD``.

    >>> from keras_lstmgen.config import recipe
    >>> from keras_lstmgen.tokenizers.tokenizer import Tokenizer
    >>> from keras_lstmgen.tokenizers.vocabulary import train
    >>> tokenizer = Tokenizer(train(recipe.Tokenizer(type="char"), lambda: iter(["abc abc"])))
    >>> tokenizer.decode(tokenizer.encode("cab, 🎉"))
    'cab, 🎉'
    """

    def __init__(self, model: bytes) -> None:
        """Create a tokenizer from a model.

        Args:
            model: bytes of a SentencePiece model that ``vocabulary.train`` or ``listed_vocabulary.build`` returned.

        Raises:
            UserError: if none of these functions can have returned these bytes.
        """
        self.model = model
        self._processor, parsed = _opened(model)
        pieces, self._unk_surface = parsed.pieces, parsed.trainer_spec.unk_surface
        self.vocab_size = len(pieces)
        self.is_listed = not _is_trained(parsed)
        self.special_ids = [token for token, piece in enumerate(pieces) if piece.type in (piece.UNKNOWN, piece.CONTROL)]
        self._bytes = [_bytes_of(piece, self._unk_surface) for piece in pieces]
        self.byte_pieces = sum(piece.type == piece.BYTE for piece in pieces)
        self.type = TYPES[parsed.trainer_spec.model_type]
        self.by_word = self.type == "word"
        self._words = _numbered_words(self._bytes, self.special_ids) if self.by_word or self.is_listed else None
        self.longest = max(map(len, self._words)) if self._words else 0
        self._set_symbols()

    @classmethod
    def train(cls, texts: str | Iterable[str], type: str = "char", vocab_size: int = 0) -> "Tokenizer":  # noqa: A002
        """Train a tokenizer. The same texts always give the same tokenizer.

        Args:
            texts: one text, or several texts.
            type: "char", "word", "bpe" or "unigram".
            vocab_size: number of entries without the 256 byte pieces; 0 for the default of the type: all characters for
                char, at most 20,000 words for word, and 1,000 pieces for bpe and unigram.

        Raises:
            UserError: if an argument is not valid, or if the texts do not allow a vocabulary of this size.

        >>> from keras_lstmgen import Tokenizer
        >>> tokenizer = Tokenizer.train("abc abc")
        >>> tokenizer.vocab_size, tokenizer.decode(tokenizer.encode("cab"))
        (264, 'cab')
        """
        from keras_lstmgen.tokenizers import vocabulary  # imports this module

        lines = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Iterable) else [texts]
        if not all(isinstance(text, str) for text in lines):
            raise UserError(f"texts: is {lines!r:.60}; give a string or a list of strings")
        if not any(lines):
            raise UserError("texts: are empty; give at least one character")
        values = {"tokenizer.type": type, "tokenizer.vocab_size": vocab_size}
        settings = recipe.override(recipe.Recipe(), values).tokenizer
        return cls(vocabulary.train(settings, lambda: iter(lines)))

    def _set_symbols(self) -> None:
        """Set the ids of the unknown symbol, the start symbol, the end symbol and the newline."""
        self.unk_id, self.start_id, self.end_id, self.newline_id = UNK, START, END, NEWLINE
        if self.is_listed:
            assert self._words is not None
            self.unk_id = next(token for token in self.special_ids if self._processor.is_unknown(token))
            self.start_id = self.end_id = self.special_ids[-1]
            self.newline_id = self._words.get("\n", -1)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of a text, without start and end symbols.

        If the vocabulary is listed or contains whole words, this method looks up each piece in a dictionary, because
        SentencePiece would merge consecutive unknown pieces into one ``<unk>``.

        Args:
            text: any valid Unicode text. The strings ``<s>`` and ``</s>`` are encoded as ordinary text.

        Returns:
            An int32 array of shape [N], where N is the number of tokens.

        Raises:
            UserError: if the text contains half a surrogate pair, or text that a listed vocabulary cannot encode.
        """
        try:
            lines = [line for line in LINE.split(text.encode()) if line]
        except UnicodeEncodeError as error:
            raise UserError("the text is not valid Unicode (half a surrogate pair); give it as UTF-8") from error
        if self._words is not None:
            return self._looked_up(text.replace("▁", " "), self._words)
        count = cpu.available() if len(lines) >= PARALLEL_LINES else 1
        ids = self._processor.encode(lines, return_type="numpy", num_threads=count)
        return np.concatenate([*ids, np.zeros(0, np.int32)])

    def _looked_up(self, text: str, words: dict[str, int]) -> NDArray[np.int32]:
        """Split a text into whole words or listed pieces, and return the id of each."""
        parts = WORD.findall(text) if self.by_word else list(_longest_pieces(text, words, self.longest))
        unknown = next((part for part in parts if part not in words), None)
        if unknown is not None and self.is_listed and not self._unk_surface:
            raise UserError(
                f"the vocabulary of this model does not contain {unknown!r}; use only text of the vocabulary, or train "
                "and export a model with an entry '[UNK]' in its vocabulary"
            )
        return np.array([words.get(part, self.unk_id) for part in parts], np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids.

        Start and end symbols are removed. Each byte that is not valid UTF-8 becomes U+FFFD. As in SentencePiece, byte
        pieces before and after a start or end symbol are not combined into one character.
        """
        spelled = itertools.groupby((self._bytes[token] for token in ids), key=bool)
        return "".join(b"".join(run).decode("utf-8", errors=BYTE_BY_BYTE) for _, run in spelled)

    def piece_bytes(self, id: int) -> bytes:  # noqa: A002
        """Return the UTF-8 bytes of one id. A byte piece has one byte, and the start and end symbols have none."""
        return self._bytes[id]

    @property
    def pieces(self) -> list[str]:
        """The texts of all pieces except special symbols; empty unless the vocabulary is listed or has whole words."""
        return list(self._words or ())

    def piece(self, id: int) -> str:  # noqa: A002
        """Return the name of one id in SentencePiece, for example ``▁the``, ``<0xE5>`` or ``</s>``."""
        return str(self._processor.id_to_piece(id))

    def id_of(self, piece: str) -> int | None:
        """Return the id of a piece, or None if the vocabulary does not contain the piece.

        Args:
            piece: name of the piece. Spaces can be written as " " or as "▁".
        """
        found = int(self._processor.piece_to_id(piece.replace(" ", "▁")))
        return found if self.piece(found) == piece.replace(" ", "▁") else None


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write the tokenizer as a SentencePiece model file."""
    write_bytes(path, tokenizer.model)


def load(path: Path) -> Tokenizer:
    """Read a tokenizer from a file that ``save`` wrote, or raise UserError if the file is missing or damaged."""
    try:
        return Tokenizer(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def check_writable(tokenizer: Tokenizer, unsampled_ids: Iterable[int]) -> None:
    """Raise UserError if a model could generate only newlines and ends of documents.

    Args:
        tokenizer: the tokenizer.
        unsampled_ids: ids that the model never generates.
    """
    left = set(range(tokenizer.vocab_size)).difference(unsampled_ids)
    if not any(tokenizer.piece_bytes(token).strip(b"\n") for token in left):
        raise UserError(
            "the vocabulary leaves nothing to generate: none of its entries occurs in the training text (words of more "
            f"than {LONGEST_WORD} characters are unknown); train with another tokenizer.type or on other text"
        )


def _opened(model: bytes) -> tuple[Any, Any]:
    """Load a model after checking that it is complete and was written by this package.

    The checks are necessary because SentencePiece does not validate the models that it loads.

    Args:
        model: bytes of the SentencePiece model.

    Returns:
        The SentencePiece processor and the parsed model.

    Raises:
        UserError: if a check fails.
    """
    try:
        parsed = proto.ModelProto.FromString(model)
        ours = _is_ours(parsed)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model) if ours else None
    except Exception as error:  # protobuf and SentencePiece have no common error class
        raise UserError("not a complete SentencePiece model; train or export again") from error
    if not ours:
        raise UserError("not a tokenizer of this package; train or export again")
    return processor, parsed


def _is_ours(parsed: Any) -> bool:
    """Return True if this package could have written this parsed model and the model leaves text unchanged."""
    changing = (parsed.normalizer_spec, parsed.denormalizer_spec)
    words = [parsed.trainer_spec.unk_surface, *(piece.piece for piece in parsed.pieces)]
    return (
        (_is_trained(parsed) or _is_listed(parsed))
        and parsed.trainer_spec.vocab_size == len(parsed.pieces)
        and parsed.normalizer_spec.name == "identity"
        and not any(spec.precompiled_charsmap or spec.normalization_rule_tsv for spec in changing)
        and all(math.isfinite(piece.score) for piece in parsed.pieces)
        and all(isinstance(word, str) for word in words)  # protobuf returns a string that is not UTF-8 as bytes
    )


def _is_trained(parsed: Any) -> bool:
    """Return True if the pieces are in the order in which ``vocabulary.train`` writes them."""
    kinds = proto.ModelProto.SentencePiece
    first = [(piece.piece, piece.type) for piece in parsed.pieces[:FIXED]]
    raw = [piece.piece for piece in parsed.pieces if piece.type == kinds.BYTE]
    return (
        first == [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL), ("\n", kinds.USER_DEFINED)]
        and all(piece.type in (kinds.NORMAL, kinds.BYTE) for piece in parsed.pieces[FIXED:])
        and raw == ([f"<0x{byte:02X}>" for byte in range(BYTES)] if parsed.trainer_spec.byte_fallback else [])
        and bool(raw) == (parsed.trainer_spec.model_type != parsed.trainer_spec.WORD)
    )


def _is_listed(parsed: Any) -> bool:
    """Return True if the pieces are of the types that ``listed_vocabulary.build`` writes."""
    kinds, spec = proto.ModelProto.SentencePiece, parsed.trainer_spec
    types = [piece.type for piece in parsed.pieces]
    return (
        spec.model_type in (spec.CHAR, spec.WORD)
        and not spec.byte_fallback
        and types.count(kinds.UNKNOWN) == 1
        and types[-1:] == [kinds.CONTROL]
        and set(types) <= {kinds.NORMAL, kinds.USER_DEFINED, kinds.UNKNOWN, kinds.CONTROL}
        and any(kind in (kinds.NORMAL, kinds.USER_DEFINED) for kind in types)
    )


def _numbered_words(texts: list[bytes], special_ids: list[int]) -> dict[str, int]:
    """Return a dictionary with the id of each word. Special symbols such as ``</s>`` are not words."""
    return {text.decode(): token for token, text in enumerate(texts) if token not in special_ids}


def _longest_pieces(text: str, pieces: Container[str], longest: int) -> Iterator[str]:
    """Split a text into pieces from left to right. At each position, take the longest piece, or else one character.

    >>> list(_longest_pieces("the hat", {"t", "th", "the", "h", "a"}, longest=3))
    ['the', ' ', 'h', 'a', 't']
    """
    at = 0
    while at < len(text):
        sizes = range(min(longest, len(text) - at), 1, -1)
        size = next((size for size in sizes if text[at : at + size] in pieces), 1)
        yield text[at : at + size]
        at += size


def _bytes_of(piece: Any, unk_surface: str) -> bytes:
    """Return the UTF-8 bytes of a piece.

    Args:
        piece: a piece of a parsed model. For example, ``▁the`` has the bytes b" the", and the byte piece ``<0x0A>`` has
            the byte b"\\n".
        unk_surface: text into which ``<unk>`` is decoded.
    """
    if piece.type == piece.BYTE:
        return bytes([int(piece.piece[1:-1], 16)])
    if piece.type == piece.CONTROL:
        return b""
    text = unk_surface if piece.type == piece.UNKNOWN else piece.piece
    return text.replace("▁", " ").encode()
