"""Divide a corpus into a training split and a validation split.

A stream is the concatenation of its files, each starting on a new line. It is cut once, at a character. Documents are
assigned to a split by a seeded hash of their text, so that equal documents are in the same split. Pairs are assigned by
the hash of their source, or of their target if the source is a label.

A corpus may be converted to a Unicode normalization form. This is done before the assignment: for each document, or for
each file of a stream.
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
FORMS: dict[str, Literal["NFC", "NFKC"]] = {"nfc": "NFC", "nfkc": "NFKC"}  # by corpus.normalize
# Text before the last character that no normalization form combines with the text before it: ASCII or Chinese.
SAFE = re.compile(r".*(?=[\0-\x7f\u4e00-\u9fff])", re.DOTALL)

Split = Literal["train", "validation"]


def pieces(corpus: recipe.Corpus, split: Split) -> Iterator[str]:
    """Yield the text of one split.

    A stream is yielded in pieces of about 64k characters, which end after a newline if possible, otherwise before a
    space. Tokenizing the pieces gives the same ids as tokenizing the whole. All other kinds of corpus are yielded
    document by document, without empty ones.

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
    """Return a hash of the texts and of all options that change documents or splits; hexadecimal sha256.

    The names, folders and compression of the files have no influence.
    """
    digest = hashlib.sha256(json.dumps(_values_that_matter(corpus), sort_keys=True).encode())
    for sources in (resolve(corpus), validation_sources(corpus)):
        digest.update(b"%d sources" % len(sources))
        for number, source in enumerate(sources, 1):
            text, last = _hashed(source)
            digest.update(text)
            if corpus.documents == "stream" and number < len(sources) and last not in (b"", b"\n"):
                digest.update(b"newline")  # that ``texts`` inserts after it
    return digest.hexdigest()


def _hashed(source: Source) -> tuple[bytes, bytes]:
    """Return the sha256 of the decompressed bytes of a file, and its last byte."""
    text, last = hashlib.sha256(), b""
    for chunk in read_bytes(source):
        text.update(chunk)
        last = chunk[-1:]
    return text.digest(), last


def _values_that_matter(corpus: recipe.Corpus) -> dict[str, Any]:
    """Return the options that change the documents or the splits."""
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
    """Return the corpus with other validation texts, if any are given.

    Args:
        corpus: the corpus.
        texts: validation texts; for a corpus with labels, one for each label.

    Raises:
        UserError: if the number of texts differs from that of the labels.
    """
    if texts and corpus.labels and len(texts) != len(corpus.labels):
        labels = ", ".join(corpus.labels)
        raise UserError(f"{', '.join(texts)}: give one text for each label in this order: {labels} (corpus.labels)")
    return replace(corpus, validation=tuple(texts)) if texts else corpus


def validation_kind(corpus: recipe.Corpus) -> str:
    """Return what the validation text is: "held-out text", or "training text" if it is also a source."""
    return "training text" if corpus.validation and set(corpus.validation) <= set(corpus.source) else "held-out text"


def validation_sources(corpus: recipe.Corpus) -> list[Source]:
    """Return the resolved sources of ``corpus.validation``."""
    return resolve(replace(corpus, source=corpus.validation, sha256=()))


def _sources(corpus: recipe.Corpus, split: Split) -> list[Source]:
    """Return the resolved sources that contain a split, possibly together with the other split."""
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
    """Return the number of characters of the training split of a stream."""
    return int(characters * (1 - corpus.validation_fraction))


def texts(corpus: recipe.Corpus, sources: Iterable[Source]) -> Iterator[str]:
    """Yield the texts of all sources in pieces, each source normalized separately.

    Each source starts on a new line: a newline is inserted if the previous source does not end with one.
    """
    last = "\n"
    for source in sources:
        for number, piece in enumerate(_in_form(source, read_text(source), corpus)):
            if number == 0 and not last.endswith("\n"):
                yield "\n"
            yield (last := piece)


def _in_form(source: Source, pieces: Iterator[str], corpus: recipe.Corpus) -> Iterator[str]:
    """Yield a text in its Unicode normalization form; characters that may combine with the next piece wait for it."""
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
    """Return a prompt in the form in which the corpus was read: byte order mark, line ends and normalization.

    A newline at the end remains, except if each document is one line. In a corpus of pairs each line is a turn, and a
    newline after the last turn ends the source.
    """
    text = text.removeprefix("\ufeff")
    if corpus.is_pairs:
        return _prompt_of_pairs(text, corpus)
    if corpus.documents not in ("stream", "files", "jsonl"):  # these keep the line ends of their text
        text = text.replace("\r\n", "\n")
    if corpus.documents in ("lines", "tsv"):
        text = text.removesuffix("\n").removesuffix("\r")
    return normalized(text, corpus)


def _prompt_of_pairs(text: str, corpus: recipe.Corpus) -> str:
    """Return the turns of a prompt, and the beginning of the answer after the last newline; labels do not change."""
    source, end, answer = text.rpartition("\n") if "\n" in text else (text, "", "")
    turns = (source if corpus.labels else normalized(source, corpus)).rstrip().split("\n")
    return pair(turns) + end + normalized(answer, corpus).lstrip()


def stream(corpus: recipe.Corpus, sources: Iterable[Source], start: int, end: int) -> Iterator[str]:
    """Yield the characters from ``start`` up to ``end`` of a stream in pieces for a tokenizer.

    A line that is too long for a piece is cut at positions that depend on that line only. Reading from a later line on
    therefore gives the same pieces.

    Args:
        corpus: the corpus.
        sources: the files of the stream.
        start: index of the first character.
        end: index after the last character.
    """
    return _cut_after_newlines(_between(texts(corpus, sources), start, end))


def _between(texts: Iterator[str], start: int, end: int) -> Iterator[str]:
    """Yield the characters from ``start`` up to ``end``: "c" and "d" for ``_between(["abc", "def"], 2, 4)``."""
    for text in texts:
        if part := text[max(start, 0) : max(end, 0)]:
            yield part
        start, end = start - len(text), end - len(text)
        if end <= 0:
            return


def _cut_after_newlines(texts: Iterator[str]) -> Iterator[str]:
    """Yield the same characters in pieces of at most ``PIECE``, cut where tokenizers separate pieces."""
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
    """Return the position to cut a text at: after the last newline, otherwise before the last spaces, or the end."""
    if newline := text.rfind("\n") + 1:
        return newline
    spaces = re.match(r".*[^ ](?= )", text, re.DOTALL)
    return spaces.end() if spaces else len(text)


def _documents_of(corpus: recipe.Corpus, split: Split) -> Iterator[str]:
    """Yield the documents of one split; with ``corpus.unique`` each text once."""
    seen: set[bytes] = set()  # about 100 bytes of memory for each document
    for document in chain.from_iterable(documents(corpus, group, label) for label, group in _labelled(corpus, split)):
        if corpus.validation or split_of(document, corpus) == split:
            if corpus.unique:
                if (key := document_key(document)) in seen:
                    continue
                seen.add(key)
            yield document


def documents(corpus: recipe.Corpus, sources: Iterable[Source], label: str = "") -> Iterator[str]:
    """Yield all documents of these sources in their order, without empty ones.

    Args:
        corpus: the corpus.
        sources: the files.
        label: label of the files; each document is then the target of a pair whose source is the label.
    """
    for document in chain.from_iterable(READERS[corpus.documents](source, corpus.field) for source in sources):
        if text := _normalized_document(document, corpus, label):
            yield text


def _normalized_document(document: str, corpus: recipe.Corpus, label: str) -> str:
    """Return a document in its Unicode normalization form, after its label if there is one; "" if it is empty.

    Normalization may add spaces around a turn of a pair. Therefore the pair is built again.
    """
    text = normalized(document, corpus)
    if label:
        return whole_pair([label, text])
    return whole_pair(text.split("\n")) if text != document and corpus.is_pairs else text


def _labelled(corpus: recipe.Corpus, split: Split) -> Iterator[tuple[str, list[Source]]]:
    """Yield the label of each group of sources of a split, "" for none, and the sources."""
    if not corpus.labels:
        yield "", _sources(corpus, split)
        return
    held_out = corpus.validation if split == "validation" else ()
    checksums = corpus.sha256 if corpus.sha256 and not held_out else [""] * len(corpus.labels)
    for label, name, checksum in zip(corpus.labels, held_out or corpus.source, checksums, strict=True):
        yield label, resolve(replace(corpus, source=(name,), sha256=(checksum,) if checksum else ()))


def document_key(document: str) -> bytes:
    """Return 16 bytes that identify the text of a document."""
    return hashlib.sha256(document.encode()).digest()[:16]


def split_of(document: str, corpus: recipe.Corpus) -> Split:
    """Return the split of a document, which depends on a hash of the split seed and of its text or a part of it."""
    source, _, target = document.rpartition("\n")
    key = target if corpus.labels else source if corpus.is_pairs else document  # too many pairs have the same label
    digest = hashlib.sha256(f"{corpus.split_seed}\n{key}".encode()).digest()
    return "validation" if int.from_bytes(digest[:8]) < corpus.validation_fraction * 2**64 else "train"
