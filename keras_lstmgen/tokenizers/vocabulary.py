"""Train vocabularies.

The types char and word contain the most frequent characters or words. The types bpe and unigram are SentencePiece
models that are trained on a sample of lines.
"""

import itertools
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator

from keras_lstmgen.config import recipe
from keras_lstmgen.tokenizers.sentencepiece_proto import proto
from keras_lstmgen.tokenizers.sentencepiece_trainer import learn
from keras_lstmgen.tokenizers.tokenizer import BYTES, FIXED, LONGEST_WORD, WORD
from keras_lstmgen.utils.errors import UserError

COUNTED = ("char", "word")  # types whose vocabulary contains the most frequent symbols
DEFAULT_SIZES = {"word": 20_000, "bpe": 1_000, "unigram": 1_000}
DISTINCT_WORDS = 4_000_000  # maximum number of words to count; if there are more, only the most frequent half is kept
SAMPLED_LINES = 100_000  # maximum number of lines on which bpe and unigram are trained
# Maximum number of characters of a training line. Longer lines are cut, because SentencePiece skips lines of more than
# 4,192 bytes.
LONGEST_LINE = 1_000


def train(settings: recipe.Tokenizer, texts: Callable[[], Iterator[str]]) -> bytes:
    """Train a vocabulary. The same texts always give the same vocabulary.

    The types char and word contain the most frequent symbols, sorted by frequency and then by code point. The types bpe
    (Sennrich et al., 2016) and unigram (Kudo, 2018) are trained on a seeded sample of at most 100,000 lines. In
    these two types, at most half of the entries are single characters. More single characters get entries
    if the text has too few longer pieces.

    Args:
        settings: type and size of the vocabulary.
        texts: function that returns an iterator over the training texts. It may be called more than once.

    Returns:
        The bytes of a SentencePiece model file.

    Raises:
        UserError: if the text does not allow a vocabulary of this size.
    """
    check(settings)
    if settings.type in COUNTED:
        counts = count_symbols(settings.type, texts)
        return train_from_counts(settings, sorted(counts.items(), key=rank), sum(counts.values()))
    return train_from_lines(settings, _sample(texts))


def check(settings: recipe.Tokenizer) -> None:
    """Raise UserError if the vocabulary size leaves no entries for learned pieces."""
    if 0 < settings.vocab_size <= FIXED:
        raise UserError(f"tokenizer.vocab_size = {settings.vocab_size} leaves no room for text; give more than {FIXED}")


def count_symbols(kind: str, texts: Callable[[], Iterator[str]]) -> Counter[str]:
    """Return the number of occurrences of each symbol that can be an entry of a vocabulary.

    Args:
        kind: type of the vocabulary, char or word.
        texts: function that returns an iterator over the training texts.
    """
    return _count_words(texts) if kind == "word" else _count_characters(texts)


def rank(symbol: tuple[str, int]) -> tuple[int, str]:
    """Return a sort key for a symbol and its count. The order is by decreasing count and then by code point."""
    return -symbol[1], symbol[0]


def max_symbols(settings: recipe.Tokenizer) -> int:
    """Return the maximum number of symbols in a vocabulary of type char or word."""
    size = settings.vocab_size or DEFAULT_SIZES.get(settings.type, sys.maxunicode + FIXED)
    return size - FIXED


def train_from_counts(settings: recipe.Tokenizer, ranked: list[tuple[str, int]], total: int) -> bytes:
    """Create a model of type char or word from counted symbols.

    SentencePiece first trains a model on a text of one character. The symbols then replace the learned pieces of this
    model.

    Args:
        settings: type and size of the vocabulary.
        ranked: the symbols and their counts, sorted by ``rank``. Symbols that exceed the vocabulary size are ignored.
        total: sum of the counts of all symbols in the text.

    Returns:
        The bytes of a SentencePiece model file.
    """
    model = proto.ModelProto.FromString(learn(settings.type, ["a"], FIXED + BYTES + 1))
    del model.pieces[FIXED + (BYTES if settings.type == "char" else 0) :]
    for symbol, count in ranked[: max_symbols(settings)]:
        model.pieces.add(piece=symbol.replace(" ", "▁"), score=math.log(count / total))
    model.trainer_spec.vocab_size = len(model.pieces)
    return bytes(model.SerializeToString(deterministic=True))


def _count_characters(texts: Callable[[], Iterator[str]]) -> Counter[str]:
    """Count the characters of texts, except newlines. The character ▁ counts as a space."""
    counts: Counter[str] = Counter()
    for text in texts():
        counts.update(text)
    counts[" "] += counts.pop("▁", 0)
    del counts["\n"]
    return +counts


def _count_words(texts: Callable[[], Iterator[str]]) -> Counter[str]:
    """Count the words of texts, except newlines, words that are too long, and names of symbols such as ``<s>``."""
    counts: Counter[str] = Counter()
    for text in texts():
        counts.update(word for word in WORD.findall(text.replace("▁", " ")) if len(word) <= LONGEST_WORD)
        if len(counts) > DISTINCT_WORDS:
            counts = Counter(dict(counts.most_common(DISTINCT_WORDS // 2)))
    for taken in ("<unk>", "<s>", "</s>", "\n"):
        del counts[taken]
    return counts


def train_from_lines(settings: recipe.Tokenizer, sample: list[str]) -> bytes:
    """Train a model of type bpe or unigram.

    At first, single characters may take half of the entries. If the text then has too few pieces to fill the
    vocabulary, the training is repeated with more single characters.

    Args:
        settings: type and size of the vocabulary.
        sample: lines of the training text.

    Returns:
        The bytes of a SentencePiece model file.

    Raises:
        UserError: if the text does not allow a vocabulary of this size.
    """
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
    """Train a model of a given size.

    Returns:
        The bytes of the model and its size. If the size is too large for the text, the bytes are empty and the size is
        the largest possible one.
    """
    try:
        return learn(kind, lines, size + BYTES), size
    except RuntimeError as error:
        largest = re.search(r"value <= (\d+)", str(error))
        if largest is None:
            raise UserError(f"tokenizer.type = '{kind}': training on this text failed ({error})") from error
        return b"", int(largest[1]) - BYTES


def _sample(texts: Callable[[], Iterator[str]]) -> list[str]:
    """Return a uniform random sample of the lines of texts, in order. If there are few lines, return all lines.

    Source: Vitter, "Random Sampling with a Reservoir", 1985.
    """
    lines = enumerate(line for text in texts() for line in short_lines(text))
    sample = {place: line for line, place in zip(lines, _places(), strict=False) if place < SAMPLED_LINES}
    return [line for _, line in sorted(sample.values())]


def sampled_lines(lines: int) -> list[int]:
    """Return the indices of the lines that ``train`` samples from a text, sorted.

    Args:
        lines: number of lines in the text.
    """
    places = zip(range(lines), _places(), strict=False)
    return sorted({place: line for line, place in places if place < SAMPLED_LINES}.values())


def _places() -> Iterator[int]:
    """For each line of a text, yield the position of the line in the sample.

    A later line with the same position replaces the earlier one. A line is not sampled if its position is
    ``SAMPLED_LINES`` or more.
    """
    yield from range(SAMPLED_LINES)
    rng = random.Random(0)
    yield from (rng.randrange(number + 1) for number in itertools.count(SAMPLED_LINES))


def short_lines(text: str) -> Iterator[str]:
    """Yield the lines of a text in pieces of at most 1,000 characters. Empty lines are skipped."""
    for line in text.split("\n"):
        yield from (line[i : i + LONGEST_LINE] for i in range(0, len(line), LONGEST_LINE))


def _ranked_characters(lines: list[str]) -> str:
    """Return the characters of lines, sorted by decreasing frequency.

    The character U+2585 (▅) is omitted, because SentencePiece skips lines that contain it.
    """
    counts = Counter[str]()
    for line in lines:
        counts.update(line)
    del counts["▅"]
    return "".join(sorted(counts, key=lambda character: (-counts[character], character)))


def _only(characters: str, lines: list[str]) -> list[str]:
    """Cut the lines at all characters that are not given, and return the parts that are not empty.

    ``_only("ab", ["abcab"])`` returns ``["ab", "ab"]``.
    """
    runs = re.compile(f"[{re.escape(characters)}]+" if characters else "(?!)")
    return [run for line in lines for run in runs.findall(line)]
