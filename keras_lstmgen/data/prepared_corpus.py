"""A prepared corpus: a folder of shards of ids, which ``keras-lstmgen prepare`` writes and ``train`` reads.

It holds ``tokenizer.model``, the shards ``train-00000.ids`` and so on, ``validation-00000.ids`` and so on (of
little-endian uint16 or int32), and ``prepared.json``, written last: what was prepared from what, counts, and the shards
in their order with their checksums. The ids, one shard after another, are those of ``encoding``. Somebody else may have
made it: nothing in it is believed.
"""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.config import recipe
from keras_lstmgen.data.sharded_array import Shards
from keras_lstmgen.data.splits import Split
from keras_lstmgen.data.token_cache import COUNTS, SPLITS, Encoded, sha256
from keras_lstmgen.files import filenames
from keras_lstmgen.files.atomic import check_inside, read_json
from keras_lstmgen.files.folders import MANIFEST
from keras_lstmgen.tokenizers import tokenizer
from keras_lstmgen.tokenizers.tokenizer import END, START
from keras_lstmgen.utils.errors import UserError

TOKENIZER = "tokenizer.model"
FORMAT = 1
PIECE = 1 << 20  # bytes of a shard that are looked at together
MOST = 2**53  # of anything that is counted
KINDS = {
    "corpus": dict, "tokenizer": dict, "dtype": str, "counts": dict, "start_id": int, "unsampled_ids": list,
    "sha256": str, "shards": dict,
}  # fmt: skip


def folder_of(corpus: recipe.Corpus) -> Path | None:
    """The prepared folder that a corpus is; None if it is text. UserError if it is one beside other sources."""
    paths = [Path(filenames.native(name)) for name in (*corpus.source, *corpus.validation) if "\0" not in name]
    found = [path for path in paths if (path / MANIFEST).is_file()]
    if found and (len(corpus.source) > 1 or corpus.validation):
        raise UserError(f"{found[0]}: a prepared corpus stands alone; prepare all texts together")
    return found[0] if found else None


def adopted(settings: recipe.Recipe) -> recipe.Recipe:
    """The recipe with the tables that its prepared folder was made by, if its corpus is one.

    What it says itself of documents, split or tokenizer must be the same.
    """
    folder = folder_of(settings.corpus)
    if folder is None:
        return settings
    if any(settings.corpus.sha256):
        raise UserError(
            f"{folder}: corpus.sha256 has no effect on a prepared corpus, which holds its own; leave it out"
        )
    about = _manifest(folder)
    for table in ("corpus", "tokenizer"):
        _check_same(folder, table, recipe.to_tables(settings)[table], about[table])
    made = recipe.parse({table: about[table] for table in ("corpus", "tokenizer")}, f"{folder / MANIFEST}: ")
    corpus = replace(made.corpus, source=settings.corpus.source, sha256=(), validation=())
    return replace(settings, corpus=corpus, tokenizer=made.tokenizer)


def text(corpus: recipe.Corpus) -> recipe.Corpus:
    """The text that a prepared folder was made of; any other corpus as it is."""
    folder = folder_of(corpus)
    return corpus if folder is None else recipe.parse({"corpus": _manifest(folder)["corpus"]}, f"{folder}: ").corpus


def opened(corpus: recipe.Corpus) -> Encoded | None:
    """The ids of a prepared folder, every file held against its checksum; None if the corpus is text.

    Raises UserError for what is missing or damaged.
    """
    folder = folder_of(corpus)
    if folder is None:
        return None
    try:
        return _read(folder, _manifest(folder))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / MANIFEST}: is damaged ({error}); prepare the corpus again") from error


def _read(folder: Path, about: dict[str, Any]) -> Encoded:
    """What the folder holds. Raises UserError for a file, ValueError and its like for what the manifest says."""
    _check(folder / TOKENIZER, about["sha256"])
    words = tokenizer.load(folder / TOKENIZER)
    _check_values(about, words.vocab_size)
    for split in SPLITS:
        _check_shards(folder, about, split, words.vocab_size)
        _check_counts(about, split)
    train, validation = (_shards(folder, about["shards"][split], about["dtype"]) for split in SPLITS)
    return Encoded(
        words,
        train,
        validation,
        counts=about["counts"],
        start_id=about["start_id"],
        end_id=words.end_id,
        unsampled_ids=tuple(about["unsampled_ids"]),
    )


def _check_values(about: dict[str, Any], V: int) -> None:
    unsampled = about["unsampled_ids"]
    if about["dtype"] not in ("<u2", "<i4"):
        raise ValueError(f"ids of type {about['dtype']}")
    if not all(type(token) is int and 0 <= token < V for token in (about["start_id"], *unsampled)):
        raise ValueError(f"it names ids outside the vocabulary of {V}")
    if sorted(set(unsampled)) != unsampled or len(unsampled) >= V:
        raise ValueError("unsampled_ids are not as they were written")
    if not about["shards"].keys() == about["counts"].keys() == set(SPLITS):
        raise ValueError("it has other sides than train and validation")


def _check_shards(folder: Path, about: dict[str, Any], split: Split, V: int) -> None:
    """Hold the shards of a side against what is said of them, before any is opened, and then what is in them."""
    shards, name = about["shards"][split], re.compile(rf"{split}-[0-9]{{5,}}\.ids")
    for shard in shards:
        if shard.keys() != {"file", "tokens", "sha256"} or not name.fullmatch(shard["file"]):
            raise ValueError(f"a shard of {split} is not as it was written")
        if type(shard["tokens"]) is not int or not 0 < shard["tokens"] <= MOST:
            raise ValueError(f"{shard['file']} is said to have {shard['tokens']!r:.60} tokens")
    if len({shard["file"] for shard in shards}) != len(shards) or not shards:
        raise ValueError(f"{split} has no shard, or one twice")
    for shard in shards:
        _check_shard(folder / shard["file"], shard, about, V)


def _check_shard(path: Path, shard: dict[str, Any], about: dict[str, Any], V: int) -> None:
    """Read a shard once: its size, its checksum, its ids, and that each document stands between its symbols."""
    dtype, framed = np.dtype(about["dtype"]), about["corpus"]["documents"] != "stream"
    digest, last, right = hashlib.sha256(), END, True
    try:
        right = path.stat().st_size == shard["tokens"] * dtype.itemsize
        with path.open("rb") as file:
            while right and (piece := file.read(PIECE)):
                digest.update(piece)
                ids = np.frombuffer(piece, dtype)
                right = bool(ids.min() >= 0 and ids.max() < V)
                right &= not framed or bool(((ids == START) == (np.append(last, ids[:-1]) == END)).all())
                last = int(ids[-1])
    except OSError as error:
        raise _unreadable(path, error) from error
    if not right or digest.hexdigest() != shard["sha256"] or (framed and last != END):
        raise UserError(f"{path}: is damaged (it is not what {MANIFEST} says); copy or prepare the corpus again")


def _check_counts(about: dict[str, Any], split: Split) -> None:
    """Hold the counts of a side against its ids. Losses are divided by them."""
    counts, documents = about["counts"][split], about["corpus"]["documents"]
    ids = sum(shard["tokens"] for shard in about["shards"][split])
    at_least = dict.fromkeys(COUNTS, 1) | {"words": 0, "unknown": 0}
    if counts.keys() != at_least.keys() or not all(type(counts[name]) is int for name in COUNTS):
        raise ValueError(f"counts of {split} are not as they were written")
    right = all(at_least[name] <= counts[name] <= MOST for name in COUNTS) and counts["unknown"] <= counts["tokens"]
    right &= counts["documents"] == 1 if documents == "stream" else counts["documents"] <= ids // 2
    if not right or (documents != "pairs" and counts["tokens"] != ids):
        raise ValueError(f"counts of {split} are not those of its ids")


def manifest(settings: recipe.Recipe, values: dict[str, Any]) -> dict[str, Any]:
    """What ``prepared.json`` holds; ``values`` are dtype, counts, start_id, unsampled_ids, sha256 and shards."""
    tables = recipe.to_tables(settings)
    return {"format_version": FORMAT, "corpus": tables["corpus"], "tokenizer": tables["tokenizer"], **values}


def _shards(folder: Path, shards: list[dict[str, Any]], dtype: str) -> NDArray[Any]:
    """What training reads as it reads an array."""
    tokens = [shard["tokens"] for shard in shards]
    return cast(NDArray[Any], Shards([folder / shard["file"] for shard in shards], tokens, dtype))


def _manifest(folder: Path) -> dict[str, Any]:
    check_inside(folder)
    about = read_json(folder / MANIFEST)
    if not isinstance(about, dict) or about.get("format_version") != FORMAT:
        raise UserError(f"{folder / MANIFEST}: is not of format {FORMAT}; prepare the corpus again with this version")
    for key, kind in KINDS.items():
        if type(about.get(key)) is not kind:
            raise UserError(f"{folder / MANIFEST}: '{key}' is not as it was written; prepare the corpus again")
    if unknown := about.keys() - {"format_version", *KINDS}:
        raise UserError(f"{folder / MANIFEST}: '{min(unknown)}' is nothing that is written there; prepare it again")
    return about


def _check_same(folder: Path, table: str, said: dict[str, Any], made: dict[str, Any]) -> None:
    """Refuse a value that was given and is not the folder's; a default counts as not given."""
    defaults = recipe.to_tables(recipe.Recipe())[table]
    for key, value in said.items():
        if key not in ("source", "sha256") and value not in (defaults[key], made.get(key)):
            raise UserError(
                f"{folder}: was prepared with {table}.{key} = {made.get(key)}, not {value}; "
                "leave it out, or prepare the text anew"
            )


def _check(path: Path, checksum: str) -> None:
    """Hold a file against its checksum."""
    try:
        found = sha256(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if found != checksum:
        raise UserError(f"{path}: is damaged (its sha256 is not that of {MANIFEST}); copy or prepare the corpus again")


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); copy or prepare the corpus again")
