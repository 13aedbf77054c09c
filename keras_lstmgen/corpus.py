"""What counts as a document, and which text trains and which validates.

A stream is cut once, at a character. Documents are dealt out by a seeded hash of their text, so that equal
documents stand on the same side however often they occur.
"""

import csv
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

from keras_lstmgen import recipe
from keras_lstmgen.errors import UserError
from keras_lstmgen.sources import Source, lines_before, read_bytes, read_text, resolve

PIECE = 1 << 16  # characters in a piece of a stream, about
LONGEST_FIELD = 1 << 24  # characters in a field of a CSV or TSV file, at most

Split = Literal["train", "validation"]


def pieces(corpus: recipe.Corpus, split: Split) -> Iterator[str]:
    """Yield the text of one side of the split.

    documents = "stream": pieces of about 64k characters that end after a newline wherever there is one, else
    before a space, so that tokenizing them one by one gives the ids of the whole. All other kinds: one string
    for each document; empty ones do not count.
    Raises UserError for text that cannot be read, and where there is none on this side.
    """
    texts = _stream(corpus, split) if corpus.documents == "stream" else _on_side(corpus, split)
    found = False
    for text in texts:
        found = True
        yield text
    if not found:
        raise UserError(why_empty(corpus, split))


def fingerprint(corpus: recipe.Corpus) -> str:
    """Hash the texts themselves and every value that changes documents or split; hexadecimal sha256.

    Where the texts lie, what they are called and whether they are packed does not count.
    """
    digest = hashlib.sha256(json.dumps(_values_that_matter(corpus), sort_keys=True).encode())
    for sources in (resolve(corpus), validation_sources(corpus)):
        digest.update(b"%d sources" % len(sources))
        for source in sources:
            text = hashlib.sha256()
            for chunk in read_bytes(source):
                text.update(chunk)
            digest.update(text.digest())
    return digest.hexdigest()


def _values_that_matter(corpus: recipe.Corpus) -> dict[str, Any]:
    values: dict[str, Any] = {"documents": corpus.documents}
    if corpus.documents in ("jsonl", "csv", "tsv"):
        values["field"] = corpus.field
    if not corpus.validation:
        values["validation_fraction"] = corpus.validation_fraction
        if corpus.documents != "stream":
            values["split_seed"] = corpus.split_seed
    return values | ({"unique": True} if corpus.unique else {})


def validation_sources(corpus: recipe.Corpus) -> list[Source]:
    """The texts of ``corpus.validation``, as ``sources.resolve`` gives those of ``corpus.source``."""
    return resolve(replace(corpus, source=corpus.validation, sha256=()))


def _sources(corpus: recipe.Corpus, split: Split) -> list[Source]:
    return validation_sources(corpus) if corpus.validation and split == "validation" else resolve(corpus)


def why_empty(corpus: recipe.Corpus, split: Split) -> str:
    """What to say where there is no text on a side."""
    if corpus.validation:
        names = corpus.source if split == "train" else corpus.validation
        return f"{', '.join(names)}: empty corpus, no text for {split}; name files with text"
    if not any(any(read_text(source)) for source in resolve(corpus)):
        return f"{', '.join(corpus.source)}: empty corpus; name a text in corpus.source"
    return (
        f"{', '.join(corpus.source)}: no {split} text with corpus.documents = '{corpus.documents}' and "
        f"corpus.validation_fraction = {corpus.validation_fraction:g}; change the fraction, give more text "
        f"or name files in corpus.validation"
    )


def _stream(corpus: recipe.Corpus, split: Split) -> Iterator[str]:
    sources = _sources(corpus, split)
    if corpus.validation:
        return stream(sources, 0, sys.maxsize)
    characters = sum(len(text) for source in sources for text in read_text(source))
    cut = cut_at(characters, corpus)
    return stream(sources, *((0, cut) if split == "train" else (cut, characters)))


def cut_at(characters: int, corpus: recipe.Corpus) -> int:
    """How many characters of a stream train."""
    return int(characters * (1 - corpus.validation_fraction))


def stream(sources: Iterable[Source], start: int, end: int) -> Iterator[str]:
    """Yield the characters from ``start`` up to ``end`` of texts that go on in each other, in pieces for a tokenizer.

    Where a line is cut, being too long for a piece, depends on that line alone: who reads from a later line on finds
    the same pieces of it.
    """
    return _cut_after_newlines(_between(chain.from_iterable(map(read_text, sources)), start, end))


def _between(texts: Iterator[str], start: int, end: int) -> Iterator[str]:
    """The characters from ``start`` up to ``end``: ``_between(["abc", "def"], 2, 4)`` yields "c", "d"."""
    for text in texts:
        if part := text[max(start, 0) : max(end, 0)]:
            yield part
        start, end = start - len(text), end - len(text)
        if end <= 0:
            return


def _cut_after_newlines(texts: Iterator[str]) -> Iterator[str]:
    rest = ""
    for text in texts:
        rest += text
        while len(rest) >= PIECE:
            cut = _cut(rest[:PIECE])
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _cut(text: str) -> int:
    """Where tokenizers part anyway: after the last newline, else before the last spaces, else at the end."""
    if newline := text.rfind("\n") + 1:
        return newline
    spaces = re.match(r".*[^ ](?= )", text, re.DOTALL)
    return spaces.end() if spaces else len(text)


def _on_side(corpus: recipe.Corpus, split: Split) -> Iterator[str]:
    """The documents of one side; with ``corpus.unique`` each once, whose hashes take 100 bytes of memory or so."""
    seen: set[bytes] = set()
    for document in documents(corpus, _sources(corpus, split)):
        if corpus.validation or side(document, corpus) == split:
            if corpus.unique:
                if (key := document_key(document)) in seen:
                    continue
                seen.add(key)
            yield document


def documents(corpus: recipe.Corpus, sources: Iterable[Source]) -> Iterator[str]:
    """Yield all documents of these texts, in their order; empty ones do not count."""
    for source in sources:
        yield from filter(None, KINDS[corpus.documents](source, corpus.field))


def document_key(document: str) -> bytes:
    """16 bytes that are the same for equal documents alone."""
    return hashlib.sha256(document.encode()).digest()[:16]


def side(document: str, corpus: recipe.Corpus) -> Split:
    """Whether a document trains or validates, by a hash of its text and the seed."""
    digest = hashlib.sha256(f"{corpus.split_seed}\n{document}".encode()).digest()
    return "validation" if int.from_bytes(digest[:8]) < corpus.validation_fraction * 2**64 else "train"


def _lines(source: Source, field: str = "") -> Iterator[str]:  # noqa: ARG001
    """The lines of a text without their "\\n" or "\\r\\n"; a line may span any number of pieces."""
    parts: list[str] = []
    for text in read_text(source):
        first, *others = text.split("\n")
        parts.append(first)
        if others:
            yield "".join(parts).removesuffix("\r")
            yield from (line.removesuffix("\r") for line in others[:-1])
            parts = others[-1:]
    if last := "".join(parts).removesuffix("\r"):
        yield last


def _blocks(source: Source, field: str) -> Iterator[str]:  # noqa: ARG001
    block: list[str] = []
    for line in _lines(source):
        if line.strip():
            block.append(line)
        else:
            yield "\n".join(block)
            block = []
    yield "\n".join(block)


def _file(source: Source, field: str) -> Iterator[str]:  # noqa: ARG001
    yield "".join(read_text(source))


def _jsonl(source: Source, field: str) -> Iterator[str]:
    for number, line in enumerate(_lines(source), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{_place(source, number)}: not JSON ({error})") from error
        if not isinstance(value, dict) or not isinstance(value.get(field), str):
            raise UserError(f"{_place(source, number)}: not an object with a string '{field}' (corpus.field)")
        yield value[field]


def _place(source: Source, number: int) -> str:
    """The name of a line; ``number`` is that in the part of the file that is read."""
    return f"{source.name}, line {lines_before(source) + number}"


def _csv(source: Source, field: str) -> Iterator[str]:
    return _column(source, field, csv.reader(_with_newlines(source), strict=True))


def _tsv(source: Source, field: str) -> Iterator[str]:
    # Tab-separated text quotes nothing: a quotation mark is a character like any other.
    return _column(source, field, csv.reader(_with_newlines(source), delimiter="\t", quoting=csv.QUOTE_NONE))


def _with_newlines(source: Source) -> Iterator[str]:
    return (line + "\n" for line in _lines(source))


def _column(source: Source, field: str, rows: Any) -> Iterator[str]:
    """One column, by its number from 1, or by its name in the first row, which a number takes as text."""
    csv.field_size_limit(LONGEST_FIELD)
    try:
        column = int(field) - 1 if field.isdecimal() else _column_named(source, field, next(rows, []))
        for row in rows:
            if row and not 0 <= column < len(row):
                raise UserError(
                    f"{source.name}, line {rows.line_num}: {len(row)} columns, none '{field}' (corpus.field)"
                )
            if row:
                yield row[column]
    except csv.Error as error:
        raise UserError(f"{source.name}, line {rows.line_num}: {error}") from error


def _column_named(source: Source, field: str, header: list[str]) -> int:
    if field not in header:
        raise UserError(
            f"{source.name}, line 1: no column '{field}' (corpus.field) among {', '.join(header) or 'none'}"
        )
    return header.index(field)


KINDS: dict[str, Callable[[Source, str], Iterator[str]]] = {
    "lines": _lines, "blocks": _blocks, "files": _file, "jsonl": _jsonl, "csv": _csv, "tsv": _tsv,
}  # fmt: skip
