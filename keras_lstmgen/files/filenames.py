"""Convert file names between the command line, recipes and the operating system.

A file name is a sequence of bytes. Its text is the bytes decoded as UTF-8, whatever the locale. A byte that is not
UTF-8 becomes a lone surrogate, as in ``os.fsdecode``. Recipes and reports cannot contain surrogates, so they store such
a name as a ``file:`` URI.
"""

import os
import urllib.parse

SCHEME = "file:"


def of_argument(word: str) -> str:
    """Return the text of a command line argument, which Python decodes with the encoding of the locale."""
    return os.fsencode(word).decode("utf-8", "surrogateescape")


def stored(name: str) -> str:
    r"""Return a file name as recipes and reports store it.

    >>> stored("/caf\udce9.txt"), stored("/café.txt")
    ('file:///caf%E9.txt', '/café.txt')
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        quoted = urllib.parse.quote_from_bytes(name.encode("utf-8", "surrogateescape"))
        return f"{SCHEME}{'//' if quoted.startswith('/') else ''}{quoted}"
    return name


def native(name: str) -> str:
    """Return the path of a file name for Python's file functions; ``name`` may be a ``file:`` URI.

    >>> native("file:///tmp/a%20b.txt")
    '/tmp/a b.txt'
    """
    if name.startswith(SCHEME):
        return os.fsdecode(urllib.parse.unquote_to_bytes(name.removeprefix(SCHEME).removeprefix("//")))
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))
