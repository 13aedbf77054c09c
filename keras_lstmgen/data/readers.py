"""What counts as a document: the lines, blocks, files, rows or fields that a source is made of.

A pair is one document of two lines, source and target; turns of a dialogue before the last are lines of its source.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from keras_lstmgen.data.text_reader import Source, lines_before, read_text
from keras_lstmgen.utils.errors import UserError

LONGEST_FIELD = 1 << 24  # characters in a field of a CSV or TSV file, at most
LONGEST = 1 << 24  # characters in a line, a block, a file that is one document, a row of a table, at most

Fields = tuple[str, ...]


def pair(turns: Iterable[str]) -> str:
    """One document of source and target: a line each, as a newline parts them; those inside become spaces.

    Spaces around a turn go: a vocabulary of words takes a space before a newline as one with it.
    """
    return "\n".join(" ".join(turn.splitlines()).strip() for turn in turns)


def whole_pair(turns: Sequence[str]) -> str:
    """Return the pair of these turns, or "" if its source or its target is blank: such a pair does not count.

    Every kind of document follows this rule.
    """
    return pair(turns) if len(turns) > 1 and turns[0].strip() and turns[-1].strip() else ""


def held(source: Source, size: int) -> None:
    """Refuse to hold more in memory: a packed file may unpack to a thousand times its size."""
    if size > LONGEST:
        raise UserError(
            f"{source.name}: more than {LONGEST:,} characters without an end of the document; give another "
            "corpus.documents, 'stream' for example, or cut the text"
        )


def _lines(source: Source, fields: Fields = ()) -> Iterator[str]:  # noqa: ARG001
    """The lines of a text without their "\\n" or "\\r\\n"; a line may span any number of pieces."""
    parts: list[str] = []
    size = 0
    for text in read_text(source):
        first, *others = text.split("\n")
        parts.append(first)
        held(source, size := size + len(first))
        if others:
            yield "".join(parts).removesuffix("\r")
            yield from (line.removesuffix("\r") for line in others[:-1])
            parts, size = others[-1:], len(others[-1])
    if last := "".join(parts).removesuffix("\r"):
        yield last


def _blocks(source: Source, fields: Fields) -> Iterator[str]:  # noqa: ARG001
    block: list[str] = []
    size = 0
    for line in _lines(source):
        if line.strip():
            block.append(line)
            held(source, size := size + len(line) + 1)
        else:
            yield "\n".join(block)
            block, size = [], 0
    yield "\n".join(block)


def _file(source: Source, fields: Fields) -> Iterator[str]:  # noqa: ARG001
    parts: list[str] = []
    size = 0
    for text in read_text(source):
        parts.append(text)
        held(source, size := size + len(text))
    yield "".join(parts)


def _pairs(source: Source, fields: Fields) -> Iterator[str]:  # noqa: ARG001
    for number, line in enumerate(_lines(source), 1):
        if line.strip() and "\t" not in line:
            raise UserError(
                f"{_line(source, number)}: not a source, a tab and a target; mend it or give corpus.documents"
            )
        yield whole_pair(line.rstrip().split("\t"))  # rows of a table may be padded with tabs


def _jsonl(source: Source, fields: Fields) -> Iterator[str]:
    for number, line in enumerate(_lines(source), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{_line(source, number)}: not JSON ({error})") from error
        for field in fields:
            if not isinstance(value, dict) or not isinstance(value.get(field), str):
                raise UserError(f"{_line(source, number)}: not an object with a string '{field}' (corpus.field)")
        if not all(_is_unicode(value[field]) for field in fields):
            where = _line(source, number)
            raise UserError(f"{where}: a NUL or half a surrogate pair is no text; mend its escape")
        yield _joined([value[field] for field in fields])


def _line(source: Source, number: int) -> str:
    """The name of a line; ``number`` is that in the part of the file that is read."""
    return f"{source.name}, line {lines_before(source) + number}"


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can say it, and no NUL is in it: what ``read_text`` asks of other texts."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _joined(values: list[str]) -> str:
    """Return the document of one field as it is, and of several fields a pair."""
    return values[0] if len(values) == 1 else whole_pair(values)


def _csv(source: Source, fields: Fields) -> Iterator[str]:
    return _columns(source, fields, partial(csv.reader, strict=True))


def _tsv(source: Source, fields: Fields) -> Iterator[str]:
    # Tab-separated text quotes nothing: a quotation mark is a character like any other.
    return _columns(source, fields, partial(csv.reader, delimiter="\t", quoting=csv.QUOTE_NONE))


def _columns(source: Source, fields: Fields, reader: Callable[[Iterator[str]], Any]) -> Iterator[str]:
    """Columns by number from 1, where all are numbers, or by their names in the first row, which is no document."""
    csv.field_size_limit(LONGEST_FIELD)
    size = 0  # of a row so far: it goes on with the next line as long as a quoted field is open

    def lines() -> Iterator[str]:
        nonlocal size
        for line in _lines(source):
            held(source, size := size + len(line) + 1)
            yield line + "\n"

    rows = reader(lines())
    try:
        header: list[str] = [] if all(field.isdecimal() for field in fields) else next(rows, [])
        places = [_place(source, field, header) for field in fields]
        size = 0
        for row in rows:
            size = 0
            if row:
                yield _joined([_cell(source, row, *place, rows.line_num) for place in zip(places, fields, strict=True)])
    except csv.Error as error:
        raise UserError(f"{source.name}, line {rows.line_num}: {error}") from error


def _place(source: Source, field: str, header: list[str]) -> int:
    if not header and field.isdecimal():
        return int(field[:18]) - 1  # of a longer one: no file has so many columns either
    if field not in header:
        raise UserError(
            f"{source.name}, line 1: no column '{field}' (corpus.field) among {', '.join(header) or 'none'}"
        )
    return header.index(field)


def _cell(source: Source, row: list[str], place: int, field: str, line: int) -> str:
    if not 0 <= place < len(row):
        raise UserError(f"{source.name}, line {line}: {len(row)} columns, none '{field}' (corpus.field)")
    return row[place]


KINDS: dict[str, Callable[[Source, Fields], Iterator[str]]] = {
    "lines": _lines, "blocks": _blocks, "files": _file, "jsonl": _jsonl, "csv": _csv, "tsv": _tsv, "pairs": _pairs,
}  # fmt: skip
