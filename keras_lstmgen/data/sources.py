"""Where text comes from: files, globs, folders, downloads, pipes, standard input, and the built-in ``pydoc``.

``resolve`` turns what a recipe names into a list of files, ``left_out`` says what it does not read of folders, and
``read_text`` reads a file, always in pieces.
The environment variable ``KERAS_LSTMGEN_DATA`` names a folder in which whatever is not found as given is
looked for, by file name and checksum, before anything is downloaded.
"""

import codecs
import functools
import glob
import gzip
import hashlib
import http.client
import io
import itertools
import os
import re
import stat
import sys
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from keras_lstmgen.config import recipe
from keras_lstmgen.files import filenames, folders, formats, remote
from keras_lstmgen.files.atomic import replacing
from keras_lstmgen.files.folders import MANIFEST, LeftOut
from keras_lstmgen.utils.errors import UserError, shell_quoted

PIECE = 1 << 16  # bytes read at a time
STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
OPEN_FILE = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/(self|\d+)/fd/\d+")


@dataclass(frozen=True)
class Source:
    """One readable text: its name for messages, its file, and which bytes of that.

    ``path`` is None for Python's own ``pydoc``, and an address such as ``gs://bucket/text.txt`` for what Beam reads.
    """

    name: str
    path: Path | str | None
    start: int = 0
    end: int | None = None  # None: the rest


class Found(NamedTuple):
    """The files that a name stands for, and what is left out of them."""

    files: Sequence[Path]
    left_out: Sequence[LeftOut] = ()


def resolve(corpus: recipe.Corpus) -> list[Source]:
    """Find the texts of ``corpus.source`` in their order; download what is not here yet, check every sha256.

    Raises UserError for what cannot be found, for a folder without text, for a text of a folder that cannot be read as
    it is, and for a wrong checksum.
    """
    checksums = corpus.sha256 or ("",) * len(corpus.source)
    pairs = zip(corpus.source, checksums, strict=True)
    return [source for entry, checksum in pairs for source in _resolve(entry, checksum.lower())]


def left_out(names: Sequence[str]) -> list[LeftOut]:
    """Return what ``resolve`` does not read of the folders and globs among these names of sources, and why."""
    local = [name for name in names if name and _is_local(name) and "\0" not in name and not is_read_once(name)]
    folders = [name for name in local if not (Path(filenames.native(name)) / MANIFEST).is_file()]
    return [one for name in folders for one in _expanded_anywhere(name).left_out]


def spooled(corpus: recipe.Corpus) -> recipe.Corpus:
    """Replace what can be read only once by the file that it is kept in, so that a run can be resumed and evaluated."""
    source, validation = (
        tuple(str(_spooled(name)) if is_read_once(name) else name for name in names)
        for names in (corpus.source, corpus.validation)
    )
    return replace(corpus, source=source, validation=validation)


def is_read_once(name: str) -> bool:
    """Return whether a source can be read only once: standard input, a pipe, or an open file such as ``<(…)`` gives."""
    if name == "-" or OPEN_FILE.fullmatch(name):
        return True
    try:
        mode = os.stat(os.path.expanduser(filenames.native(name))).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def with_absolute_paths(corpus: recipe.Corpus) -> recipe.Corpus:
    """Name the local files of a corpus by their absolute paths, which hold in any working directory.

    What is not here, but perhaps in the folder of ``KERAS_LSTMGEN_DATA``, keeps its name.
    """
    source, validation = (tuple(map(_absolute, entries)) for entries in (corpus.source, corpus.validation))
    return replace(corpus, source=source, validation=validation)


def _absolute(entry: str) -> str:
    if not _is_local(entry):
        return entry
    path = Path(os.path.expanduser(filenames.native(entry)))
    if path.exists():
        return filenames.stored(filenames.of_argument(str(path.absolute())))
    if path.is_absolute() or not glob.glob(str(path), recursive=True):
        return filenames.stored(entry)
    return filenames.stored(filenames.of_argument(str(Path(glob.escape(os.getcwd())) / path)))


def _is_local(entry: str) -> bool:
    """Return whether an entry is the name of files on this machine."""
    return entry not in ("pydoc", "-") and (entry.startswith(filenames.SCHEME) or "://" not in entry)


def is_available(corpus: recipe.Corpus) -> bool:
    """Whether all texts of ``corpus.source`` can be read here and now: nothing downloaded, no standard input.

    A folder of shards is no text.
    """
    checksums = corpus.sha256 or ("",) * len(corpus.source)
    return all(_is_available(*entry) for entry in zip(corpus.source, checksums, strict=True))


def _is_available(entry: str, checksum: str) -> bool:
    if entry.startswith(("http://", "https://")):
        return _kept(entry, checksum.lower()) is not None
    try:
        return not is_read_once(entry) and not remote.is_address(entry) and bool(_resolve(entry, checksum.lower()))
    except UserError:
        return False


def read_text(source: Source) -> Iterator[str]:
    """Yield a text in pieces of about 64k characters, none of them empty, without a byte order mark at its start.

    Raises UserError naming the file, and how to convert it, where it is of another format or has lines that end with
    "\\r"; naming the byte (from 0) where it is not UTF-8 or has a NUL, as binary files do.
    """
    pieces = _decoded(source)
    if source.start == 0:
        first = next(pieces, "").removeprefix("\ufeff")
        if formats.has_old_lines(first):
            raise _of_another_format(source, formats.OLD_LINES)
        pieces = itertools.chain([first] if first else [], pieces)
    yield from pieces


def _of_another_format(source: Source, found: formats.Format) -> UserError:
    advice = f"convert it: {_command(source, found.command)}" if found.command else "give text in UTF-8"
    return UserError(f"{source.name}: is {found.name}, not text in UTF-8; {advice}")


def _command(source: Source, command: str) -> str:
    return formats.filled(command, source.path, _is_packed(source))


def _decoded(source: Source) -> Iterator[str]:
    """Yield the text in pieces, none of them empty."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = source.start
    for chunk in itertools.chain(read_bytes(source), [b""]):
        if read == 0 and (found := formats.recognized(chunk)):
            raise _of_another_format(source, found)
        if b"\0" in chunk:
            raise UserError(f"{source.name}: binary file (NUL at byte {read + chunk.index(0)}); give text in UTF-8")
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            byte = read - waiting + error.start
            command = _command(source, formats.WINDOWS)
            raise UserError(
                f"{source.name}: not UTF-8 at byte {byte}; convert it with iconv, from Windows's encoding: {command}"
            ) from error
        if text:
            yield text
        read += len(chunk)


def read_bytes(source: Source) -> Iterator[bytes]:
    """Yield what a text consists of, unpacked, in pieces of 64 KiB."""
    left = sys.maxsize if source.end is None else source.end - source.start
    try:
        with _open(source) as file:
            if source.start:
                file.seek(source.start)
            while chunk := file.read(min(PIECE, left)):
                left -= len(chunk)
                yield chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{source.name}: not a whole .gz file ({error}); fetch or pack it again") from error
    except OSError as error:
        raise UserError(f"{source.name}: cannot be read ({error.strerror or error})") from error


def parts(source: Source, size: int, mark: bytes) -> Iterator[Source]:
    """Cut a file behind a mark, a newline say, into parts of ``size`` bytes and what is left to the next mark.

    A file that is packed, empty or ``pydoc`` is one part, whatever its size.
    """
    whole = size_of(source)
    if source.path is None or _is_packed(source) or not whole:
        yield source
        return
    with _opened(source.path) as file:
        end = 0
        while end < whole:
            start, end = end, _behind(mark, file, end + size)
            yield replace(source, start=start, end=end)


def size_of(source: Source) -> int:
    """How many bytes a file, or this part of it, has as it lies; 0 for ``pydoc``."""
    if source.end is not None:
        return source.end - source.start
    return (
        remote.size(source.path) if isinstance(source.path, str) else source.path.stat().st_size if source.path else 0
    )


def _behind(mark: bytes, file: BinaryIO, place: int) -> int:
    """The first byte at ``place`` or later that stands behind a mark; the end of the file, if there is none."""
    place = file.seek(max(place - len(mark), 0))
    seen = b""
    for chunk in iter(lambda: file.read(PIECE), b""):
        seen = seen[-len(mark) :] + chunk  # a mark may begin in the chunk before
        place += len(chunk)
        if (found := seen.find(mark)) >= 0:
            return place - len(seen) + found + len(mark)
    return min(place, file.seek(0, os.SEEK_END))


def lines_before(source: Source) -> int:
    """How many lines of the file end before a part begins."""
    return sum(chunk.count(b"\n") for chunk in read_bytes(replace(source, start=0, end=source.start)))


def cache_folder() -> Path:
    """The folder for what was downloaded or came from standard input."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras_lstmgen"


@contextmanager
def _open(source: Source) -> Iterator[BinaryIO]:
    """What a text is read from, unpacked."""
    if source.path is None:
        yield io.BytesIO(_pydoc())
        return
    with _opened(source.path) as file:
        is_packed = _begins_packed(file)
        yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_packed else file


def _opened(path: Path | str) -> BinaryIO:
    return remote.opened(path) if isinstance(path, str) else path.open("rb")


def _is_packed(source: Source) -> bool:
    """Return whether a file is packed by gzip, whatever its name."""
    if source.path is None:
        return False
    with _opened(source.path) as file:
        return _begins_packed(file)


def _begins_packed(file: BinaryIO) -> bool:
    head = file.read(len(formats.GZIP))
    file.seek(0)
    return head == formats.GZIP


def _pydoc() -> bytes:
    """The language reference that every CPython carries, topic after topic."""
    from pydoc_data.topics import topics  # half a megabyte that other sources need not load

    return "\n".join(topics[name] for name in sorted(topics)).encode()


def _resolve(entry: str, checksum: str) -> list[Source]:
    if not entry:
        raise UserError("corpus.source: a source has an empty name; give a file, a folder or '.' for this folder")
    if "\0" in entry:
        raise UserError(f"{entry}: no file or URL has a NUL in its name; correct corpus.source")
    if entry == "pydoc":
        return [Source(entry, None)]
    if is_read_once(entry):
        sources = [Source("standard input" if entry == "-" else entry, _spooled(entry))]
    elif remote.is_address(entry):
        sources = [Source(address, address) for address in remote.matches(entry)]
    elif entry.startswith(("http://", "https://")):
        sources = [Source(entry, _fetched(entry, checksum))]
    else:
        sources = [Source(str(path), path) for path in _local(entry, checksum)]
    if checksum:
        _check_sum(sources, entry, checksum)
    return sources


def _check_sum(sources: list[Source], entry: str, checksum: str) -> None:
    if len(sources) != 1:
        raise UserError(f"{entry}: corpus.sha256 is for single files, and this is {len(sources)}; give '' for it")
    path = sources[0].path
    if path and (found := _sha256_of_address(path) if isinstance(path, str) else _sha256(path)) != checksum:
        raise UserError(f"{sources[0].name}: its sha256 is {found}, not {checksum}; correct corpus.sha256 or the file")


def _local(entry: str, checksum: str) -> Sequence[Path]:
    """The files that a path, glob or folder stands for, here or else in ``KERAS_LSTMGEN_DATA``."""
    if found := _expanded_anywhere(entry).files:
        return found
    found = _on_shelf(Path(filenames.native(entry)).name, checksum)
    if len(found) > 1 and not checksum:
        shown = ", ".join(str(path) for path in found[:3])
        raise UserError(f"{entry}: {len(found)} files bear this name ({shown}); give more of the path or a sha256")
    if not found:
        raise UserError(f"{entry}: no file, folder or glob match here, nor in the folder KERAS_LSTMGEN_DATA names")
    return found[:1]


def _expanded_anywhere(entry: str) -> Found:
    """Return the files that a path, glob or folder stands for, here or else below ``KERAS_LSTMGEN_DATA``."""
    name = filenames.native(entry)
    here = _expanded(Path(os.path.expanduser(name)))
    folder = os.environ.get("KERAS_LSTMGEN_DATA")
    return here if here.files or not folder else _expanded(Path(folder) / name)


def _expanded(path: Path) -> Found:
    if path.is_dir():
        return _texts_below(path)
    return Found([path]) if path.exists() else _matching(path)


def _matching(pattern: Path) -> Found:
    """Return the files that match a glob, sorted; those of runs only if the glob itself begins in the run."""
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
    return Found(files, left_out)


def _on_shelf(name: str, checksum: str) -> list[Path]:
    """Files of ``KERAS_LSTMGEN_DATA`` with this name; with a checksum, the one that has it goes first."""
    folder = os.environ.get("KERAS_LSTMGEN_DATA")
    files = folders.files_below(Path(folder))[0] if folder else []
    named = [path for path in files if path.name == name]
    right = (path for path in named + files if checksum and _sha256(path) == checksum)
    return [*itertools.islice(right, 1), *named]


def _texts_below(folder: Path) -> Found:
    """Return the texts of a folder. UserError for one that holds none, or something else than texts."""
    if (what := folders.why_no_texts(folder)) == "prepared corpus":
        raise UserError(
            f"{folder}: is a prepared corpus, not text; train on it alone: keras-lstmgen train {shell_quoted(folder)}"
        )
    if what:
        resume = f"; to continue its training: keras-lstmgen train --resume {shell_quoted(folder)}"
        raise UserError(f"{folder}: is a {what}, not a folder of texts{resume if what == 'run' else ''}")
    files, left_out = folders.files_below(folder)
    reasons = {path: _why_no_text(path, folder) for path in files}
    texts = [path for path in files if not reasons[path]]
    left_out += [LeftOut(why, str(path)) for path, why in reasons.items() if why]
    if not texts:
        raise UserError(f"{folder}: a folder without a text file; left out: {folders.summary(left_out) or 'nothing'}")
    return Found(texts, left_out)


def _why_no_text(path: Path, folder: Path) -> str:
    """Return why a file of a folder is left out, "" if it is text; by its first pieces.

    A picture among the texts is not an error. UserError for a text that cannot be read as it is.
    """
    source = Source(str(path), path)
    head = b"".join(itertools.islice(read_bytes(source), 2))
    found = formats.recognized(head)
    if (found and not found.is_text) or (not found and formats.is_binary(head)):
        return found.name.removeprefix("a ").removeprefix("an ") if found else "binary"
    try:
        return "" if any(list(itertools.islice(read_text(source), 2))) else "empty"
    except UserError as error:
        raise UserError(f"{error}; then move this file out of {folder}, or name the texts one by one") from error


def _fetched(url: str, checksum: str) -> Path:
    """The file of a URL: from ``KERAS_LSTMGEN_DATA``, from the cache folder, or downloaded into that."""
    if not re.fullmatch("[0-9a-f]{64}", checksum):  # it names the file in the cache folder too
        raise UserError(
            f"{url}: a download needs its checksum in corpus.sha256; print it with: curl -L {url} | sha256sum"
        )
    if kept := _kept(url, checksum):
        return kept
    path = cache_folder() / f"{checksum[:16]}-{_file_name(url)}"
    _download(url, checksum, path)
    return path


def _kept(url: str, checksum: str) -> Path | None:
    """The file of a URL, if it is here."""
    name = _file_name(url)
    found = [*_on_shelf(name, checksum), cache_folder() / f"{checksum[:16]}-{name}"]
    return next((path for path in found if path.is_file() and _sha256(path) == checksum), None)


def _file_name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2] or "download"


def _download(url: str, checksum: str, kept: Path) -> None:
    with replacing(kept) as temporary:
        found = _write(_downloaded(url), temporary)
        if found != checksum:
            raise UserError(
                f"{url}: what came has the sha256 {found}, not {checksum}; correct corpus.sha256 or the URL"
            )


def _downloaded(url: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            while chunk := answer.read(PIECE):
                yield chunk
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"{url}: cannot be downloaded ({error}); check the address and the network") from error


@functools.cache  # it can be read only once, and a text is read several times
def _spooled(name: str) -> Path:
    """Return the file in the cache folder that standard input or a pipe is kept in."""
    kind = "stdin" if name in STANDARD_INPUT else "pipe"
    spool = cache_folder() / f"{os.getpid()}-{kind}"
    with _opened_once(name) as file, replacing(spool) as temporary:
        checksum = _write(iter(lambda: file.read(PIECE), b""), temporary)
    return spool.replace(spool.with_name(f"{checksum[:16]}-{kind}"))


@contextmanager
def _opened_once(name: str) -> Iterator[BinaryIO]:
    """Yield what can be read only once; UserError for what is not open, and for a device, which may never end."""
    if name in STANDARD_INPUT:
        if sys.stdin is None:
            raise UserError(f"{name}: standard input is closed; name a file")
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).expanduser().open("rb")
    except OSError as error:
        raise UserError(f"{name}: cannot be opened here ({error.strerror}); name a file") from error
    with file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not file.isatty()):
            raise UserError(f"{name}: is a device, not a text; name a file")
        yield file


def _write(chunks: Iterator[bytes], path: Path) -> str:
    """Write the chunks to a file and return their sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _sha256_of_address(address: str) -> str:
    with remote.opened(address) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _sha256(path: Path) -> str:
    try:
        about = path.stat()
        return _sha256_of(path, about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


@functools.lru_cache(maxsize=1024)
def _sha256_of(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 a file that changed is hashed again
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
