"""Divide a corpus into parts of about 16 MiB, which workers process independently.

``plan`` cuts large files at positions where a document may begin. In most formats, this is the beginning of any line.

A stream needs two more steps, because each part must begin at the beginning of a line or of a split, and must contain
text of only one split. The boundary between the splits depends on the length of the whole stream. Therefore,
``measure`` counts the characters of all parts, and ``cut_stream`` then cuts the part that contains the boundary.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, sources, splits, text_reader
from keras_lstmgen.data.splits import Split
from keras_lstmgen.data.text_reader import Source
from keras_lstmgen.utils.errors import UserError, shell_quoted

PART = 1 << 24  # minimum size of a part in bytes on disk, except for the last part
# For each value of corpus.documents, the bytes after which a part may begin.
SEPARATORS = {"stream": b"\n", "lines": b"\n", "jsonl": b"\n", "pairs": b"\n", "blocks": b"\n\n"}


@dataclass(frozen=True)
class Part:
    """The part of a corpus that one worker processes at a time.

    Attributes:
        number: index of the part in the corpus.
        sources: the texts of the part, which may be parts of files.
        split: split of the whole part, or None if each document of the part is assigned to a split separately.
        start: index of the first character in the text of ``sources``. This value is used only for streams.
        end: index after the last character in the text of ``sources``. This value is used only for streams.
        kept: indices of the documents that are not duplicates, or None if all documents are used.
    """

    number: int
    sources: tuple[Source, ...]
    split: Split | None = None
    start: int = 0
    end: int = 0
    kept: frozenset[int] | None = None


def plan(settings: recipe.Corpus) -> list[Part]:
    """Return the parts of a corpus. The same files always give the same parts.

    Raises:
        UserError: if the corpus is already prepared or has labels.
    """
    if folder := prepared_corpus.folder_of(settings):
        raise UserError(f"{folder}: is already prepared; train on it: keras-lstmgen train {shell_quoted(folder)}")
    if settings.labels:
        raise UserError(
            "corpus.labels: cannot be prepared; write the labels into the text, with corpus.documents = 'pairs'"
        )
    sides: list[tuple[Split | None, list[Source]]] = [(None, sources.resolve(settings))]
    if settings.validation:
        sides = [("train", sides[0][1]), ("validation", splits.validation_sources(settings))]
    texts = [(split, group) for split, side in sides for group in _groups(side, settings.documents)]
    return [Part(number, group, split) for number, (split, group) in enumerate(texts)]


def _groups(texts: list[Source], documents: str) -> Iterator[tuple[Source, ...]]:
    """Yield the texts of each part. Large files are cut where possible, and small files are combined.

    Args:
        texts: all texts of the corpus or of a split.
        documents: value of ``corpus.documents``.
    """
    group: list[Source] = []
    size = 0
    for text in texts:
        for part in text_reader.split(text, PART, SEPARATORS[documents]) if documents in SEPARATORS else (text,):
            group.append(part)
            size += text_reader.size_of(part)
            if size >= PART:
                yield tuple(group)
                group, size = [], 0
    if group:
        yield tuple(group)


def measure(part: Part, settings: recipe.Corpus) -> tuple[int, tuple[int, bool]]:
    """Return the index of a part, its number of characters, and whether its text ends with a newline."""
    characters, last = 0, ""
    for text in splits.texts(settings, part.sources):
        characters, last = characters + len(text), text[-1]
    return part.number, (characters, last == "\n")


def cut_stream(
    _: None, counted: dict[int, tuple[int, bool]], plan: list[Part], settings: recipe.Corpus
) -> Iterator[Part]:
    """Cut a stream into parts, and return the parts.

    Each part begins at the beginning of a line or of a split, and contains text of only one split.

    Args:
        _: an unused element, because Beam applies functions to elements.
        counted: number of characters of each part, and whether its text ends with a newline. The keys are the indices
            of the parts.
        plan: the parts that the function ``plan`` returned.
        settings: the corpus.
    """
    return (replace(part, number=number) for number, part in enumerate(_cut(_merged(plan, counted), settings)))


def _merged(plan: list[Part], counted: dict[int, tuple[int, bool]]) -> Iterator[Part]:
    """Yield the parts. If a part does not end with a newline, join it with the next part of the same split.

    The texts of joined parts are separated by a newline, as in ``splits.texts``.
    """
    waiting: Part | None = None
    for part in plan:
        characters, ends_a_line = counted[part.number]
        if waiting and waiting.split == part.split:
            newline = 1 if waiting.end and characters else 0
            end = waiting.end + newline + characters
            waiting = replace(waiting, sources=waiting.sources + part.sources, end=end)
        else:
            if waiting:
                yield waiting
            waiting = replace(part, end=characters)
        if ends_a_line:
            yield waiting
            waiting = None
    if waiting:
        yield waiting


def _cut(merged: Iterable[Part], settings: recipe.Corpus) -> Iterator[Part]:
    """Yield the parts of a stream. The part that contains the boundary between the splits is cut in two."""
    parts = list(merged)
    cut = splits.cut_at(sum(part.end for part in parts), settings)
    for part in parts:
        if part.split:
            yield part
            continue
        if cut > 0:
            yield replace(part, split="train", end=min(cut, part.end))
        if cut < part.end:
            yield replace(part, split="validation", start=max(cut, 0))
        cut -= part.end


def texts(part: Part, settings: recipe.Corpus, split: Split) -> Iterator[str]:
    """Yield the text of one split in a part. For a stream, yield pieces. Otherwise, yield documents."""
    if settings.documents == "stream":
        return splits.stream(settings, part.sources, part.start, part.end) if part.split == split else iter(())
    return (
        document
        for number, document in enumerate(splits.documents(settings, part.sources))
        if (part.kept is None or number in part.kept) and (part.split or splits.split_of(document, settings)) == split
    )
