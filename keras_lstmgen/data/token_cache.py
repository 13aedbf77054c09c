"""The corpus as ids, written once beside the runs and mapped into memory from then on.

A folder of the cache holds ``tokenizer.model``, ``train.ids``, ``validation.ids`` (little-endian, uint16 or
int32) and ``encoding.json``. Its name is a hash of the texts, the split and the tokenizer's settings. It
appears when it is whole.
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
from keras_lstmgen.tokenizers.tokenizer import Tokenizer, check_writable, train
from keras_lstmgen.utils.errors import UserError

FORMAT = 3
SPLITS: tuple[Split, Split] = ("train", "validation")
COUNTS = ("characters", "bytes", "words", "documents", "tokens", "unknown")
WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")  # a Chinese character, or what stands between white space
PARTS = ("tokenizer.model", "train.ids", "validation.ids")
BATCH = 1 << 16  # characters of short documents that are written together


@dataclass(frozen=True)
class Encoded:
    """A corpus as ids.

    ``train`` and ``validation`` are read-only, one dimension, uint16 or int32, mapped from the disk: an array, or
    ``shards.Shards``, of which slices and index arrays are read like an array's.
    ``counts`` has for each: characters, bytes, words (between white space; each Chinese character is one),
    documents, tokens, unknown; of pairs they are those of the targets.
    ``start_id`` begins a text: ``<s>`` of documents; in a stream the newline, or its first id if it has none.
    ``unsampled_ids`` are never to be generated: all that training never saw, ``<unk>`` and ``<s>``; sorted.
    """

    tokenizer: Tokenizer
    train: NDArray[Any]
    validation: NDArray[Any]
    counts: dict[str, dict[str, int]]
    start_id: int
    end_id: int
    unsampled_ids: tuple[int, ...]


def encode(recipe: Recipe, cache: Path, report: Callable[[str], None] = lambda _: None) -> Encoded:
    """Encode the corpus of a recipe into a folder of ``cache``, or reuse what is there if nothing changed.

    A folder that is damaged is made anew. Memory is bounded by the longest document, not by the corpus.
    ``report`` is told what is going on, a line each. Raises UserError for what cannot be used.
    """
    folder = cache / _key(recipe)
    if (encoded := _opened(folder)) is not None:
        report(f"Corpus and tokenizer are unchanged: reusing {folder}")
        return encoded
    with _turn(folder, report):
        if _opened(folder) is None:
            with replacing(folder) as temporary:
                temporary.mkdir()
                _write(recipe, temporary, report)
                if _key(recipe) != folder.name:
                    raise UserError("corpus.source: a text changed while it was read; train again when it is whole")
        encoded = _opened(folder)
    if encoded is None:
        raise UserError(f"{folder}: does not read back as it was written; check the disk")
    return encoded


@contextmanager
def _turn(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Wait for other runs that encode the same text."""
    lock = folder.with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise UserError(f"{folder}: could not be written ({error.strerror})") from error
    with exclusive_lock(lock, lambda: report("Waiting for another run that encodes this text")):
        yield


def _key(recipe: Recipe) -> str:
    settings = json.dumps([FORMAT, asdict(recipe.tokenizer), fingerprint(recipe.corpus)], sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def _opened(folder: Path) -> Encoded | None:
    """The encoding in a folder; None if it is not there or not as it was written."""
    try:
        about = read_json(folder / "encoding.json")
        if any(sha256(folder / name) != about["sha256"][name] for name in PARTS):
            return None
        tokenizer = Tokenizer((folder / "tokenizer.model").read_bytes())
        return _encoded(folder, about, tokenizer)
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return None


def _encoded(folder: Path, about: dict[str, Any], tokenizer: Tokenizer) -> Encoded:
    """The ids, mapped; ValueError if they are stored in a way that this package does not."""
    if about["dtype"] not in ("<u2", "<i4"):
        raise ValueError(f"ids of type {about['dtype']}")
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
    """The checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(recipe: Recipe, folder: Path, report: Callable[[str], None]) -> None:
    """Learn the vocabulary, write the ids of both sides, and last ``encoding.json``."""
    report(f"Learning a vocabulary of type {recipe.tokenizer.type}")
    tokenizer = Tokenizer(train(recipe.tokenizer, partial(pieces, recipe.corpus, "train")))
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
        **symbols(recipe.corpus, tokenizer, seen["train"], first),
        "sha256": {path.name: sha256(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / "encoding.json", about)


def dtype_of(tokenizer: Tokenizer) -> str:
    """How ids are stored: little-endian, in two bytes where all find room in them, else in four."""
    return "<u2" if tokenizer.vocab_size <= 1 << 16 else "<i4"


def symbols(corpus: Corpus, tokenizer: Tokenizer, seen: NDArray[np.bool_], first: int) -> dict[str, Any]:
    """Return ``start_id`` and ``unsampled_ids`` of a training text: bool (V,), which ids it has, and its first id.

    Raises UserError if that leaves nothing to generate.
    """
    newline = tokenizer.newline_id
    of_a_stream = newline if seen[newline] else first
    start = of_a_stream if corpus.documents == "stream" else tokenizer.start_id
    unsampled = _unsampled(seen, tokenizer)
    check_writable(tokenizer, unsampled)
    return {"start_id": start, "unsampled_ids": unsampled}


def _unsampled(seen: NDArray[np.bool_], tokenizer: Tokenizer) -> list[int]:
    writable = seen.copy()
    writable[[tokenizer.unk_id, tokenizer.start_id]] = False
    return [int(unsampled) for unsampled in np.flatnonzero(~writable)]


def encode_split(
    corpus: Corpus, split: Split, tokenizer: Tokenizer, path: Path, dtype: str
) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Write the ids of one side; return its counts, and bool (V,): which ids occur in it.

    What is counted of pairs is what is to be predicted: their targets.
    """
    counts, seen = write_ids(pieces(corpus, split), corpus, tokenizer, path, dtype)
    return counts | ({"documents": 1} if corpus.documents == "stream" else {}), seen


def write_ids(
    texts: Iterator[str], corpus: Corpus, tokenizer: Tokenizer, path: Path, dtype: str
) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Write the ids of documents, or of pieces of a stream; return what ``encode_split`` returns."""
    counts = dict.fromkeys(COUNTS, 0)
    seen = np.zeros(tokenizer.vocab_size, np.bool_)
    with path.open("wb") as file:
        for batch in batches(texts):
            ids = ids_of(batch, tokenizer, corpus.documents == "stream")
            ids.astype(dtype).tofile(file)
            seen[ids] = True
            if corpus.is_pairs:
                batch = [text.rpartition("\n")[2] for text in batch]
                ids = ids_of(batch, tokenizer, is_stream=True)
                counts["tokens"] += len(batch)  # the end of each
            _add_up(counts, batch, ids, tokenizer.unk_id)
    return counts, seen


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group texts to about 64k characters, so that short documents do not cost a write or a search each."""
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


def ids_of(texts: list[str], tokenizer: Tokenizer, is_stream: bool) -> NDArray[np.int32]:
    """The ids of texts one after another, each document between ``<s>`` and ``</s>``."""
    start, end = ([], []) if is_stream else ([tokenizer.start_id], [tokenizer.end_id])
    return np.concatenate([part for text in texts for part in (start, tokenizer.encode(text), end)]).astype(np.int32)


def _add_up(counts: dict[str, int], texts: list[str], ids: NDArray[np.int32], unk_id: int) -> None:
    counts["characters"] += sum(map(len, texts))
    counts["bytes"] += sum(len(text.encode()) for text in texts)
    counts["words"] += sum(len(text.split() if text.isascii() else WORD.findall(text)) for text in texts)
    counts["documents"] += len(texts)
    counts["tokens"] += len(ids)
    counts["unknown"] += int(np.count_nonzero(ids == unk_id))
