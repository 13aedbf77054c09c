"""Encode text as token ids and decode them. Each type is a SentencePiece model (Kudo and Richardson, 2018).

All vocabularies begin with the same ids: 0 ``<unk>``, 1 ``<s>`` (start), 2 ``</s>`` (end), 3 newline. All types except
word continue with 256 byte pieces, which encode characters that are not in the vocabulary. The learned pieces follow.
``tokenizer.vocab_size`` counts all entries except the byte pieces.

Text is encoded line by line, and a newline is a token. Therefore the ids do not depend on how a text is divided into
chunks; with SentencePiece alone they do, because a unigram model adds the scores of a whole text in float32. Decoding
is lossless, except that the character U+2581 (▁), with which SentencePiece represents a space, becomes a space.
"""

import codecs
import itertools
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from keras_lstmgen.files.atomic import write_bytes
from keras_lstmgen.system import cpu
from keras_lstmgen.tokenizers.sentencepiece_proto import proto
from keras_lstmgen.utils.errors import UserError

UNK, START, END, NEWLINE = 0, 1, 2, 3
FIXED = 4  # entries that every vocabulary has
BYTES = 256  # byte pieces
# A word includes the space before it, as in SentencePiece's word model. A space before a newline is a part of the
# newline, so that text such as " a line \n" has one token for each word and one for the end of the line.
WORD = re.compile(r" ?\n| ?[^ \n]+| ")
LINE = re.compile(rb"(?<=\n)")
LONGEST_WORD = 200  # characters; longer ones are <unk>
PARALLEL_LINES = 256  # minimum number of lines for encoding with several threads

BYTE_BY_BYTE = (
    "keras_lstmgen.byte_by_byte"  # UTF-8 error handler: one U+FFFD for each invalid byte, as in SentencePiece
)


def _replace_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\N{REPLACEMENT CHARACTER}", error.start + 1


codecs.register_error(BYTE_BY_BYTE, _replace_byte)


class Tokenizer:
    """A vocabulary, with methods to encode and decode text.

    Attributes:
        model: bytes of the SentencePiece model.
        vocab_size: V, including byte pieces.
        byte_pieces: number of byte pieces.
        unk_id: id of unknown words.
        start_id: id of the start symbol.
        end_id: id of the end symbol.
        newline_id: id of the newline.
        by_word: whether the pieces are whole words, as ``WORD`` divides text.

    >>> tokenizer = Tokenizer(train(recipe.Tokenizer(type="char"), lambda: iter(["abc abc"])))
    >>> tokenizer.decode(tokenizer.encode("cab, 🎉"))
    'cab, 🎉'
    """

    def __init__(self, model: bytes) -> None:
        """Load a model of ``train``; raise UserError for other bytes."""
        self.model = model
        self._processor, pieces, unk_surface = _opened(model)
        self.vocab_size = len(pieces)
        self.unk_id, self.start_id, self.end_id, self.newline_id = UNK, START, END, NEWLINE
        self._bytes = [_bytes_of(piece, unk_surface) for piece in pieces]
        self.byte_pieces = sum(piece.type == piece.BYTE for piece in pieces)
        self.by_word = not self.byte_pieces
        self._words = _numbered_words(self._bytes) if self.by_word else None

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of a text, without start and end symbols.

        Words are looked up without SentencePiece, which merges consecutive unknown words into one ``<unk>``.

        Args:
            text: any valid Unicode text. The names of start and end symbol in it are ordinary text.

        Returns:
            int32, shape (tokens,).

        Raises:
            UserError: the text has half a surrogate pair.
        """
        try:
            lines = [line for line in LINE.split(text.encode()) if line]
        except UnicodeEncodeError as error:
            raise UserError("the text is not valid Unicode (half a surrogate pair); give it as UTF-8") from error
        if self._words is not None:
            words = WORD.findall(text.replace("▁", " "))
            return np.array([self._words.get(word, UNK) for word in words], np.int32)
        count = cpu.available() if len(lines) >= PARALLEL_LINES else 1
        ids = self._processor.encode(lines, return_type="numpy", num_threads=count)
        return np.concatenate([*ids, np.zeros(0, np.int32)])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids.

        Start and end symbols are removed. Each byte that is not UTF-8 becomes U+FFFD. As in SentencePiece, byte pieces
        on both sides of a start or end symbol do not form a character.
        """
        spelled = itertools.groupby((self._bytes[token] for token in ids), key=bool)
        return "".join(b"".join(run).decode("utf-8", errors=BYTE_BY_BYTE) for _, run in spelled)

    def piece_bytes(self, id: int) -> bytes:  # noqa: A002
        """Return the bytes of one id: one byte for a byte piece, none for start and end symbol."""
        return self._bytes[id]

    def piece(self, id: int) -> str:  # noqa: A002
        """Return the piece of one id as SentencePiece writes it: ``▁the``, ``<0xE5>``, ``</s>``."""
        return str(self._processor.id_to_piece(id))

    def id_of(self, piece: str) -> int | None:
        """Return the id of a piece, with spaces or ▁, or None."""
        found = int(self._processor.piece_to_id(piece.replace(" ", "▁")))
        return found if self.piece(found) == piece.replace(" ", "▁") else None


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write the tokenizer as a SentencePiece model file."""
    write_bytes(path, tokenizer.model)


def load(path: Path) -> Tokenizer:
    """Read a tokenizer from a file of ``save``; raise UserError if it is missing or damaged."""
    try:
        return Tokenizer(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def check_writable(tokenizer: Tokenizer, unsampled_ids: Iterable[int]) -> None:
    """Raise UserError if a model could generate only newlines and ends of documents.

    Args:
        tokenizer: the vocabulary.
        unsampled_ids: ids that are never generated.
    """
    left = set(range(tokenizer.vocab_size)).difference(unsampled_ids)
    if not any(tokenizer.piece_bytes(token).strip(b"\n") for token in left):
        raise UserError(
            "the vocabulary leaves nothing to generate: none of its entries occurs in the training text (words of more "
            f"than {LONGEST_WORD} characters are unknown); train with another tokenizer.type or on other text"
        )


def _opened(model: bytes) -> tuple[Any, Any, str]:
    """Return the processor, the pieces and the text of unknown words, if the model is complete and of this package.

    SentencePiece does not validate models, so it loads none that fails these checks.
    """
    try:
        parsed = proto.ModelProto.FromString(model)
        ours = _is_ours(parsed)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model) if ours else None
    except Exception as error:  # protobuf and SentencePiece have no common error class
        raise UserError("not a complete SentencePiece model; train or export again") from error
    if not ours:
        raise UserError("not a tokenizer of this package; train or export again")
    return processor, parsed.pieces, parsed.trainer_spec.unk_surface


def _is_ours(parsed: Any) -> bool:
    """Return whether a parsed model has the structure that ``train`` writes, and no tables that change text."""
    kinds = proto.ModelProto.SentencePiece
    first = [(piece.piece, piece.type) for piece in parsed.pieces[:FIXED]]
    raw = [piece.piece for piece in parsed.pieces if piece.type == kinds.BYTE]
    changing = (parsed.normalizer_spec, parsed.denormalizer_spec)
    words = [parsed.trainer_spec.unk_surface, *(piece.piece for piece in parsed.pieces)]
    return (
        first == [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL), ("\n", kinds.USER_DEFINED)]
        and all(piece.type in (kinds.NORMAL, kinds.BYTE) for piece in parsed.pieces[FIXED:])
        and raw == ([f"<0x{byte:02X}>" for byte in range(BYTES)] if parsed.trainer_spec.byte_fallback else [])
        and parsed.trainer_spec.vocab_size == len(parsed.pieces)
        and parsed.normalizer_spec.name == "identity"
        and not any(spec.precompiled_charsmap or spec.normalization_rule_tsv for spec in changing)
        and all(math.isfinite(piece.score) for piece in parsed.pieces)
        and all(isinstance(word, str) for word in words)  # protobuf returns invalid UTF-8 as bytes
    )


def _numbered_words(texts: list[bytes]) -> dict[str, int]:
    """Return the ids by word, without unknown, start and end."""
    return {text.decode(): token for token, text in enumerate(texts) if token >= NEWLINE}


def _bytes_of(piece: Any, unk_surface: str) -> bytes:
    """Return the bytes of a piece: b"\\n" for ``<0x0A>`` of type BYTE, b" the" for ``▁the``."""
    if piece.type == piece.BYTE:
        return bytes([int(piece.piece[1:-1], 16)])
    if piece.type == piece.CONTROL:
        return b""
    text = unk_surface if piece.type == piece.UNKNOWN else piece.piece
    return text.replace("▁", " ").encode()
