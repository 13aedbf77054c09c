"""File names as text: typed on a command line, stored in a recipe, and as the system takes them.

A file name is bytes. Its text here is those bytes read as UTF-8, whatever the locale; a byte that is not UTF-8 is a
lone surrogate, as in ``os.fsdecode``. A stored name can be written to any file: where a name is not UTF-8, it is stored
as a ``file:`` URI.
"""

import os
import urllib.parse

SCHEME = "file:"


def of_argument(word: str) -> str:
    """Return the text of a name on the command line, which Python reads by the encoding of the locale."""
    return os.fsencode(word).decode("utf-8", "surrogateescape")


def stored(name: str) -> str:
    """Return a name as a recipe or a report holds it: ``stored("/caf\\udce9.txt")`` is ``"file:///caf%E9.txt"``."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        quoted = urllib.parse.quote_from_bytes(name.encode("utf-8", "surrogateescape"))
        return f"{SCHEME}{'//' if quoted.startswith('/') else ''}{quoted}"
    return name


def native(name: str) -> str:
    """Return the path that a name stands for, stored or not, as Python's functions for files take it."""
    if name.startswith(SCHEME):
        return os.fsdecode(urllib.parse.unquote_to_bytes(name.removeprefix(SCHEME).removeprefix("//")))
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))
