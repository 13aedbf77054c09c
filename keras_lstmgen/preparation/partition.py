"""The parts that a corpus is prepared in: texts of about 16 MiB, which one worker reads at a time.

A file is cut where its documents may begin, at any line for most. Of a stream, a part has to begin a line and to be on
one side of the split, which is only known when all have been counted: ``plan`` → ``surveyed`` → ``lay_out``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, sources, splits, text_reader
from keras_lstmgen.data.splits import Split
from keras_lstmgen.data.text_reader import Source
from keras_lstmgen.utils.errors import UserError, shell_quoted

PART = 1 << 24  # bytes of a file, packed or not, that make a part
# Behind which a part may begin.
MARKS = {"stream": b"\n", "lines": b"\n", "jsonl": b"\n", "pairs": b"\n", "blocks": b"\n\n"}


@dataclass(frozen=True)
class Part:
    """Texts that one worker reads at a time.

    ``split`` is the side of all of it, None where documents go to either. Of a stream, the characters from ``start`` up
    to ``end`` count; of documents, those whose numbers in the part are in ``kept``, or all.
    """

    number: int
    sources: tuple[Source, ...]
    split: Split | None = None
    start: int = 0
    end: int = 0
    kept: frozenset[int] | None = None


def plan(settings: recipe.Corpus) -> list[Part]:
    """Cut the corpus into parts; the same for the same files."""
    if folder := prepared_corpus.folder_of(settings):
        raise UserError(f"{folder}: is prepared; train on it: keras-lstmgen train {shell_quoted(folder)}")
    if settings.labels:
        raise UserError(
            "corpus.labels: cannot be prepared; write the labels into the text, as corpus.documents = 'pairs' has them"
        )
    sides: list[tuple[Split | None, list[Source]]] = [(None, sources.resolve(settings))]
    if settings.validation:
        sides = [("train", sides[0][1]), ("validation", splits.validation_sources(settings))]
    texts = [(split, group) for split, side in sides for group in _groups(side, settings.documents)]
    return [Part(number, group, split) for number, (split, group) in enumerate(texts)]


def _groups(texts: list[Source], documents: str) -> Iterator[tuple[Source, ...]]:
    """Files that are large, cut where they can be; files that are small, together."""
    group: list[Source] = []
    size = 0
    for text in texts:
        for part in text_reader.split(text, PART, MARKS[documents]) if documents in MARKS else (text,):
            group.append(part)
            size += text_reader.size_of(part)
            if size >= PART:
                yield tuple(group)
                group, size = [], 0
    if group:
        yield tuple(group)


def surveyed(part: Part, settings: recipe.Corpus) -> tuple[int, tuple[int, bool]]:
    """Return how many characters a part has, and whether it ends with a newline."""
    characters, last = 0, ""
    for text in splits.texts(settings, part.sources):
        characters, last = characters + len(text), text[-1]
    return part.number, (characters, last == "\n")


def lay_out(_: None, counted: dict[int, tuple[int, bool]], plan: list[Part], settings: recipe.Corpus) -> Iterator[Part]:
    """The parts of a stream, numbered anew: each begins a line, and is on one side of the split."""
    return (replace(part, number=number) for number, part in enumerate(_cut(_merged(plan, counted), settings)))


def _merged(plan: list[Part], counted: dict[int, tuple[int, bool]]) -> Iterator[Part]:
    """Yield the parts, one without a newline at its end together with the next: ``corpus.texts`` puts one between."""
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
    """Parts of a stream on one side each: the one that the split goes through becomes two."""
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
    """What ``corpus.pieces`` yields of this part."""
    if settings.documents == "stream":
        return splits.stream(settings, part.sources, part.start, part.end) if part.split == split else iter(())
    return (
        document
        for number, document in enumerate(splits.documents(settings, part.sources))
        if (part.kept is None or number in part.kept) and (part.split or splits.split_of(document, settings)) == split
    )
