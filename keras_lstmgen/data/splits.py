"""Divide a corpus into a training split and a validation split.

If the corpus is one continuous text (a stream), its files are concatenated, and each file starts on a new line. The
beginning of the stream is the training split, and the rest is the validation split.

If the corpus consists of documents, a seeded hash assigns each document to a split. Documents with the same text are
therefore in the same split. The hash of a pair depends only on its source, or only on its target if the source is a
label.

Before the division, each document, or each file of a stream, can be converted to a Unicode normalization form.
"""

import hashlib
import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

from keras_lstmgen.config import recipe
from keras_lstmgen.data.readers import READERS, check_length, pair, whole_pair
from keras_lstmgen.data.sources import resolve
from keras_lstmgen.data.text_reader import Source, read_bytes, read_text
from keras_lstmgen.utils.errors import UserError

PIECE = 1 << 16  # approximate number of characters in a piece of a stream
FORMS: dict[str, Literal["NFC", "NFKC"]] = {"nfc": "NFC", "nfkc": "NFKC"}  # key: value of corpus.normalize
# Matches the text before the last ASCII or Chinese character. Normalization never combines these characters with the
# text before them, so the text on both sides can be normalized separately.
SAFE = re.compile(r".*(?=[\0-\x7f\u4e00-\u9fff])", re.DOTALL)

Split = Literal["train", "validation"]


def pieces(corpus: recipe.Corpus, split: Split) -> Iterator[str]:
    """Yield the text of one split.

    A stream is divided into pieces of about 64k characters. A piece ends after a newline if possible, otherwise before
    a space. Together, the pieces have the same ids as the whole stream. Any other corpus is yielded document by
    document. Empty documents are skipped.

    Args:
        corpus: the corpus.
        split: the split.

    Raises:
        UserError: if a text cannot be read, or if the split is empty.
    """
    texts = _stream(corpus, split) if corpus.documents == "stream" else _documents_of(corpus, split)
    is_empty = True
    for text in texts:
        is_empty = False
        yield text
    if is_empty:
        raise UserError(empty_split_message(corpus, split))


def fingerprint(corpus: recipe.Corpus) -> str:
    """Return the hexadecimal sha256 of the texts and of all options that change the documents or the splits.

    The hash does not depend on the names, the folders and the compression of the files.
    """
    digest = hashlib.sha256(json.dumps(_values_that_matter(corpus), sort_keys=True).encode())
    for sources in (resolve(corpus), validation_sources(corpus)):
        digest.update(b"%d sources" % len(sources))
        for number, source in enumerate(sources, 1):
            text, last = _hashed(source)
            digest.update(text)
            if corpus.documents == "stream" and number < len(sources) and last not in (b"", b"\n"):
                digest.update(b"newline")  # the newline that ``texts`` inserts between two files
    return digest.hexdigest()


def _hashed(source: Source) -> tuple[bytes, bytes]:
    """Return the sha256 of the unpacked bytes of a file, and the last of these bytes."""
    text, last = hashlib.sha256(), b""
    for chunk in read_bytes(source):
        text.update(chunk)
        last = chunk[-1:]
    return text.digest(), last


def _values_that_matter(corpus: recipe.Corpus) -> dict[str, Any]:
    """Return the options of a corpus that change the documents or the splits."""
    values: dict[str, Any] = {"documents": corpus.documents}
    if corpus.documents in ("jsonl", "csv", "tsv"):
        values["field"] = corpus.field
    if not corpus.validation:
        values["validation_fraction"] = corpus.validation_fraction
        if corpus.documents != "stream":
            values["split_seed"] = corpus.split_seed
    if corpus.normalize != recipe.NONE:
        values["normalize"] = corpus.normalize
    return values | ({"unique": True} if corpus.unique else {}) | ({"labels": corpus.labels} if corpus.labels else {})


def with_validation_texts(corpus: recipe.Corpus, texts: Sequence[str]) -> recipe.Corpus:
    """Return the corpus with the given validation texts. If no texts are given, return the corpus unchanged.

    Args:
        corpus: the corpus.
        texts: names of validation texts. A corpus with labels needs one text for each label.

    Raises:
        UserError: if the number of texts differs from the number of labels.
    """
    if texts and corpus.labels and len(texts) != len(corpus.labels):
        labels = ", ".join(corpus.labels)
        raise UserError(f"{', '.join(texts)}: give one text for each label in this order: {labels} (corpus.labels)")
    return replace(corpus, validation=tuple(texts)) if texts else corpus


def validation_kind(corpus: recipe.Corpus) -> str:
    """Return "training text" if all validation texts are also training texts, otherwise "held-out text"."""
    return "training text" if corpus.validation and set(corpus.validation) <= set(corpus.source) else "held-out text"


def validation_sources(corpus: recipe.Corpus) -> list[Source]:
    """Return the texts of ``corpus.validation``."""
    return resolve(replace(corpus, source=corpus.validation, sha256=()))


def _sources(corpus: recipe.Corpus, split: Split) -> list[Source]:
    """Return the texts that contain a split. These texts may also contain the other split."""
    return validation_sources(corpus) if corpus.validation and split == "validation" else resolve(corpus)


def empty_split_message(corpus: recipe.Corpus, split: Split) -> str:
    """Return the error message for a split without text."""
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
    """Yield the text of one split of a stream in pieces."""
    sources = _sources(corpus, split)
    if corpus.validation:
        return stream(corpus, sources, 0, sys.maxsize)
    characters = sum(map(len, texts(corpus, sources)))
    cut = cut_at(characters, corpus)
    return stream(corpus, sources, *((0, cut) if split == "train" else (cut, characters)))


def cut_at(characters: int, corpus: recipe.Corpus) -> int:
    """Return the number of characters in the training split of a stream that has ``characters`` characters."""
    return int(characters * (1 - corpus.validation_fraction))


def texts(corpus: recipe.Corpus, sources: Iterable[Source]) -> Iterator[str]:
    """Yield the text of all sources in pieces. Each source is normalized separately.

    If a source does not end with a newline, a newline is inserted before the next source.
    """
    last = "\n"
    for source in sources:
        for number, piece in enumerate(_in_form(source, read_text(source), corpus)):
            if number == 0 and not last.endswith("\n"):
                yield "\n"
            yield (last := piece)


def _in_form(source: Source, pieces: Iterator[str], corpus: recipe.Corpus) -> Iterator[str]:
    """Yield a text in the Unicode normalization form of the corpus.

    The last characters of a piece are yielded together with the next piece, because normalization may combine
    characters of both pieces.
    """
    if corpus.normalize == recipe.NONE:
        yield from pieces
        return
    rest, size = list[str](), 0
    for piece in pieces:
        if safe := SAFE.match(piece):
            if done := normalized("".join([*rest, piece[: safe.end()]]), corpus):
                yield done
            rest, size = [piece[safe.end() :]], len(piece) - safe.end()
        else:
            rest.append(piece)
            check_length(source, size := size + len(piece))
    if size:
        yield normalized("".join(rest), corpus)


def normalized(text: str, corpus: recipe.Corpus) -> str:
    """Return a text in the Unicode normalization form of the corpus.

    >>> from keras_lstmgen.config.recipe import Corpus
    >>> from keras_lstmgen.data.splits import normalized
    >>> normalized("e\u0301", Corpus(normalize="nfc")) == "\u00e9"
    True
    """
    form = FORMS.get(corpus.normalize)
    return unicodedata.normalize(form, text) if form else text


def normalized_prompt(text: str, corpus: recipe.Corpus) -> str:
    """Convert a prompt in the same way as the texts of the corpus.

    The conversion removes a byte order mark, replaces line ends, and applies the Unicode normalization. A newline at
    the end of the prompt is removed only if each document is one line. In a corpus of pairs, each line of the prompt is
    a turn, and a newline after the last turn ends the source.
    """
    text = text.removeprefix("\ufeff")
    if corpus.is_pairs:
        return _prompt_of_pairs(text, corpus)
    if corpus.documents not in ("stream", "files", "jsonl"):  # the readers of these three kinds keep "\r\n"
        text = text.replace("\r\n", "\n")
    if corpus.documents in ("lines", "tsv"):
        text = text.removesuffix("\n").removesuffix("\r")
    return normalized(text, corpus)


def _prompt_of_pairs(text: str, corpus: recipe.Corpus) -> str:
    """Convert a prompt for a corpus of pairs.

    The text before the last newline is the source, and the text after the last newline is the beginning of the answer.
    A prompt without a newline is a source. If the source is a label, it is not normalized.
    """
    source, end, answer = text.rpartition("\n") if "\n" in text else (text, "", "")
    turns = (source if corpus.labels else normalized(source, corpus)).rstrip().split("\n")
    return pair(turns) + end + normalized(answer, corpus).lstrip()


def stream(corpus: recipe.Corpus, sources: Iterable[Source], start: int, end: int) -> Iterator[str]:
    """Yield a range of characters of a stream, in pieces that a tokenizer can encode one by one.

    If a line is longer than a piece, the positions of the cuts depend only on the line. Therefore, the cuts in the line
    do not depend on the line at which the range starts.

    Args:
        corpus: the corpus.
        sources: the files of the stream.
        start: index of the first character.
        end: index after the last character.
    """
    return _cut_after_newlines(_between(texts(corpus, sources), start, end))


def _between(texts: Iterator[str], start: int, end: int) -> Iterator[str]:
    """Yield the characters from ``start`` up to, but not including, ``end``.

    ``_between(iter(["abc", "def"]), 2, 4)`` yields "c" and "d".
    """
    for text in texts:
        if part := text[max(start, 0) : max(end, 0)]:
            yield part
        start, end = start - len(text), end - len(text)
        if end <= 0:
            return


def _cut_after_newlines(texts: Iterator[str]) -> Iterator[str]:
    """Yield the same text in pieces of at most ``PIECE`` characters. The pieces have the same ids as the text."""
    rest = ""
    for text in texts:
        rest, start = rest + text, 0
        while len(rest) - start >= PIECE:
            end = start + _cut(rest[start : start + PIECE])
            yield rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest


def _cut(text: str) -> int:
    """Return the position at which to cut a text.

    The text is cut after its last newline. A text without a newline is cut before the last spaces in it, and a text
    without spaces is cut at its end.
    """
    if newline := text.rfind("\n") + 1:
        return newline
    spaces = re.match(r".*[^ ](?= )", text, re.DOTALL)
    return spaces.end() if spaces else len(text)


def _documents_of(corpus: recipe.Corpus, split: Split) -> Iterator[str]:
    """Yield the documents of one split. If ``corpus.unique`` is set, omit documents whose text has occurred before."""
    seen: set[bytes] = set()  # needs about 100 bytes of memory for each document
    for document in chain.from_iterable(documents(corpus, group, label) for label, group in _labelled(corpus, split)):
        if corpus.validation or split_of(document, corpus) == split:
            if corpus.unique:
                if (key := document_key(document)) in seen:
                    continue
                seen.add(key)
            yield document


def documents(corpus: recipe.Corpus, sources: Iterable[Source], label: str = "") -> Iterator[str]:
    """Yield all documents of some sources in order. Empty documents are skipped.

    Args:
        corpus: the corpus.
        sources: the files.
        label: label of the files, or "" for none. With a label, each document becomes the target of a pair whose source
            is the label.
    """
    for document in chain.from_iterable(READERS[corpus.documents](source, corpus.field) for source in sources):
        if text := _normalized_document(document, corpus, label):
            yield text


def _normalized_document(document: str, corpus: recipe.Corpus, label: str) -> str:
    """Return a document in its normalization form. If a label is given, return the pair of label and document."""
    text = normalized(document, corpus)
    if label:
        return whole_pair([label, text])
    # Normalization may add spaces around a turn, so a pair that has changed is built again.
    return whole_pair(text.split("\n")) if text != document and corpus.is_pairs else text


def _labelled(corpus: recipe.Corpus, split: Split) -> Iterator[tuple[str, list[Source]]]:
    """For each label, yield the label and its sources. For a corpus without labels, yield "" and all sources."""
    if not corpus.labels:
        yield "", _sources(corpus, split)
        return
    held_out = corpus.validation if split == "validation" else ()
    checksums = corpus.sha256 if corpus.sha256 and not held_out else [""] * len(corpus.labels)
    for label, name, checksum in zip(corpus.labels, held_out or corpus.source, checksums, strict=True):
        yield label, resolve(replace(corpus, source=(name,), sha256=(checksum,) if checksum else ()))


def document_key(document: str) -> bytes:
    """Return a hash of 16 bytes that identifies the text of a document."""
    return hashlib.sha256(document.encode()).digest()[:16]


def split_of(document: str, corpus: recipe.Corpus) -> Split:
    """Return the split of a document. The split depends on a hash of the split seed and the text of the document.

    For pairs, only the source is hashed. If the source is a label, only the target is hashed.
    """
    source, _, target = document.rpartition("\n")
    # A hash of a label would assign all documents with this label to the same split.
    key = target if corpus.labels else source if corpus.is_pairs else document
    digest = hashlib.sha256(f"{corpus.split_seed}\n{key}".encode()).digest()
    return "validation" if int.from_bytes(digest[:8]) < corpus.validation_fraction * 2**64 else "train"
