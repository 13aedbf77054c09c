"""Which text trains and which validates.

A stream is its files one after another, each of which begins on a line of its own. It is cut once, at a character.
Documents are dealt out by a seeded hash of their text, so that equal documents stand on the same side however often
they occur; pairs by that of their source alone, or, where the source is one of a few labels, by that of their target.

A corpus may be brought to a Unicode form: documents when they are taken out of their files, and before they are dealt
out; a stream file by file.
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
from keras_lstmgen.data.readers import KINDS, held, pair, whole_pair
from keras_lstmgen.data.sources import resolve
from keras_lstmgen.data.text_reader import Source, read_bytes, read_text
from keras_lstmgen.utils.errors import UserError

PIECE = 1 << 16  # characters in a piece of a stream, about
FORMS: dict[str, Literal["NFC", "NFKC"]] = {"nfc": "NFC", "nfkc": "NFKC"}  # by corpus.normalize
# Up to the last character that nothing before it is joined with, in any form: one of ASCII, or a Chinese one.
SAFE = re.compile(r".*(?=[\0-\x7f\u4e00-\u9fff])", re.DOTALL)

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
        for number, source in enumerate(sources, 1):
            text, last = _hashed(source)
            digest.update(text)
            if corpus.documents == "stream" and number < len(sources) and last not in (b"", b"\n"):
                digest.update(b"newline")  # which ``texts`` puts behind it
    return digest.hexdigest()


def _hashed(source: Source) -> tuple[bytes, bytes]:
    """Return the sha256 of a text as it lies in its file, unpacked, and its last byte."""
    text, last = hashlib.sha256(), b""
    for chunk in read_bytes(source):
        text.update(chunk)
        last = chunk[-1:]
    return text.digest(), last


def _values_that_matter(corpus: recipe.Corpus) -> dict[str, Any]:
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


def measured_on(corpus: recipe.Corpus, texts: Sequence[str]) -> recipe.Corpus:
    """The corpus with other texts to measure on, if there are any; of a corpus of kinds one for each of them."""
    if texts and corpus.labels and len(texts) != len(corpus.labels):
        kinds = ", ".join(corpus.labels)
        raise UserError(f"{', '.join(texts)}: give a text for each kind in this order, {kinds} (corpus.labels)")
    return replace(corpus, validation=tuple(texts)) if texts else corpus


def validates_on(corpus: recipe.Corpus) -> str:
    """What the text of ``validation`` is: held out, or named as a source too, and so learned from."""
    return "training text" if corpus.validation and set(corpus.validation) <= set(corpus.source) else "held-out text"


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
        return stream(corpus, sources, 0, sys.maxsize)
    characters = sum(map(len, texts(corpus, sources)))
    cut = cut_at(characters, corpus)
    return stream(corpus, sources, *((0, cut) if split == "train" else (cut, characters)))


def cut_at(characters: int, corpus: recipe.Corpus) -> int:
    """How many characters of a stream train."""
    return int(characters * (1 - corpus.validation_fraction))


def texts(corpus: recipe.Corpus, sources: Iterable[Source]) -> Iterator[str]:
    """Yield texts one after another, in pieces, each file by itself in the form that ``corpus.normalize`` names.

    A text begins on a line of its own: a newline is put before it where the one before does not end with one.
    """
    last = "\n"
    for source in sources:
        for number, piece in enumerate(_in_form(source, read_text(source), corpus)):
            if number == 0 and not last.endswith("\n"):
                yield "\n"
            yield (last := piece)


def _in_form(source: Source, pieces: Iterator[str], corpus: recipe.Corpus) -> Iterator[str]:
    """Yield the pieces of the whole in its form: what may be joined with what follows it waits for that."""
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
            held(source, size := size + len(piece))
    if size:
        yield normalized("".join(rest), corpus)


def normalized(text: str, corpus: recipe.Corpus) -> str:
    """Bring a text to its form; Python finds out by itself, and quickly, where nothing is to be done."""
    form = FORMS.get(corpus.normalize)
    return unicodedata.normalize(form, text) if form else text


def prompt(text: str, corpus: recipe.Corpus) -> str:
    """Read a prompt as the corpus was read: without a byte order mark, with its line ends and in its Unicode form.

    A newline at the end stays, except where a document is one line: there it is the end of that line. In a corpus of
    pairs each line is a turn, and the newline behind the last one ends the source.
    """
    text = text.removeprefix("\ufeff")
    if corpus.is_pairs:
        return _prompt_of_pairs(text, corpus)
    if corpus.documents not in ("stream", "files", "jsonl"):  # which keep the line ends of their text
        text = text.replace("\r\n", "\n")
    if corpus.documents in ("lines", "tsv"):
        text = text.removesuffix("\n").removesuffix("\r")
    return normalized(text, corpus)


def _prompt_of_pairs(text: str, corpus: recipe.Corpus) -> str:
    """Return the turns of a prompt, and behind the last newline the beginning of the answer; a label stays as it is."""
    source, end, answer = text.rpartition("\n") if "\n" in text else (text, "", "")
    turns = (source if corpus.labels else normalized(source, corpus)).rstrip().split("\n")
    return pair(turns) + end + normalized(answer, corpus).lstrip()


def stream(corpus: recipe.Corpus, sources: Iterable[Source], start: int, end: int) -> Iterator[str]:
    """Yield the characters from ``start`` up to ``end`` of texts that go on in each other, in pieces for a tokenizer.

    Where a line is cut, being too long for a piece, depends on that line alone: who reads from a later line on finds
    the same pieces of it.
    """
    return _cut_after_newlines(_between(texts(corpus, sources), start, end))


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
        rest, start = rest + text, 0
        while len(rest) - start >= PIECE:
            end = start + _cut(rest[start : start + PIECE])
            yield rest[start:end]
            start = end
        rest = rest[start:]
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
    for document in chain.from_iterable(documents(corpus, group, label) for label, group in _labelled(corpus, split)):
        if corpus.validation or side(document, corpus) == split:
            if corpus.unique:
                if (key := document_key(document)) in seen:
                    continue
                seen.add(key)
            yield document


def documents(corpus: recipe.Corpus, sources: Iterable[Source], label: str = "") -> Iterator[str]:
    """Yield all documents of these texts, in their order, with a label as its targets; empty ones do not count."""
    for document in chain.from_iterable(KINDS[corpus.documents](source, corpus.field) for source in sources):
        if text := _as_asked(document, corpus, label):
            yield text


def _as_asked(document: str, corpus: recipe.Corpus, label: str) -> str:
    """Return a document in its Unicode form, behind its label if there is one; "" if it does not count.

    The form may bring spaces beside a turn of a pair, which is therefore made anew.
    """
    text = normalized(document, corpus)
    if label:
        return whole_pair([label, text])
    return whole_pair(text.split("\n")) if text != document and corpus.is_pairs else text


def _labelled(corpus: recipe.Corpus, split: Split) -> Iterator[tuple[str, list[Source]]]:
    """The sources of a side, and what stands before their documents."""
    if not corpus.labels:
        yield "", _sources(corpus, split)
        return
    held_out = corpus.validation if split == "validation" else ()
    checksums = corpus.sha256 if corpus.sha256 and not held_out else [""] * len(corpus.labels)
    for label, name, checksum in zip(corpus.labels, held_out or corpus.source, checksums, strict=True):
        yield label, resolve(replace(corpus, source=(name,), sha256=(checksum,) if checksum else ()))


def document_key(document: str) -> bytes:
    """16 bytes that are the same for equal documents alone."""
    return hashlib.sha256(document.encode()).digest()[:16]


def side(document: str, corpus: recipe.Corpus) -> Split:
    """Whether a document trains or validates, by a hash of its text, or of a part of it, and the seed."""
    source, _, target = document.rpartition("\n")
    key = target if corpus.labels else source if corpus.is_pairs else document  # a label is the source of too many
    digest = hashlib.sha256(f"{corpus.split_seed}\n{key}".encode()).digest()
    return "validation" if int.from_bytes(digest[:8]) < corpus.validation_fraction * 2**64 else "train"
