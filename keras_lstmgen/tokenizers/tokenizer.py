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
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from keras_lstmgen.config import recipe
from keras_lstmgen.files.atomic import write_bytes
from keras_lstmgen.system import cpu
from keras_lstmgen.tokenizers.sentencepiece_proto import proto
from keras_lstmgen.tokenizers.sentencepiece_trainer import learn
from keras_lstmgen.utils.errors import UserError

UNK, START, END, NEWLINE = 0, 1, 2, 3
FIXED = 4  # entries that every vocabulary has
BYTES = 256  # byte pieces
COUNTED = ("char", "word")  # types whose vocabulary is the most frequent symbols
DEFAULT_SIZES = {"word": 20_000, "bpe": 1_000, "unigram": 1_000}
# A word includes the space before it, as in SentencePiece's word model. A space before a newline is a part of the
# newline, so that text such as " a line \n" has one token for each word and one for the end of the line.
WORD = re.compile(r" ?\n| ?[^ \n]+| ")
LINE = re.compile(rb"(?<=\n)")
LONGEST_WORD = 200  # characters; longer ones are <unk>
DISTINCT_WORDS = 4_000_000  # maximum while counting; beyond it, the rarer half is removed
SAMPLED_LINES = 100_000  # training sample of bpe and unigram
LONGEST_LINE = 1_000  # characters; longer lines are cut, because SentencePiece skips lines of more than 4,192 bytes
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


def train(settings: recipe.Tokenizer, texts: Callable[[], Iterator[str]]) -> bytes:
    """Train a vocabulary. The same texts give the same bytes.

    The types char and word keep the most frequent symbols, ordered by frequency, then by code point. The types bpe
    (Sennrich et al., 2016) and unigram (Kudo, 2018) are trained on a seeded sample of 100,000 lines. In their
    vocabularies, single characters take half of the entries, or more if the text has few longer pieces.

    Args:
        settings: type and size of the vocabulary.
        texts: returns an iterator over the training texts; it may be called more than once.

    Returns:
        A SentencePiece model.

    Raises:
        UserError: the text does not allow a vocabulary of this size.
    """
    check(settings)
    if settings.type in COUNTED:
        counts = count_symbols(settings.type, texts)
        return train_from_counts(settings, sorted(counts.items(), key=rank), sum(counts.values()))
    return train_from_lines(settings, _sample(texts))


def check(settings: recipe.Tokenizer) -> None:
    """Raise UserError for a vocabulary size that leaves no entry for learned pieces."""
    if 0 < settings.vocab_size <= FIXED:
        raise UserError(f"tokenizer.vocab_size = {settings.vocab_size} leaves no room for text; give more than {FIXED}")


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


def count_symbols(kind: str, texts: Callable[[], Iterator[str]]) -> Counter[str]:
    """Count the symbols that can be entries of a vocabulary of type char or word."""
    return _count_words(texts) if kind == "word" else _count_characters(texts)


def rank(symbol: tuple[str, int]) -> tuple[int, str]:
    """Return the sort key of a symbol and its count: most frequent first, then by code point."""
    return -symbol[1], symbol[0]


def max_symbols(settings: recipe.Tokenizer) -> int:
    """Return the maximum number of symbols in a vocabulary of type char or word."""
    size = settings.vocab_size or DEFAULT_SIZES.get(settings.type, sys.maxunicode + FIXED)
    return size - FIXED


def train_from_counts(settings: recipe.Tokenizer, ranked: list[tuple[str, int]], total: int) -> bytes:
    """Return a model of type char or word; SentencePiece creates an empty model, to which the symbols are added.

    Args:
        settings: type and size of the vocabulary.
        ranked: symbols and their counts, sorted by ``rank``; further ones than the size allows are ignored.
        total: sum of the counts of all symbols of the text.
    """
    model = proto.ModelProto.FromString(learn(settings.type, ["a"], FIXED + BYTES + 1))
    del model.pieces[FIXED + (BYTES if settings.type == "char" else 0) :]
    for symbol, count in ranked[: max_symbols(settings)]:
        model.pieces.add(piece=symbol.replace(" ", "▁"), score=math.log(count / total))
    model.trainer_spec.vocab_size = len(model.pieces)
    return bytes(model.SerializeToString(deterministic=True))


def _count_characters(texts: Callable[[], Iterator[str]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts():
        counts.update(text)
    counts[" "] += counts.pop("▁", 0)
    del counts["\n"]
    return +counts


def _count_words(texts: Callable[[], Iterator[str]]) -> Counter[str]:
    """Count the words that can be entries; ``<s>`` and the other names of symbols cannot."""
    counts: Counter[str] = Counter()
    for text in texts():
        counts.update(word for word in WORD.findall(text.replace("▁", " ")) if len(word) <= LONGEST_WORD)
        if len(counts) > DISTINCT_WORDS:
            counts = Counter(dict(counts.most_common(DISTINCT_WORDS // 2)))
    for taken in ("<unk>", "<s>", "</s>", "\n"):
        del counts[taken]
    return counts


def train_from_lines(settings: recipe.Tokenizer, sample: list[str]) -> bytes:
    """Return a model of type bpe or unigram; if the text has too few pieces, more characters get entries."""
    size = settings.vocab_size or DEFAULT_SIZES[settings.type]
    characters = _ranked_characters(sample)
    single = (size - FIXED + 1) // 2
    model, possible = _attempt(settings.type, _only(characters[:single], sample), size)
    while not model and single < len(characters):
        single += max(size - possible, 1)
        model, possible = _attempt(settings.type, _only(characters[:single], sample), size)
    if not model and settings.vocab_size:
        raise UserError(f"tokenizer.vocab_size = {size} is more than this text allows; give at most {possible}")
    return model or _attempt(settings.type, _only(characters, sample), possible)[0]


def _attempt(kind: str, lines: list[str], size: int) -> tuple[bytes, int]:
    """Return a model and its size, or no bytes and the largest possible size if ``size`` is too large."""
    try:
        return learn(kind, lines, size + BYTES), size
    except RuntimeError as error:
        largest = re.search(r"value <= (\d+)", str(error))
        if largest is None:
            raise UserError(f"tokenizer.type = '{kind}' cannot learn from this text ({error})") from error
        return b"", int(largest[1]) - BYTES


def _sample(texts: Callable[[], Iterator[str]]) -> list[str]:
    """Return all lines of the texts, or a uniform sample, in their order (reservoir sampling: Vitter, 1985)."""
    lines = enumerate(line for text in texts() for line in short_lines(text))
    sample = {place: line for line, place in zip(lines, _places(), strict=False) if place < SAMPLED_LINES}
    return [line for _, line in sorted(sample.values())]


def sampled_lines(lines: int) -> list[int]:
    """Return the sorted numbers of the sampled lines if the text has ``lines`` lines."""
    places = zip(range(lines), _places(), strict=False)
    return sorted({place: line for line, place in places if place < SAMPLED_LINES}.values())


def _places() -> Iterator[int]:
    """Yield the place in the sample that each line takes; a place beyond the sample means that it is not sampled."""
    yield from range(SAMPLED_LINES)
    rng = random.Random(0)
    yield from (rng.randrange(number + 1) for number in itertools.count(SAMPLED_LINES))


def short_lines(text: str) -> Iterator[str]:
    """Yield the lines of a text that are not empty, cut into pieces of at most 1,000 characters."""
    for line in text.split("\n"):
        yield from (line[i : i + LONGEST_LINE] for i in range(0, len(line), LONGEST_LINE))


def _ranked_characters(lines: list[str]) -> str:
    """Return the characters of the lines, most frequent first, without U+2585: SentencePiece skips lines with it."""
    counts = Counter[str]()
    for line in lines:
        counts.update(line)
    del counts["▅"]
    return "".join(sorted(counts, key=lambda character: (-counts[character], character)))


def _only(characters: str, lines: list[str]) -> list[str]:
    """Return the runs of these characters in the lines: ``_only("ab", ["abcab"])`` is ``["ab", "ab"]``."""
    runs = re.compile(f"[{re.escape(characters)}]+" if characters else "(?!)")
    return [run for line in lines for run in runs.findall(line)]
