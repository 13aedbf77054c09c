"""Resolve the sources of a recipe: files, globs, folders, downloads, addresses, pipes, standard input and ``pydoc``.

Files that do not exist under the given name are searched in the folder that the environment variable
``KERAS_LSTMGEN_DATA`` names, by path, file name and checksum.
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
from keras_lstmgen.files import checksums, data_folder, downloads, filenames, folders, formats, remote, spooling
from keras_lstmgen.files.folders import MANIFEST, LeftOut
from keras_lstmgen.utils.errors import UserError, shell_quoted


class Match(NamedTuple):
    """The files that a name stands for, and the files and folders that are left out."""

    files: Sequence[Path]
    left_out: Sequence[LeftOut] = ()


def resolve(corpus: recipe.Corpus) -> list[Source]:
    """Return the texts of ``corpus.source`` in their order; download missing files and verify all checksums.

    Args:
        corpus: the table ``corpus`` of a recipe.

    Raises:
        UserError: a source does not exist, a folder has no text or an unreadable one, or a checksum is wrong.
    """
    return [source for name, checksum in _entries(corpus) for source in _resolve(name, checksum)]


def _entries(corpus: recipe.Corpus) -> Iterator[tuple[str, str]]:
    """Yield each source with its checksum in lower case, "" if it has none."""
    sums = corpus.sha256 or ("",) * len(corpus.source)
    return ((name, checksum.lower()) for name, checksum in zip(corpus.source, sums, strict=True))


def left_out(names: Sequence[str]) -> list[LeftOut]:
    """Return the files and folders that ``resolve`` does not read of these folders and globs, with the reasons."""
    local = [name for name in names if name and _is_local(name) and "\0" not in name]
    plain = [name for name in local if not spooling.is_read_once(name)]
    texts = [name for name in plain if not (Path(filenames.native(name)) / MANIFEST).is_file()]
    return [entry for name in texts for entry in _expand_anywhere(name).left_out]


def spool(corpus: recipe.Corpus) -> recipe.Corpus:
    """Replace pipes and standard input by copies in the cache folder, so that a run can be resumed and evaluated."""
    source, validation = (
        tuple(str(spooling.spool(name)) if spooling.is_read_once(name) else name for name in names)
        for names in (corpus.source, corpus.validation)
    )
    return replace(corpus, source=source, validation=validation)


def with_absolute_paths(corpus: recipe.Corpus) -> recipe.Corpus:
    """Replace the names of local files by absolute paths, which are valid in any working directory.

    A file that does not exist here keeps its name: it may be in the folder of ``KERAS_LSTMGEN_DATA``.
    """
    source, validation = (tuple(map(_absolute, names)) for names in (corpus.source, corpus.validation))
    return replace(corpus, source=source, validation=validation)


def _absolute(name: str) -> str:
    if not _is_local(name):
        return name
    path = Path(os.path.expanduser(filenames.native(name)))
    if path.exists():
        return filenames.stored(filenames.of_argument(str(path.absolute())))
    if path.is_absolute() or not glob.glob(str(path), recursive=True):
        return filenames.stored(name)
    return filenames.stored(filenames.of_argument(str(Path(glob.escape(os.getcwd())) / path)))


def _is_local(name: str) -> bool:
    """Return whether a source is a name of files on this machine."""
    return name not in ("pydoc", "-") and (name.startswith(filenames.SCHEME) or "://" not in name)


def is_available(corpus: recipe.Corpus) -> bool:
    """Return whether all texts can be read now, without a download, a remote file system or standard input.

    A prepared corpus is not a text.
    """
    return all(_is_available(name, checksum) for name, checksum in _entries(corpus))


def _is_available(name: str, checksum: str) -> bool:
    if downloads.is_url(name):
        return downloads.local_copy(name, checksum) is not None
    if spooling.is_read_once(name) or remote.is_address(name):
        return False
    try:
        return bool(_resolve(name, checksum))
    except UserError:
        return False


def _resolve(name: str, checksum: str) -> list[Source]:
    if not name:
        raise UserError("corpus.source: a source has an empty name; give a file, a folder or '.' for this folder")
    if "\0" in name:
        raise UserError(f"{name}: no file or URL has a NUL in its name; correct corpus.source")
    if name == "pydoc":
        return [Source(name, None)]
    sources = _files(name, checksum)
    if checksum:
        _verify(sources, name, checksum)
    return sources


def _files(name: str, checksum: str) -> list[Source]:
    """Return the sources of a name that is not ``pydoc``."""
    if spooling.is_read_once(name):
        return [Source("standard input" if name == "-" else name, spooling.spool(name))]
    if remote.is_address(name):
        return [Source(address, address) for address in remote.glob(name)]
    if downloads.is_url(name):
        return [Source(name, downloads.fetch(name, checksum))]
    return [Source(str(path), path) for path in _local(name, checksum)]


def _verify(sources: list[Source], name: str, checksum: str) -> None:
    """Raise UserError if the sources are not one file with this checksum."""
    if len(sources) != 1:
        raise UserError(f"{name}: corpus.sha256 is for single files, and this is {len(sources)}; give '' for it")
    path = sources[0].path
    if path is None:
        return
    actual = remote.sha256(path) if isinstance(path, str) else checksums.sha256(path)
    if actual != checksum:
        raise UserError(f"{sources[0].name}: its sha256 is {actual}, not {checksum}; correct corpus.sha256 or the file")


def _local(name: str, checksum: str) -> Sequence[Path]:
    """Return the files of a path, glob or folder, here or in the folder of ``KERAS_LSTMGEN_DATA``."""
    if files := _expand_anywhere(name).files:
        return files
    files = data_folder.find(Path(filenames.native(name)).name, checksum)
    if len(files) > 1 and not checksum:
        shown = ", ".join(str(path) for path in files[:3])
        raise UserError(f"{name}: {len(files)} files have this name ({shown}); give more of the path or a sha256")
    if not files:
        raise UserError(f"{name}: no file, folder or glob match here, nor in the folder KERAS_LSTMGEN_DATA names")
    return files[:1]


def _expand_anywhere(name: str) -> Match:
    """Expand a path, glob or folder here or, if nothing matches, in the folder of ``KERAS_LSTMGEN_DATA``."""
    path = filenames.native(name)
    match = _expand(Path(os.path.expanduser(path)))
    folder = data_folder.data_folder()
    return match if match.files or not folder else _expand(folder / path)


def _expand(path: Path) -> Match:
    if path.is_dir():
        return _expand_folder(path)
    return Match([path]) if path.exists() else _expand_glob(path)


def _expand_glob(pattern: Path) -> Match:
    """Return the files that match a glob, sorted; files of a run only if the glob begins inside the run."""
    literal = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    files: list[Path] = []
    left_out: list[LeftOut] = []
    for path in map(Path, sorted(glob.glob(str(pattern), recursive=True))):
        if run := folders.run_above(path, literal):
            left_out.append(LeftOut("run", run))
        elif path.is_file():
            files.append(path)
        elif not path.is_dir():
            left_out.append(LeftOut("no plain file", str(path)))
        elif "**" not in pattern.parts:
            left_out.append(LeftOut("folder", f"{path}/"))
    return Match(files, left_out)


def _expand_folder(folder: Path) -> Match:
    """Return the texts of a folder; raise UserError if it has none, or is a run or an artifact."""
    _check_holds_texts(folder)
    files, left_out = folders.files_below(folder)
    reasons = {path: _reason_to_skip(path, folder) for path in files}
    texts = [path for path in files if not reasons[path]]
    left_out += [LeftOut(reason, str(path)) for path, reason in reasons.items() if reason]
    if not texts:
        raise UserError(f"{folder}: a folder without a text file; left out: {folders.summary(left_out) or 'nothing'}")
    return Match(texts, left_out)


def _check_holds_texts(folder: Path) -> None:
    kind = folders.why_no_texts(folder)
    if kind == "prepared corpus":
        raise UserError(
            f"{folder}: is a prepared corpus, not text; train on it alone: keras-lstmgen train {shell_quoted(folder)}"
        )
    if kind:
        resume = f"; to continue its training: keras-lstmgen train --resume {shell_quoted(folder)}"
        raise UserError(f"{folder}: is a {kind}, not a folder of texts{resume if kind == 'run' else ''}")


def _reason_to_skip(path: Path, folder: Path) -> str:
    """Return why a file of a folder is left out, or "" if it is a text; only its first chunks are read.

    Files of other formats, such as pictures, are left out. A text that must be converted first raises UserError.
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
