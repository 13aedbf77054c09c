"""Text to ids and back. Every kind of tokenizer is one SentencePiece model, which any runtime can open.

The first ids are the same in all: 0 ``<unk>``, 1 ``<s>`` (start), 2 ``</s>`` (end), 3 a newline. Then, except
in type word, come the 256 byte pieces that spell what the vocabulary lacks, then what was learned.
``tokenizer.vocab_size`` counts all of these but the byte pieces.

Text is encoded line by line, a newline being a token of its own. So a text gives the same ids whole or in
pieces; SentencePiece alone does not, because a unigram model adds up the scores of a whole text in float32.
Lossless for all text but the character U+2581 (▁), SentencePiece's sign for a space, which comes back as one.
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
FIXED = 4  # entries of every vocabulary that are not learned
BYTES = 256  # byte pieces
COUNTED = ("char", "word")  # types whose entries are the most frequent symbols
DEFAULT_SIZES = {"word": 20_000, "bpe": 1_000, "unigram": 1_000}
# A word goes with the space before it, as in SentencePiece's own word model. A space that ends a line goes
# with the newline, so that text like " a line \n" has a token for each word and one for the end of the line.
WORD = re.compile(r" ?\n| ?[^ \n]+| ")
LINE = re.compile(rb"(?<=\n)")
LONGEST_WORD = 200  # characters; longer ones are <unk>
DISTINCT_WORDS = 4_000_000  # held while counting; beyond, the rarer half is forgotten
SAMPLED_LINES = 100_000  # that bpe and unigram learn from
LONGEST_LINE = 1_000  # characters; longer ones are cut, and SentencePiece skips what exceeds 4,192 bytes
PARALLEL_LINES = 256  # from this many lines on, encoding pays for its threads

BYTE_BY_BYTE = (
    "keras_lstmgen.byte_by_byte"  # an error handler for UTF-8 that writes one U+FFFD a byte, as SentencePiece does
)


def _replace_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\N{REPLACEMENT CHARACTER}", error.start + 1


codecs.register_error(BYTE_BY_BYTE, _replace_byte)


class Tokenizer:
    """A vocabulary, and the way between text and ids.

    Attributes: ``model`` (the bytes of a SentencePiece model), ``vocab_size`` (V, byte pieces included),
    ``unk_id``, ``start_id``, ``end_id``, ``newline_id``, ``by_word`` (pieces are whole words, as ``WORD`` cuts them).
    """

    def __init__(self, model: bytes) -> None:
        """Open a model that ``train`` made. Raises UserError for any other bytes."""
        self.model = model
        self._processor, pieces, unk_surface = _opened(model)
        self.vocab_size = len(pieces)
        self.unk_id, self.start_id, self.end_id, self.newline_id = UNK, START, END, NEWLINE
        self._bytes = [_bytes_of(piece, unk_surface) for piece in pieces]
        has_byte_pieces = any(piece.type == piece.BYTE for piece in pieces)
        self.by_word = not has_byte_pieces
        self._words = _numbered_words(self._bytes) if self.by_word else None

    def encode(self, text: str) -> NDArray[np.int32]:
        """Ids of a text, int32, shape (tokens,). No start or end symbol is added, nor found in the text.

        Type word looks its words up itself: SentencePiece would make one ``<unk>`` of several in a row.
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
        """The text that ids stand for. Start and end symbol vanish; each byte that is not UTF-8 becomes U+FFFD.

        What stands on both sides of such a symbol does not make a character, as in SentencePiece.
        """
        spelled = itertools.groupby((self._bytes[token] for token in ids), key=bool)
        return "".join(b"".join(run).decode("utf-8", errors=BYTE_BY_BYTE) for _, run in spelled)

    def piece_bytes(self, id: int) -> bytes:  # noqa: A002
        """The UTF-8 bytes that one id adds to a text: one for a byte piece, none for start or end."""
        return self._bytes[id]

    def piece(self, id: int) -> str:  # noqa: A002
        """How SentencePiece spells one id: ``▁the``, ``<0xE5>``, ``</s>``."""
        return str(self._processor.id_to_piece(id))

    def id_of(self, piece: str) -> int | None:
        """The id that is spelled so, a space being as good as ▁; None if there is none."""
        found = int(self._processor.piece_to_id(piece.replace(" ", "▁")))
        return found if self.piece(found) == piece.replace(" ", "▁") else None


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write the tokenizer as a SentencePiece model file."""
    write_bytes(path, tokenizer.model)


def load(path: Path) -> Tokenizer:
    """Read a tokenizer that ``save`` wrote. UserError if it is missing or damaged."""
    try:
        return Tokenizer(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def train(settings: recipe.Tokenizer, texts: Callable[[], Iterator[str]]) -> bytes:
    """Learn a vocabulary from texts; return it as a SentencePiece model, the same bytes for the same texts.

    char and word keep the most frequent symbols, most frequent first (equals by code point), at most
    ``vocab_size`` entries in all. bpe and unigram learn from a seeded sample of 100,000 lines, and have just
    ``vocab_size`` entries; single characters take half of them, or more where longer pieces are few, and byte
    pieces spell the rest.
    Raises UserError if bpe or unigram cannot find that many, or if the size leaves no room to learn.
    """
    check(settings)
    if settings.type in COUNTED:
        counts = symbols(settings.type, texts)
        return counted(settings, sorted(counts.items(), key=rank), sum(counts.values()))
    return learned(settings, _sample(texts))


def check(settings: recipe.Tokenizer) -> None:
    """Refuse a vocabulary that has no place for what is learned."""
    if 0 < settings.vocab_size <= FIXED:
        raise UserError(f"tokenizer.vocab_size = {settings.vocab_size} leaves no room for text; give more than {FIXED}")


def check_writable(tokenizer: Tokenizer, unsampled_ids: Iterable[int]) -> None:
    """Refuse a vocabulary that leaves nothing to generate but line breaks and ends of documents."""
    left = set(range(tokenizer.vocab_size)).difference(unsampled_ids)
    if not any(tokenizer.piece_bytes(token).strip(b"\n") for token in left):
        raise UserError(
            "the vocabulary leaves nothing to generate: none of its entries stands in the training text (words of more "
            f"than {LONGEST_WORD} characters are unknown); train with another tokenizer.type or on other text"
        )


def _opened(model: bytes) -> tuple[Any, Any, str]:
    """Processor, pieces and the text for unknown of a model, once it is sure to be one of ours and whole.

    SentencePiece itself, which trusts what it reads, is given nothing else.
    """
    try:
        parsed = proto.ModelProto.FromString(model)
        ours = _is_ours(parsed)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model) if ours else None
    except Exception as error:  # protobuf and SentencePiece have no common class of errors
        raise UserError("not a whole SentencePiece model; train or export again") from error
    if not ours:
        raise UserError("not a tokenizer that this package wrote; train or export again")
    return processor, parsed.pieces, parsed.trainer_spec.unk_surface


def _is_ours(parsed: Any) -> bool:
    """Whether a parsed model has what ``_sentencepiece`` and ``_count`` give it, and no tables that change text."""
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
        and all(isinstance(word, str) for word in words)  # protobuf gives what is no UTF-8 as bytes
    )


def _numbered_words(texts: list[bytes]) -> dict[str, int]:
    """Ids by word, but those of unknown, start and end, which no text spells."""
    return {text.decode(): token for token, text in enumerate(texts) if token >= NEWLINE}


def _bytes_of(piece: Any, unk_surface: str) -> bytes:
    """The bytes of a piece: ``<0x0A>`` of type BYTE gives b"\\n", ``▁the`` gives b" the"."""
    if piece.type == piece.BYTE:
        return bytes([int(piece.piece[1:-1], 16)])
    if piece.type == piece.CONTROL:
        return b""
    text = unk_surface if piece.type == piece.UNKNOWN else piece.piece
    return text.replace("▁", " ").encode()


def symbols(kind: str, texts: Callable[[], Iterator[str]]) -> Counter[str]:
    """How often each symbol that can be an entry of a vocabulary of type char or word occurs."""
    return _count_words(texts) if kind == "word" else _count_characters(texts)


def rank(symbol: tuple[str, int]) -> tuple[int, str]:
    """The place of a symbol and its count in the order of a vocabulary: smallest first."""
    return -symbol[1], symbol[0]


def most_symbols(settings: recipe.Tokenizer) -> int:
    """How many symbols a vocabulary of type char or word may have."""
    size = settings.vocab_size or DEFAULT_SIZES.get(settings.type, sys.maxunicode + FIXED)
    return size - FIXED


def counted(settings: recipe.Tokenizer, ranked: list[tuple[str, int]], total: int) -> bytes:
    """A model of type char or word, of symbols and their counts, the first in order of ``rank``; all make ``total``.

    SentencePiece makes the frame, the symbols are put in.
    """
    model = proto.ModelProto.FromString(learn(settings.type, ["a"], FIXED + BYTES + 1))
    del model.pieces[FIXED + (BYTES if settings.type == "char" else 0) :]
    for symbol, count in ranked[: most_symbols(settings)]:
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
    """Words that can be entries. ``<s>`` at the start of a line cannot: that name is taken."""
    counts: Counter[str] = Counter()
    for text in texts():
        counts.update(word for word in WORD.findall(text.replace("▁", " ")) if len(word) <= LONGEST_WORD)
        if len(counts) > DISTINCT_WORDS:
            counts = Counter(dict(counts.most_common(DISTINCT_WORDS // 2)))
    for taken in ("<unk>", "<s>", "</s>", "\n"):
        del counts[taken]
    return counts


def learned(settings: recipe.Tokenizer, sample: list[str]) -> bytes:
    """A model that SentencePiece learns from lines. Where it finds too few pieces, more characters get entries."""
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
    """The model and its size; no bytes and the largest size that these lines allow, if they allow less."""
    try:
        return learn(kind, lines, size + BYTES), size
    except RuntimeError as error:
        largest = re.search(r"value <= (\d+)", str(error))
        if largest is None:
            raise UserError(f"tokenizer.type = '{kind}' cannot learn from this text ({error})") from error
        return b"", int(largest[1]) - BYTES


def _sample(texts: Callable[[], Iterator[str]]) -> list[str]:
    """Lines of the texts in their order: all of them, or a sample in which each is as likely as the next."""
    lines = enumerate(line for text in texts() for line in short_lines(text))
    kept = {place: line for line, place in zip(lines, _places(), strict=False) if place < SAMPLED_LINES}
    return [line for _, line in sorted(kept.values())]


def sampled(lines: int) -> list[int]:
    """The numbers, in order, of the lines of which the sample of so many lines consists."""
    places = zip(range(lines), _places(), strict=False)
    return sorted({place: line for line, place in places if place < SAMPLED_LINES}.values())


def _places() -> Iterator[int]:
    """Which place of the sample each line takes, from what has it: none, if there is no such place."""
    yield from range(SAMPLED_LINES)
    dice = random.Random(0)
    yield from (dice.randrange(number + 1) for number in itertools.count(SAMPLED_LINES))


def short_lines(text: str) -> Iterator[str]:
    """The lines of a text that a sample is drawn from: none empty, each cut after 1,000 characters."""
    for line in text.split("\n"):
        yield from (line[i : i + LONGEST_LINE] for i in range(0, len(line), LONGEST_LINE))


def _ranked_characters(lines: list[str]) -> str:
    """The characters that pieces may hold, most frequent first. SentencePiece skips lines with U+2585."""
    counts = Counter[str]()
    for line in lines:
        counts.update(line)
    del counts["▅"]
    return "".join(sorted(counts, key=lambda character: (-counts[character], character)))


def _only(characters: str, lines: list[str]) -> list[str]:
    """The runs of these characters in the lines: ``_only("ab", ["abcab"])`` is ``["ab", "ab"]``."""
    runs = re.compile(f"[{re.escape(characters)}]+" if characters else "(?!)")
    return [run for line in lines for run in runs.findall(line)]
