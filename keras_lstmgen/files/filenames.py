"""Convert file names between the command line, recipes and the operating system.

A file name is a sequence of bytes. This package decodes file names as UTF-8 in every locale. A byte that is not UTF-8
becomes a surrogate, as in ``os.fsdecode``. Recipes and reports cannot contain surrogates, so they store a name with
surrogates as a ``file:`` URI.
"""

import os
import urllib.parse

SCHEME = "file:"


def of_argument(word: str) -> str:
    """Decode a command line argument as UTF-8, even if Python has decoded it with another encoding of the locale."""
    return os.fsencode(word).decode("utf-8", "surrogateescape")


def stored(name: str) -> str:
    r"""Return the form in which recipes and reports store a file name.

    The result is the name itself, or a ``file:`` URI if the name contains surrogates.

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
    """Convert a stored file name to a path that Python's file functions accept.

    Args:
        name: a file name or a ``file:`` URI.

    >>> native("file:///tmp/a%20b.txt")
    '/tmp/a b.txt'
    """
    if name.startswith(SCHEME):
        return os.fsdecode(urllib.parse.unquote_to_bytes(name.removeprefix(SCHEME).removeprefix("//")))
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))
