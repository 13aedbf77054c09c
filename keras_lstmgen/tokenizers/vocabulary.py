"""Train vocabularies: count characters and words, or train a SentencePiece model on a sample of lines."""

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

COUNTED = ("char", "word")  # types whose vocabulary is the most frequent symbols
DEFAULT_SIZES = {"word": 20_000, "bpe": 1_000, "unigram": 1_000}
DISTINCT_WORDS = 4_000_000  # maximum while counting; beyond it, the rarer half is removed
SAMPLED_LINES = 100_000  # training sample of bpe and unigram
LONGEST_LINE = 1_000  # characters; longer lines are cut, because SentencePiece skips lines of more than 4,192 bytes


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
