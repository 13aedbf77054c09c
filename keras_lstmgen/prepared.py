"""A prepared corpus: a folder of shards of ids, which ``keras-lstmgen prepare`` writes and ``train`` reads.

It holds ``tokenizer.model``, the shards ``train-00000.ids`` and so on, ``validation-00000.ids`` and so on (of
little-endian uint16 or int32), and ``prepared.json``, written last: what was prepared from what, counts, and the shards
in their order with their checksums. The ids, one shard after another, are those of ``encoding``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray

from keras_lstmgen import recipe, tokenizer
from keras_lstmgen.encoding import SPLITS, Encoded, sha256
from keras_lstmgen.errors import UserError
from keras_lstmgen.files import read_json
from keras_lstmgen.shards import MANIFEST, Shards

TOKENIZER = "tokenizer.model"
FORMAT = 1
KINDS = {
    "corpus": dict, "tokenizer": dict, "dtype": str, "counts": dict, "start_id": int, "unsampled_ids": list,
    "sha256": str, "shards": dict,
}  # fmt: skip


def folder_of(corpus: recipe.Corpus) -> Path | None:
    """The prepared folder that a corpus is; None if it is text. UserError if it is one beside other sources."""
    found = [Path(name) for name in (*corpus.source, *corpus.validation) if (Path(name) / MANIFEST).is_file()]
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
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / MANIFEST}: is damaged ({error}); prepare the corpus again") from error


def _read(folder: Path, about: dict[str, Any]) -> Encoded:
    _check(folder / TOKENIZER, about["sha256"])
    for split in SPLITS:
        for shard in about["shards"][split]:
            _check(folder / shard["file"], shard["sha256"])
    words = tokenizer.load(folder / TOKENIZER)
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


def manifest(settings: recipe.Recipe, values: dict[str, Any]) -> dict[str, Any]:
    """What ``prepared.json`` holds; ``values`` are dtype, counts, start_id, unsampled_ids, sha256 and shards."""
    tables = recipe.to_tables(settings)
    return {"format_version": FORMAT, "corpus": tables["corpus"], "tokenizer": tables["tokenizer"], **values}


def _shards(folder: Path, shards: list[dict[str, Any]], dtype: str) -> NDArray[Any]:
    """What training reads as it reads an array."""
    tokens = [shard["tokens"] for shard in shards]
    return cast(NDArray[Any], Shards([folder / shard["file"] for shard in shards], tokens, dtype))


def _manifest(folder: Path) -> dict[str, Any]:
    about = read_json(folder / MANIFEST)
    if not isinstance(about, dict) or about.get("format_version") != FORMAT:
        raise UserError(f"{folder / MANIFEST}: is not of format {FORMAT}; prepare the corpus again with this version")
    for key, kind in KINDS.items():
        if type(about.get(key)) is not kind:
            raise UserError(f"{folder / MANIFEST}: '{key}' is not as it was written; prepare the corpus again")
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
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy or prepare the corpus again") from error
    if found != checksum:
        raise UserError(f"{path}: is damaged (its sha256 is not that of {MANIFEST}); copy or prepare the corpus again")
