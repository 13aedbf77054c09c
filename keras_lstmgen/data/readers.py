"""Read the documents of a source: lines, blocks, files, rows of a table, JSON objects or pairs.

A pair is a document of two or more lines. The last line is the target, and the other lines are the source. A source of
several lines is a dialogue, and each line is a turn.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from keras_lstmgen.data.text_reader import Source, lines_before, read_text
from keras_lstmgen.utils.errors import UserError

LONGEST_FIELD = 1 << 24  # maximum number of characters in a field of a CSV or TSV file
LONGEST = 1 << 24  # maximum number of characters in a document

Fields = tuple[str, ...]


def pair(turns: Iterable[str]) -> str:
    """Return the document of a pair, with one line for each turn.

    Newlines inside a turn become spaces. White space around a turn is removed, because a word vocabulary encodes a
    space and the newline after it as one token.

    Args:
        turns: the turns of the source in order, followed by the target.

    >>> pair(["How are\\nyou? ", "Fine."])
    'How are you?\\nFine.'
    """
    return "\n".join(" ".join(turn.splitlines()).strip() for turn in turns)


def whole_pair(turns: Sequence[str]) -> str:
    """Return the document of a pair, or an empty string if the first turn or the target is blank.

    Callers ignore empty documents, so a pair without a first turn or target is skipped.

    Args:
        turns: the turns of the source in order, followed by the target.

    >>> whole_pair(["question", " "])
    ''
    """
    return pair(turns) if len(turns) > 1 and turns[0].strip() and turns[-1].strip() else ""


def check_length(source: Source, size: int) -> None:
    """Raise UserError if a document is longer than ``LONGEST`` characters.

    The limit protects the memory: the unpacked text of a gzip file can be a thousand times as large as the file.

    Args:
        source: the text that contains the document. The message contains the name of this text.
        size: number of characters of the document that have been read.
    """
    if size > LONGEST:
        raise UserError(
            f"{source.name}: a document has more than {LONGEST:,} characters; set corpus.documents to another value, "
            "for example 'stream', or divide the document"
        )


def _lines(source: Source, fields: Fields = ()) -> Iterator[str]:  # noqa: ARG001
    """Yield the lines of a text without the line ends "\\n" and "\\r\\n"."""
    parts: list[str] = []
    size = 0
    for text in read_text(source):
        first, *others = text.split("\n")
        parts.append(first)
        check_length(source, size := size + len(first))
        if others:
            yield "".join(parts).removesuffix("\r")
            yield from (line.removesuffix("\r") for line in others[:-1])
            parts, size = others[-1:], len(others[-1])
    if last := "".join(parts).removesuffix("\r"):
        yield last


def _blocks(source: Source, fields: Fields) -> Iterator[str]:  # noqa: ARG001
    """Yield the blocks of a text. Blocks are separated by empty lines."""
    block: list[str] = []
    size = 0
    for line in _lines(source):
        if line.strip():
            block.append(line)
            check_length(source, size := size + len(line) + 1)
        else:
            yield "\n".join(block)
            block, size = [], 0
    yield "\n".join(block)


def _file(source: Source, fields: Fields) -> Iterator[str]:  # noqa: ARG001
    """Yield the whole text as one document."""
    parts: list[str] = []
    size = 0
    for text in read_text(source):
        parts.append(text)
        check_length(source, size := size + len(text))
    yield "".join(parts)


def _pairs(source: Source, fields: Fields) -> Iterator[str]:  # noqa: ARG001
    """Yield the pair in each line of a text. Tabs separate the turns of a pair."""
    for number, line in enumerate(_lines(source), 1):
        if line.strip() and "\t" not in line:
            raise UserError(
                f"{_location(source, number)}: a pair needs a source, a tab and a target; correct the line, or set "
                "corpus.documents to another value"
            )
        yield whole_pair(line.rstrip().split("\t"))  # exported tables often have extra tabs at the end of a line


def _jsonl(source: Source, fields: Fields) -> Iterator[str]:
    """Yield a document for each line that is not blank. These lines must be JSON objects with the given fields."""
    for number, line in enumerate(_lines(source), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{_location(source, number)}: invalid JSON ({error}); each line must be one JSON object"
            ) from error
        for field in fields:
            if not isinstance(value, dict) or not isinstance(value.get(field), str):
                raise UserError(
                    f"{_location(source, number)}: must be an object with a string '{field}' (corpus.field)"
                )
        if not all(_is_valid_text(value[field]) for field in fields):
            where = _location(source, number)
            raise UserError(f"{where}: a NUL or half a surrogate pair is not text; correct the escape sequence")
        yield _document([value[field] for field in fields])


def _location(source: Source, number: int) -> str:
    """Return the name of a file and a line number in it, for a message.

    Args:
        source: the file, or a part of a file.
        number: line number in ``source``, from 1.
    """
    return f"{source.name}, line {lines_before(source) + number}"


def _is_valid_text(text: str) -> bool:
    """Return whether a string from a JSON file has no NUL and can be encoded as UTF-8.

    This check is necessary because an escape sequence can stand for a character that ``read_text`` would reject.
    """
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _document(values: list[str]) -> str:
    """Return the document that the values form. One value is the whole document, and several values are a pair."""
    return values[0] if len(values) == 1 else whole_pair(values)


def _csv(source: Source, fields: Fields) -> Iterator[str]:
    """Yield a document for each row of a CSV file. The document contains the columns that ``fields`` selects."""
    return _table(source, fields, partial(csv.reader, strict=True))


def _tsv(source: Source, fields: Fields) -> Iterator[str]:
    """Yield a document for each row of a TSV file. Quotation marks have no special meaning in a TSV file."""
    return _table(source, fields, partial(csv.reader, delimiter="\t", quoting=csv.QUOTE_NONE))


def _table(source: Source, fields: Fields, reader: Callable[[Iterator[str]], Any]) -> Iterator[str]:
    """Yield a document for each row of a table. The document contains the columns that ``fields`` selects.

    Args:
        source: the text of the table.
        fields: column numbers from 1, or column names. If a field is a name, the first row is the header and not a
            document.
        reader: function that creates a ``csv.reader`` from an iterator of lines.
    """
    csv.field_size_limit(LONGEST_FIELD)
    # Number of characters of the current row. A row can have several lines, because a quoted field can have newlines.
    size = 0

    def lines() -> Iterator[str]:
        nonlocal size
        for line in _lines(source):
            check_length(source, size := size + len(line) + 1)
            yield line + "\n"

    rows = reader(lines())
    try:
        header: list[str] = [] if all(field.isdecimal() for field in fields) else next(rows, [])
        indices = [_column_index(source, field, header) for field in fields]
        size = 0
        for row in rows:
            size = 0
            if row:
                columns = zip(indices, fields, strict=True)
                yield _document([_cell(source, row, *column, rows.line_num) for column in columns])
    except csv.Error as error:
        raise UserError(f"{source.name}, line {rows.line_num}: {error}") from error


def _column_index(source: Source, field: str, header: list[str]) -> int:
    """Return the index (from 0) of the column that a field selects by its number (from 1) or by its name.

    Raises:
        UserError: if the header has no column with this name.
    """
    if not header and field.isdecimal():
        return int(field[:18]) - 1  # no file has 10^18 columns, so further digits do not matter
    if field not in header:
        raise UserError(
            f"{source.name}, line 1: no column '{field}' (corpus.field); the columns are: {', '.join(header) or 'none'}"
        )
    return header.index(field)


def _cell(source: Source, row: list[str], index: int, field: str, line: int) -> str:
    """Return a cell of a row, or raise UserError if the row is too short."""
    if not 0 <= index < len(row):
        raise UserError(
            f"{source.name}, line {line}: no column '{field}' (corpus.field); number of columns: {len(row)}"
        )
    return row[index]


READERS: dict[str, Callable[[Source, Fields], Iterator[str]]] = {
    "lines": _lines, "blocks": _blocks, "files": _file, "jsonl": _jsonl, "csv": _csv, "tsv": _tsv, "pairs": _pairs,
}  # fmt: skip
