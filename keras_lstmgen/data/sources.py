"""Find the files of a corpus from the source names in its recipe.

A source can be a file, a glob, a folder, a URL to download, an address of a remote file system, a pipe, standard input
(``-``) or ``pydoc``. If a file does not exist under its name, it is searched in the data folder by path, file name and
checksum. The environment variable ``KERAS_LSTMGEN_DATA`` contains the path of the data folder.
"""

import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from keras_lstmgen.config import recipe
from keras_lstmgen.data.text_reader import Source, read_bytes, read_text
from keras_lstmgen.files import (
    checksums,
    data_folder,
    downloads,
    filenames,
    folders,
    formats,
    packaged,
    remote,
    spooling,
)
from keras_lstmgen.files.folders import MANIFEST, LeftOut
from keras_lstmgen.utils.errors import UserError, shell_quoted


class Match(NamedTuple):
    """The files that match the name of a source. ``left_out`` lists the matches that are not read."""

    files: Sequence[Path]
    left_out: Sequence[LeftOut] = ()


def resolve(corpus: recipe.Corpus) -> list[Source]:
    """Download missing files, verify all checksums, and return the texts of ``corpus.source`` in order.

    Args:
        corpus: the table ``corpus`` of a recipe.

    Raises:
        UserError: if a source does not exist, if a folder has no text or contains a text that cannot be read, or if a
            checksum is wrong.
    """
    return [source for name, checksum in _entries(corpus) for source in _resolve(name, checksum)]


def _entries(corpus: recipe.Corpus) -> Iterator[tuple[str, str]]:
    """For each source, yield its name and its checksum in lower case. Without a checksum, yield "" instead."""
    sums = corpus.sha256 or ("",) * len(corpus.source)
    return ((name, checksum.lower()) for name, checksum in zip(corpus.source, sums, strict=True))


def left_out(names: Sequence[str]) -> list[LeftOut]:
    """Return the files and folders that ``resolve`` skips in the given sources, with the reason for each.

    Args:
        names: names of sources. Only folders and globs can have skipped files.
    """
    local = [name for name in names if name and _is_local(name) and "\0" not in name]
    plain = [name for name in local if not spooling.is_read_once(name)]
    texts = [name for name in plain if not (Path(filenames.native(name)) / MANIFEST).is_file()]
    return [entry for name in texts for entry in _expand_anywhere(name).left_out]


def spool(corpus: recipe.Corpus) -> recipe.Corpus:
    """Copy pipes and standard input to files in the cache folder, and return the corpus with these files as sources.

    The copies are necessary because a pipe can be read only once, but resuming or evaluating a run reads the
    corpus again.
    """
    source, validation = (
        tuple(str(spooling.spool(name)) if spooling.is_read_once(name) else name for name in names)
        for names in (corpus.source, corpus.validation)
    )
    return replace(corpus, source=source, validation=validation)


def with_absolute_paths(corpus: recipe.Corpus) -> recipe.Corpus:
    """Return the corpus with absolute paths for local files, so that these paths are valid in any working directory.

    If a file does not exist under its name, the name is not changed, because the file may be in the data folder.
    """
    source, validation = (tuple(map(_absolute, names)) for names in (corpus.source, corpus.validation))
    return replace(corpus, source=source, validation=validation)


def _absolute(name: str) -> str:
    """Return the absolute path of a local source, or the name itself for any other source."""
    if not _is_local(name):
        return name
    path = Path(os.path.expanduser(filenames.native(name)))
    if path.exists():
        return filenames.stored(filenames.of_argument(str(path.absolute())))
    if path.is_absolute() or not glob.glob(str(path), recursive=True):
        return filenames.stored(name)
    return filenames.stored(filenames.of_argument(str(Path(glob.escape(os.getcwd())) / path)))


def _is_local(name: str) -> bool:
    """Return whether the name of a source is a path or a glob on this machine."""
    return name not in ("pydoc", "-") and (name.startswith(filenames.SCHEME) or "://" not in name)


def is_available(corpus: recipe.Corpus) -> bool:
    """Return whether all texts of a corpus can be read without a download, a remote file system or standard input.

    The result is False for a prepared corpus, because it contains ids and no text.
    """
    return all(_is_available(name, checksum) for name, checksum in _entries(corpus))


def _is_available(name: str, checksum: str) -> bool:
    """Return whether a source can be read without a download, a remote file system or standard input."""
    if downloads.is_url(name):
        return downloads.local_copy(name, checksum) is not None
    if spooling.is_read_once(name) or remote.is_address(name):
        return False
    try:
        return bool(_resolve(name, checksum))
    except UserError:
        return False


def _resolve(name: str, checksum: str) -> list[Source]:
    """Return the texts of a source after verifying its checksum."""
    if not name:
        raise UserError("corpus.source: a source has an empty name; give a file, a folder or '.' for this folder")
    if "\0" in name:
        raise UserError(f"{name}: a name of a file or URL cannot contain a NUL; correct corpus.source")
    if name == "pydoc":
        return [Source(name, None)]
    sources = _files(name, checksum)
    if checksum:
        _verify(sources, name, checksum)
    return sources


def _files(name: str, checksum: str) -> list[Source]:
    """Return the texts of a source that is not ``pydoc``."""
    if spooling.is_read_once(name):
        return [Source("standard input" if name == "-" else name, spooling.spool(name))]
    if remote.is_address(name):
        return [Source(address, address) for address in remote.glob(name)]
    if downloads.is_url(name):
        return [Source(name, downloads.fetch(name, checksum))]
    return [Source(str(path), path) for path in _local(name, checksum)]


def _verify(sources: list[Source], name: str, checksum: str) -> None:
    """Raise UserError unless a source consists of a single file with the given checksum."""
    if len(sources) != 1:
        raise UserError(
            f"{name}: corpus.sha256 needs a single file, but this source has {len(sources)}; give '' as its checksum"
        )
    path = sources[0].path
    if path is None:
        return
    actual = remote.sha256(path) if isinstance(path, str) else checksums.sha256(path)
    if actual != checksum:
        raise UserError(f"{sources[0].name}: its sha256 is {actual}, not {checksum}; correct corpus.sha256 or the file")


def _local(name: str, checksum: str) -> Sequence[Path]:
    """Return the files of a path, glob or folder in the working directory or in the data folder.

    If no file matches the whole path, the data folder is searched for a file with this file name or checksum.

    Raises:
        UserError: if no file matches, or if several files in the data folder match.
    """
    if files := _expand_anywhere(name).files:
        return files
    files = data_folder.find(Path(filenames.native(name)).name, checksum)
    if len(files) > 1 and not checksum:
        shown = ", ".join(str(path) for path in files[:3])
        raise UserError(
            f"{name}: {len(files)} files have this name ({shown}); give more of the path, or set corpus.sha256"
        )
    if not files:
        hint = "" if set(name) & set("./*?[") else f"; {packaged.listed_recipes()}"
        raise UserError(
            f"{name}: no file, folder or glob match in the working directory or in the folder KERAS_LSTMGEN_DATA{hint}"
        )
    return files[:1]


def _expand_anywhere(name: str) -> Match:
    """Find the files of a path, glob or folder in the working directory. If no file matches, use the data folder."""
    path = filenames.native(name)
    match = _expand(Path(os.path.expanduser(path)))
    folder = data_folder.data_folder()
    return match if match.files or not folder else _expand(folder / path)


def _expand(path: Path) -> Match:
    """Find the files of a folder, a file or a glob."""
    if path.is_dir():
        return _expand_folder(path)
    return Match([path]) if path.exists() else _expand_glob(path)


def _expand_glob(pattern: Path) -> Match:
    """Return the files that match a glob, sorted.

    Files inside a run directory are left out, unless the glob contains the complete path of this directory
    without wildcards.
    """
    literal = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    files: list[Path] = []
    left_out: list[LeftOut] = []
    for path in map(Path, sorted(glob.glob(str(pattern), recursive=True))):
        if run := folders.run_above(path, literal):
            left_out.append(LeftOut("run", run))
        elif path.is_file():
            files.append(path)
        elif not path.is_dir():
            left_out.append(LeftOut("not a plain file", str(path)))
        elif "**" not in pattern.parts:
            left_out.append(LeftOut("folder", f"{path}/"))
    return Match(files, left_out)


def _expand_folder(folder: Path) -> Match:
    """Return the texts in a folder.

    Raises:
        UserError: if the folder contains no text, or is a prepared corpus, a run or an exported artifact.
    """
    _check_holds_texts(folder)
    files, left_out = folders.files_below(folder)
    reasons = {path: _reason_to_skip(path, folder) for path in files}
    texts = [path for path in files if not reasons[path]]
    left_out += [LeftOut(reason, str(path)) for path, reason in reasons.items() if reason]
    if not texts:
        raise UserError(
            f"{folder}: the folder contains no text file; left out: {folders.summary(left_out) or 'nothing'}"
        )
    return Match(texts, left_out)


def _check_holds_texts(folder: Path) -> None:
    """Raise UserError if a folder is a prepared corpus, a run or an exported artifact."""
    kind = folders.why_no_texts(folder)
    if kind == "prepared corpus":
        raise UserError(
            f"{folder}: is a prepared corpus, not text; train on it alone: keras-lstmgen train {shell_quoted(folder)}"
        )
    if kind:
        resume = f"; to continue its training: keras-lstmgen train --resume {shell_quoted(folder)}"
        raise UserError(f"{folder}: is a {kind}, not a folder of texts{resume if kind == 'run' else ''}")


def _reason_to_skip(path: Path, folder: Path) -> str:
    """Return the reason to skip a file of a folder, or "" if the file is a text.

    Files in other formats, such as pictures, are skipped. The decision depends on the first two chunks of the file.

    Raises:
        UserError: if the file is a text that must be converted before it can be read.
    """
    source = Source(str(path), path)
    head = b"".join(itertools.islice(read_bytes(source), 2))
    format_ = formats.recognize(head)
    if format_ and not format_.is_text:
        return format_.name.removeprefix("a ").removeprefix("an ")
    if not format_ and formats.is_binary(head):
        return "binary"
    try:
        return "" if any(list(itertools.islice(read_text(source), 2))) else "empty"
    except UserError as error:
        raise UserError(f"{error}; then move this file out of {folder}, or name the texts one by one") from error
