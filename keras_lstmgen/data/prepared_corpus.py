"""Read prepared corpora: folders of token ids that ``keras-lstmgen prepare`` writes and ``train`` reads.

A folder contains ``tokenizer.model``, ``prepared.json`` and shards of ids. The shards of the training split are
``train-00000.ids``, ``train-00001.ids`` and so on; the names of the other shards begin with ``validation``. All shards
have the dtype little-endian uint16 or int32. The concatenation of the shards of a split contains the ids that
``token_cache`` would write for the same texts. The manifest ``prepared.json`` contains the recipe of the corpus, its
counts, and the name and checksum of each shard in order. All values and files are checked, because a folder may come
from an untrusted source.
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
PIECE = 1 << 20  # number of bytes of a shard that are read at a time
MAX_COUNT = 2**53
ABOUT = ("language", "license")  # fields of the corpus that describe the texts and do not change the ids
TYPES = {
    "corpus": dict, "tokenizer": dict, "dtype": str, "counts": dict, "start_id": int, "unsampled_ids": list,
    "sha256": str, "shards": dict,
}  # fmt: skip


def folder_of(corpus: recipe.Corpus) -> Path | None:
    """Return the folder of a prepared corpus, or None if the corpus is text.

    Raises:
        UserError: if the corpus contains a prepared folder and other sources.
    """
    paths = [Path(filenames.native(name)) for name in (*corpus.source, *corpus.validation) if "\0" not in name]
    found = [path for path in paths if (path / MANIFEST).is_file()]
    if found and (len(corpus.source) > 1 or corpus.validation):
        raise UserError(
            f"{found[0]}: a prepared corpus cannot be combined with other texts; prepare all texts together"
        )
    return found[0] if found else None


def with_prepared_tables(settings: recipe.Recipe) -> recipe.Recipe:
    """Take the tables ``corpus`` and ``tokenizer`` of a recipe from its prepared corpus, and return the new recipe.

    If the recipe has no prepared corpus, it is returned unchanged. The result keeps the value of ``corpus.source``.

    Raises:
        UserError: if the recipe sets a value in these tables that differs from the value in the prepared corpus.
    """
    folder = folder_of(settings.corpus)
    if folder is None:
        return settings
    if any(settings.corpus.sha256):
        raise UserError(
            f"{folder}: corpus.sha256 has no effect on a prepared corpus, which has its own checksums; remove it"
        )
    about = _manifest(folder)
    for table in ("corpus", "tokenizer"):
        _check_same(folder, table, recipe.to_tables(settings)[table], about[table])
    stored = recipe.parse({table: about[table] for table in ("corpus", "tokenizer")}, f"{folder / MANIFEST}: ")
    about_texts = {name: getattr(settings.corpus, name) or getattr(stored.corpus, name) for name in ABOUT}
    corpus = replace(stored.corpus, source=settings.corpus.source, sha256=(), validation=(), **about_texts)
    return replace(settings, corpus=corpus, tokenizer=stored.tokenizer)


def source_corpus(corpus: recipe.Corpus) -> recipe.Corpus:
    """Return the corpus of texts from which a corpus was prepared, or the corpus itself if it is not prepared."""
    folder = folder_of(corpus)
    return corpus if folder is None else recipe.parse({"corpus": _manifest(folder)["corpus"]}, f"{folder}: ").corpus


def load(corpus: recipe.Corpus) -> Encoded | None:
    """Check all files of a prepared corpus and return its contents. Return None if the corpus is text.

    Raises:
        UserError: if a file is missing or damaged.
    """
    folder = folder_of(corpus)
    if folder is None:
        return None
    try:
        return _read(folder, _manifest(folder))
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / MANIFEST}: is damaged ({error}); prepare the corpus again") from error


def _read(folder: Path, about: dict[str, Any]) -> Encoded:
    """Check the files of a folder and return its contents.

    Args:
        folder: the folder of the prepared corpus.
        about: the manifest of the folder.

    Raises:
        UserError: if a file does not match the manifest.
        AttributeError, KeyError, TypeError, ValueError: if the manifest itself is invalid.
    """
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
    """Raise ValueError if the types, ids or splits in the manifest are invalid."""
    unsampled = about["unsampled_ids"]
    if about["dtype"] not in ("<u2", "<i4"):
        raise ValueError(f"dtype is {about['dtype']}, not <u2 or <i4")
    if not all(type(token) is int and 0 <= token < V for token in (about["start_id"], *unsampled)):
        raise ValueError(f"start_id or unsampled_ids contains an id outside the vocabulary of {V} ids")
    if sorted(set(unsampled)) != unsampled or len(unsampled) >= V:
        raise ValueError("unsampled_ids are not sorted, or contain every id")
    if not about["shards"].keys() == about["counts"].keys() == set(SPLITS):
        raise ValueError("the splits of shards and counts must be train and validation")


def _check_shards(folder: Path, about: dict[str, Any], split: Split, V: int) -> None:
    """Check the manifest entries of all shards of a split. Then check the files."""
    shards, name = about["shards"][split], re.compile(rf"{split}-[0-9]{{5,}}\.ids")
    for shard in shards:
        if shard.keys() != {"file", "tokens", "sha256"} or not name.fullmatch(shard["file"]):
            raise ValueError(f"the entry of a shard of {split} is invalid")
        if type(shard["tokens"]) is not int or not 0 < shard["tokens"] <= MAX_COUNT:
            raise ValueError(f"{shard['file']} cannot have {shard['tokens']!r:.60} tokens")
    if len({shard["file"] for shard in shards}) != len(shards) or not shards:
        raise ValueError(f"{split} has no shards, or has the same shard twice")
    for shard in shards:
        _check_shard(folder / shard["file"], shard, about, V)


def _check_shard(path: Path, shard: dict[str, Any], about: dict[str, Any], V: int) -> None:
    """Check the size, the checksum and the ids of a shard, and the symbols around each document in it.

    Args:
        path: the file.
        shard: the entry of the shard in the manifest.
        about: the manifest.
        V: vocabulary size.

    Raises:
        UserError: if the file is damaged or cannot be read.
    """
    dtype, is_framed = np.dtype(about["dtype"]), about["corpus"]["documents"] != "stream"
    digest, last, is_valid = hashlib.sha256(), END, True
    try:
        is_valid = path.stat().st_size == shard["tokens"] * dtype.itemsize
        with path.open("rb") as file:
            while is_valid and (piece := file.read(PIECE)):
                digest.update(piece)
                ids = np.frombuffer(piece, dtype)
                is_valid = bool(ids.min() >= 0 and ids.max() < V)
                is_valid &= not is_framed or bool(((ids == START) == (np.append(last, ids[:-1]) == END)).all())
                last = int(ids[-1])
    except OSError as error:
        raise _unreadable(path, error) from error
    if not is_valid or digest.hexdigest() != shard["sha256"] or (is_framed and last != END):
        raise UserError(f"{path}: is damaged (it does not match {MANIFEST}); copy or prepare the corpus again")


def _check_counts(about: dict[str, Any], split: Split) -> None:
    """Raise ValueError if the counts of a split are impossible for its ids.

    The check is necessary because the evaluation divides losses by these counts.
    """
    counts, documents = about["counts"][split], about["corpus"]["documents"]
    ids = sum(shard["tokens"] for shard in about["shards"][split])
    minimum = dict.fromkeys(COUNTS, 1) | {"words": 0, "unknown": 0}
    if counts.keys() != minimum.keys() or not all(type(counts[name]) is int for name in COUNTS):
        raise ValueError(f"the counts of {split} have wrong names or types")
    is_valid = (
        all(minimum[name] <= counts[name] <= MAX_COUNT for name in COUNTS) and counts["unknown"] <= counts["tokens"]
    )
    is_valid &= counts["documents"] == 1 if documents == "stream" else counts["documents"] <= ids // 2
    if not is_valid or (documents != "pairs" and counts["tokens"] != ids):
        raise ValueError(f"the counts of {split} do not match its ids")


def manifest(settings: recipe.Recipe, values: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of ``prepared.json``.

    Args:
        settings: the recipe of the corpus.
        values: values of the keys dtype, counts, start_id, unsampled_ids, sha256 and shards.
    """
    tables = recipe.to_tables(settings)
    return {"format_version": FORMAT, "corpus": tables["corpus"], "tokenizer": tables["tokenizer"], **values}


def _shards(folder: Path, shards: list[dict[str, Any]], dtype: str) -> NDArray[Any]:
    """Return the shards of a split as one array of shape [N]."""
    tokens = [shard["tokens"] for shard in shards]
    return cast(NDArray[Any], Shards([folder / shard["file"] for shard in shards], tokens, dtype))


def _manifest(folder: Path) -> dict[str, Any]:
    """Read ``prepared.json``, and check its format version, its keys and their types."""
    check_inside(folder)
    about = read_json(folder / MANIFEST)
    if not isinstance(about, dict) or about.get("format_version") != FORMAT:
        raise UserError(
            f"{folder / MANIFEST}: does not have format {FORMAT}; prepare the corpus again with this version"
        )
    for key, kind in TYPES.items():
        if type(about.get(key)) is not kind:
            raise UserError(f"{folder / MANIFEST}: '{key}' is missing or has another type; prepare the corpus again")
    if unknown := about.keys() - {"format_version", *TYPES}:
        raise UserError(f"{folder / MANIFEST}: unknown key '{min(unknown)}'; prepare the corpus again")
    return about


def _check_same(folder: Path, table: str, given: dict[str, Any], stored: dict[str, Any]) -> None:
    """Raise UserError if a table of the recipe sets an option to another value than the prepared folder has.

    A value that equals the default counts as not set.

    Args:
        folder: the folder of the prepared corpus.
        table: name of the table.
        given: the table in the recipe.
        stored: the table in the manifest of the folder.
    """
    defaults = recipe.to_tables(recipe.Recipe())[table]
    for key, value in given.items():
        if key not in ("source", "sha256", *ABOUT) and value not in (defaults[key], stored.get(key)):
            raise UserError(
                f"{folder}: was prepared with {table}.{key} = {stored.get(key)}, not {value}; "
                "remove this option, or prepare the text again"
            )


def _check(path: Path, checksum: str) -> None:
    """Raise UserError if the sha256 of a file differs from a checksum."""
    try:
        found = sha256(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if found != checksum:
        raise UserError(f"{path}: is damaged (its sha256 is not that of {MANIFEST}); copy or prepare the corpus again")


def _unreadable(path: Path, error: OSError) -> UserError:
    """Return the error for a file that cannot be read."""
    return UserError(f"{path}: cannot be read ({error.strerror}); copy or prepare the corpus again")
