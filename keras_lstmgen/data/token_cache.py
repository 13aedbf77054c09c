"""Tokenize corpora and keep their ids in a cache folder.

The cache contains one folder for each tokenized corpus. The name of the folder is a hash of the texts, the split and
the tokenizer settings. The folder contains ``tokenizer.model``, ``train.ids``, ``validation.ids`` and
``encoding.json``. The ids are stored as little-endian uint16 or int32, and the files are memory-mapped when they are
read. A folder is written under a temporary name and renamed when it is complete.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.config.recipe import Corpus, Recipe
from keras_lstmgen.data.splits import Split, fingerprint, pieces
from keras_lstmgen.files.atomic import exclusive_lock, read_json, replacing, write_json
from keras_lstmgen.tokenizers.tokenizer import Tokenizer, check_writable
from keras_lstmgen.tokenizers.vocabulary import train
from keras_lstmgen.utils.errors import UserError

FORMAT = 3
SPLITS: tuple[Split, Split] = ("train", "validation")
COUNTS = ("characters", "bytes", "words", "documents", "tokens", "unknown")
WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")  # a Chinese character, or other text without white space
PARTS = ("tokenizer.model", "train.ids", "validation.ids")
BATCH = 1 << 16  # approximate number of characters that are tokenized and written together


@dataclass(frozen=True)
class Encoded:
    """A tokenized corpus.

    Attributes:
        tokenizer: the tokenizer.
        train: ids of the training split, a uint16 or int32 array of shape [N]. It is memory-mapped from one file, or it
            is a ``sharded_array.Shards`` object, which supports the same slices and index arrays.
        validation: ids of the validation split, in the same format as ``train``.
        counts: for each split, the number of characters, bytes, words, documents, tokens and unknown tokens. Words are
            separated by white space, and each Chinese character is a word. For pairs, only the targets are counted.
        start_id: id that precedes the first generated token. For documents, it is the id of ``<s>``. For a stream, it
            is the id of the newline, or the first id of the stream if the stream has no newline.
        end_id: id of ``</s>``.
        unsampled_ids: ids that are never generated, sorted. They are ``<unk>``, ``<s>`` and all ids that the training
            split does not contain.
    """

    tokenizer: Tokenizer
    train: NDArray[Any]
    validation: NDArray[Any]
    counts: dict[str, dict[str, int]]
    start_id: int
    end_id: int
    unsampled_ids: tuple[int, ...]


def encode(
    recipe: Recipe, cache: Path, report: Callable[[str], None] = lambda _: None, words: Tokenizer | None = None
) -> Encoded:
    """Tokenize the corpus of a recipe into a folder of the cache, or reuse the folder if nothing has changed.

    A damaged folder is replaced. Memory use depends on the longest document, not on the size of the corpus.

    Args:
        recipe: the recipe. Only the tables ``corpus`` and ``tokenizer`` are used.
        cache: folder of the cache.
        report: function that is called with a line of text for each step.
        words: the tokenizer. None to train a vocabulary on the training split.

    Raises:
        UserError: if the corpus cannot be read, if a text changes while it is read, or if the folder cannot be written.
    """
    folder = cache / _key(recipe, words)
    if (encoded := _load(folder)) is not None:
        report(f"Corpus and tokenizer are unchanged: reusing {folder}")
        return encoded
    with _exclusive(folder, report):
        if _load(folder) is None:
            with replacing(folder) as temporary:
                temporary.mkdir()
                _write(recipe, temporary, report, words)
                if _key(recipe, words) != folder.name:
                    raise UserError("corpus.source: a text changed while it was read; train again when it is complete")
        encoded = _load(folder)
    if encoded is None:
        raise UserError(f"{folder}: the stored data differs from the data that was written; check the disk")
    return encoded


@contextmanager
def _exclusive(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock on a folder of the cache, so that only one process at a time tokenizes the same corpus.

    If another process holds the lock, this function waits for it.
    """
    lock = folder.with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise UserError(f"{folder}: could not be written ({error.strerror})") from error
    with exclusive_lock(lock, lambda: report("Waiting for another run that encodes this text")):
        yield


def _key(recipe: Recipe, words: Tokenizer | None) -> str:
    """Return the name of the folder of a recipe: a hash of the tokenizer or its settings, the texts and the split."""
    vocabulary = hashlib.sha256(words.model).hexdigest() if words else asdict(recipe.tokenizer)
    settings = json.dumps([FORMAT, vocabulary, fingerprint(recipe.corpus)], sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def _load(folder: Path) -> Encoded | None:
    """Return the contents of a folder, or None if the folder is missing or damaged."""
    try:
        about = read_json(folder / "encoding.json")
        if any(sha256(folder / name) != about["sha256"][name] for name in PARTS):
            return None
        tokenizer = Tokenizer((folder / "tokenizer.model").read_bytes())
        return _encoded(folder, about, tokenizer)
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return None


def _encoded(folder: Path, about: dict[str, Any], tokenizer: Tokenizer) -> Encoded:
    """Return the contents of a folder, with memory-mapped ids.

    Args:
        folder: the folder.
        about: contents of its ``encoding.json``.
        tokenizer: its tokenizer.

    Raises:
        ValueError: if the dtype of the ids is not supported.
    """
    if about["dtype"] not in ("<u2", "<i4"):
        raise ValueError(f"dtype is {about['dtype']}, not <u2 or <i4")
    return Encoded(
        tokenizer=tokenizer,
        train=np.memmap(folder / "train.ids", about["dtype"], "r"),
        validation=np.memmap(folder / "validation.ids", about["dtype"], "r"),
        counts=about["counts"],
        start_id=about["start_id"],
        end_id=tokenizer.end_id,
        unsampled_ids=tuple(about["unsampled_ids"]),
    )


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(recipe: Recipe, folder: Path, report: Callable[[str], None], words: Tokenizer | None) -> None:
    """Write all files of a folder. ``encoding.json`` is written last. See ``encode`` for the arguments."""
    if words is None:
        report(f"Training a vocabulary of type {recipe.tokenizer.type}")
    tokenizer = words or Tokenizer(train(recipe.tokenizer, partial(pieces, recipe.corpus, "train")))
    (folder / "tokenizer.model").write_bytes(tokenizer.model)
    dtype = dtype_of(tokenizer)
    counts, seen = {}, {}
    for split in SPLITS:
        counts[split], seen[split] = encode_split(recipe.corpus, split, tokenizer, folder / f"{split}.ids", dtype)
        numbers = ", ".join(f"{number:,} {name}" for name, number in counts[split].items())
        report(f"Encoded {split}: {numbers}")
    first = int(np.fromfile(folder / "train.ids", dtype, 1)[0])
    about = {
        "format_version": FORMAT,
        "dtype": dtype,
        "counts": counts,
        **special_ids(recipe.corpus, tokenizer, seen["train"], first),
        "sha256": {path.name: sha256(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / "encoding.json", about)


def dtype_of(tokenizer: Tokenizer) -> str:
    """Return the NumPy dtype in which ids are stored: little-endian uint16 if all ids fit, otherwise int32."""
    return "<u2" if tokenizer.vocab_size <= 1 << 16 else "<i4"


def special_ids(corpus: Corpus, tokenizer: Tokenizer, seen: NDArray[np.bool_], first: int) -> dict[str, Any]:
    """Return the ``start_id`` and the ``unsampled_ids`` of a corpus.

    Args:
        corpus: the corpus.
        tokenizer: the tokenizer.
        seen: bool array of shape [V]. The entry of an id is True if the training split contains it.
        first: first id of the training split.

    Raises:
        UserError: if a model could generate only newlines and ends of documents.
    """
    newline = tokenizer.newline_id
    of_a_stream = newline if seen[newline] else first
    start = of_a_stream if corpus.documents == "stream" else tokenizer.start_id
    unsampled = _unsampled(seen, tokenizer)
    check_writable(tokenizer, unsampled)
    return {"start_id": start, "unsampled_ids": unsampled}


def _unsampled(seen: NDArray[np.bool_], tokenizer: Tokenizer) -> list[int]:
    """Return the sorted ids that are never generated: ``<unk>``, ``<s>`` and the ids that are False in ``seen``."""
    writable = seen.copy()
    writable[[tokenizer.unk_id, tokenizer.start_id]] = False
    return [int(unsampled) for unsampled in np.flatnonzero(~writable)]


def encode_split(
    corpus: Corpus, split: Split, tokenizer: Tokenizer, path: Path, dtype: str
) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Tokenize one split into a file.

    Args:
        corpus: the corpus.
        split: the split.
        tokenizer: the tokenizer.
        path: output file of the ids.
        dtype: NumPy dtype of the ids in the file.

    Returns:
        The counts of the split, and a bool array of shape [V]. For pairs, the counts cover only the targets. In the
        array, the entry of an id is True if the split contains the id.
    """
    counts, seen = write_ids(pieces(corpus, split), corpus, tokenizer, path, dtype)
    return counts | ({"documents": 1} if corpus.documents == "stream" else {}), seen


def write_ids(
    texts: Iterator[str], corpus: Corpus, tokenizer: Tokenizer, path: Path, dtype: str
) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Tokenize documents or pieces of a stream into a file.

    Args:
        texts: the documents or pieces.
        corpus: the corpus, which determines how texts are encoded and counted.
        tokenizer: the tokenizer.
        path: output file of the ids.
        dtype: NumPy dtype of the ids in the file.

    Returns:
        The same values as ``encode_split`` returns, but each piece of a stream is counted as a document.
    """
    counts = dict.fromkeys(COUNTS, 0)
    seen = np.zeros(tokenizer.vocab_size, np.bool_)
    with path.open("wb") as file:
        for batch in batches(texts):
            ids = encode_texts(batch, tokenizer, corpus.documents == "stream")
            ids.astype(dtype).tofile(file)
            seen[ids] = True
            if corpus.is_pairs:
                batch = [text.rpartition("\n")[2] for text in batch]
                ids = encode_texts(batch, tokenizer, is_stream=True)
                counts["tokens"] += len(batch)  # adds the end symbol of each target
            _add_counts(counts, batch, ids, tokenizer.unk_id)
    return counts, seen


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group texts into lists of about 64k characters, so that many short texts are processed in one call."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encode_texts(texts: list[str], tokenizer: Tokenizer, is_stream: bool) -> NDArray[np.int32]:
    """Concatenate the ids of texts, and return them as an int32 array of shape [N].

    Args:
        texts: documents, or pieces of a stream.
        tokenizer: the tokenizer.
        is_stream: True to return only the ids of the texts. False to add ``<s>`` before and ``</s>`` after each text.
    """
    start, end = ([], []) if is_stream else ([tokenizer.start_id], [tokenizer.end_id])
    return np.concatenate([part for text in texts for part in (start, tokenizer.encode(text), end)]).astype(np.int32)


def _add_counts(counts: dict[str, int], texts: list[str], ids: NDArray[np.int32], unk_id: int) -> None:
    """Add the counts of texts and of their ids to ``counts``.

    Args:
        counts: the counts to increase.
        texts: the texts.
        ids: concatenated ids of the texts.
        unk_id: id of unknown tokens.
    """
    counts["characters"] += sum(map(len, texts))
    counts["bytes"] += sum(len(text.encode()) for text in texts)
    counts["words"] += sum(len(text.split() if text.isascii() else WORD.findall(text)) for text in texts)
    counts["documents"] += len(texts)
    counts["tokens"] += len(ids)
    counts["unknown"] += int(np.count_nonzero(ids == unk_id))
