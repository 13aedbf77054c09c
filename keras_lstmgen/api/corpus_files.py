"""Write texts that a program passes as strings to files, because a corpus consists of files."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from keras_lstmgen.api.recipe_arguments import stored_path
from keras_lstmgen.config import recipe
from keras_lstmgen.utils.errors import UserError, shell_quoted

Texts = str | Path | Iterable[str] | Iterable[Path]
FIELD = "text"  # key of a text in a JSONL file
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL, or half a surrogate pair
LONGEST_NAME = 4096  # maximum number of characters of a string that may be the name of a file


def training_corpus(texts: Texts, folder: Path, given: Iterable[str]) -> dict[str, Any]:
    """Return the recipe fields of a training corpus.

    Args:
        texts: a string is one text in the format ``corpus.documents``. A path is a file, a folder or a glob. Each
            string of any other iterable is a document, and may contain newlines.
        folder: folder for the file with the texts.
        given: dotted names of the recipe fields that the caller has set.

    Raises:
        UserError: if ``texts`` has a wrong type or contains no text, or if a document is not valid text.
    """
    for name in ("corpus.source", "corpus.sha256"):
        if name in given:
            raise UserError(f"{name}: has no effect, because fit receives the texts; leave it out")
    if isinstance(texts, str):
        return {"corpus.source": [_write_text(texts, folder)]}
    if paths := _paths(texts):
        return {"corpus.source": paths}
    for name in ("corpus.documents", "corpus.field", "corpus.labels"):
        if name in given:
            raise UserError(
                f"{name}: has no effect on a list of texts, because each text is a document; leave it out, or give one "
                "string or a path"
            )
    source = _write_jsonl(_documents(texts), folder, FIELD)
    return {"corpus.source": [source], "corpus.documents": "jsonl", "corpus.field": [FIELD]}


def evaluation_texts(texts: Texts, folder: Path, corpus: recipe.Corpus) -> list[str]:
    """Return the names of files with texts for the evaluation of a run.

    Args:
        texts: as for ``training_corpus``. A list is accepted if the run was trained on continuous text, or on a list,
            JSONL, lines or files.
        folder: folder for the files with the texts.
        corpus: the corpus of the run. The files have its format.

    Raises:
        UserError: as in ``training_corpus``, or if the run needs another format.
    """
    if paths := _paths(texts):
        return paths
    if corpus.documents == "jsonl" and len(corpus.field) == 1:
        documents = [_checked("texts", texts)] if isinstance(texts, str) else _documents(texts)
        return [_write_jsonl(documents, folder, corpus.field[0])]
    if isinstance(texts, str):
        return [_write_text(texts, folder)]
    documents = list(_documents(texts))
    if corpus.documents == "lines" and not any("\n" in document for document in documents):
        return [_write_text("".join(f"{document}\n" for document in documents), folder)]
    if corpus.documents in ("stream", "files"):
        return [_write_text(document, folder, f"{number}.txt") for number, document in enumerate(documents)]
    raise UserError(
        f"texts: the run was trained with corpus.documents = '{corpus.documents}', which a list cannot represent; "
        "give a string or a path in this format"
    )


def _paths(texts: Any) -> list[str]:
    """Return the names of the files if ``texts`` is a path or a list of paths; otherwise an empty list."""
    paths = [texts] if isinstance(texts, os.PathLike) else texts if isinstance(texts, list | tuple) else []
    return [stored_path(path) for path in paths] if all(isinstance(path, os.PathLike) for path in paths) else []


def _documents(texts: Any) -> Iterator[str]:
    """Yield the strings of an iterable; raise UserError for another type and if there is no string."""
    if isinstance(texts, bytes | bytearray | dict) or not isinstance(texts, Iterable):
        raise UserError(f"texts: {type(texts).__name__} is not a string, a path, or an iterable of strings")
    number = -1
    for number, text in enumerate(texts):
        yield _checked(f"texts[{number}]", text)
    if number < 0:
        raise UserError("texts: is empty; give at least one text")


def _checked(name: str, text: Any) -> str:
    """Return a text; raise UserError if it is not a string, or contains NUL or half a surrogate pair."""
    if not isinstance(text, str):
        raise UserError(f"{name}: {type(text).__name__} is not a string")
    if found := NOT_TEXT.search(text):
        raise UserError(f"{name}: {found[0]!a} at character {found.start()} is not text; remove it")
    return text


def _write_text(text: str, folder: Path, name: str = "text.txt") -> str:
    """Write a text to a file and return the name of the file; raise UserError if the text is empty or a file name."""
    if not _checked("texts", text).strip():
        raise UserError("texts: is empty; give a text")
    if len(text) < LONGEST_NAME and "\n" not in text and os.path.exists(text):
        raise UserError(
            f"texts: {shell_quoted(text)} is the name of a file; give it as a pathlib.Path to read the file"
        )
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return stored_path(path)


def _write_jsonl(documents: Iterable[str], folder: Path, field: str) -> str:
    """Write documents to a JSONL file and return the name of the file."""
    path = folder / "texts.jsonl"
    with path.open("w", encoding="utf-8", newline="") as file:
        for document in documents:
            file.write(json.dumps({field: document}, ensure_ascii=False) + "\n")
    return stored_path(path)
