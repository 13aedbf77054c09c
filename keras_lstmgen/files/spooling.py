"""Copy standard input and pipes to the cache folder, because training reads a text more than once."""

import functools
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from keras_lstmgen.files import filenames
from keras_lstmgen.files.atomic import replacing
from keras_lstmgen.files.checksums import write_chunks
from keras_lstmgen.files.data_folder import cache_folder
from keras_lstmgen.utils.errors import UserError

CHUNK = 1 << 16  # bytes to read at a time
STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
OPEN_FILE = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/(self|\d+)/fd/\d+")


def is_read_once(name: str) -> bool:
    """Return whether a source can be read only once.

    Standard input, named pipes, devices and open files such as ``/dev/fd/63`` can be read only once. For ``<(...)``,
    the shell passes the name of an open file.

    >>> is_read_once("-"), is_read_once("/dev/fd/63")
    (True, True)
    """
    if name == "-" or OPEN_FILE.fullmatch(name):
        return True
    try:
        mode = os.stat(os.path.expanduser(filenames.native(name))).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@functools.cache  # a second call with the same name returns the same file, because the source cannot be read again
def spool(name: str) -> Path:
    """Copy standard input or a pipe to a file in the cache folder, and return the path of the copy.

    Raises:
        UserError: the source is closed, or cannot be opened, or is a device. The data of a device may never end.
    """
    kind = "stdin" if name in STANDARD_INPUT else "pipe"
    path = cache_folder() / f"{os.getpid()}-{kind}"
    with _opened(name) as file, replacing(path) as temporary:
        checksum = write_chunks(iter(lambda: file.read(CHUNK), b""), temporary)
    return path.replace(path.with_name(f"{checksum[:16]}-{kind}"))


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """Open standard input, a pipe or a terminal for reading bytes."""
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
