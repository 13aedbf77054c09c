"""What is told to the person at the keyboard when something they gave cannot be used."""

import os
import re
import shlex
from collections.abc import Sized
from pathlib import Path


class UserError(Exception):
    """One clear line: what is wrong, where (file, line, byte, key) and what to do. Exit status 2."""


def check_at_least(name: str, value: float, low: int) -> None:
    """Raise a UserError that names the argument or option, if the value is below ``low`` or NaN."""
    if not value >= low:
        raise UserError(f"{name}: {value} is out of range; give {low} or more")


def check_not_empty(name: str, values: Sized) -> None:
    """Raise a UserError that names the argument, if it holds nothing."""
    if not len(values):
        raise UserError(f"{name}: is empty; give at least one")


def readable(text: str) -> str:
    """Return a text in which the bytes of file names can be printed: as UTF-8 if they are that, else as in ``\\xe9``.

    Python holds what it cannot decode in lone surrogates, which no stream takes. ``readable("caf\\udce9.txt")`` is
    ``"caf\\\\xe9.txt"``.
    """
    return re.sub("[\udc80-\udcff]+", lambda found: _decoded(found[0]), text)


def _decoded(surrogates: str) -> str:
    return surrogates.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    """Return the text with an escape in place of each character that a terminal would obey or cannot show.

    ``visible("a\\nb\\x1b[2J")`` is ``"a\\\\nb\\\\x1b[2J"``: what a file is called or says cannot act on a screen.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in readable(text))


def shell_quoted(word: str | Path) -> str:
    """Quote a word of a command for the shell, so that the user can type what a message prints.

    A path gets a slash: without one it would be the name of a run. ``shell_quoted(Path("my run"))`` is ``"'./my run'"``.
    What is not printable, a byte that is not UTF-8 say, is written as in ``$'caf\\351'``.
    """
    text = str(word)
    if isinstance(word, Path) and os.sep not in text:
        text = f".{os.sep}{text}"
    return shlex.quote(text) if text.isprintable() else f"$'{''.join(map(_escaped, text))}'"


def _escaped(letter: str) -> str:
    """Return a character as it stands between ``$'`` and ``'``."""
    if letter.isprintable():
        return f"\\{letter}" if letter in "'\\" else letter
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(letter))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class where the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class Terminated(BaseException):
    """SIGTERM asked to end; what there was to save is saved. The message, if any, says how to go on. Status 143."""


class ReaderLeft(BaseException):
    """The reader of standard output has closed the pipe. The command ends with status 0."""
