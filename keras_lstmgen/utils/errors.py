"""Errors that a user can correct, checks that raise them, and text for messages."""

import os
import re
import shlex
from collections.abc import Sized
from pathlib import Path


class UserError(Exception):
    """Invalid input. The message is one line: what is wrong, where (file, line, byte, key) and what to do.

    The command line prints it and exits with status 2.
    """


class Terminated(BaseException):
    """SIGTERM ended the work after its state was saved. The message says how to continue; the exit status is 143."""


class ReaderLeft(BaseException):
    """The reader of standard output has closed the pipe; the command ends with status 0."""


def check_at_least(name: str, value: float, minimum: int) -> None:
    """Raise UserError if a value is NaN or below a minimum.

    Args:
        name: argument or option, for the message.
        value: the value to check.
        minimum: smallest valid value.

    >>> check_at_least("--beams", 0, 1)
    Traceback (most recent call last):
    keras_lstmgen.utils.errors.UserError: --beams: 0 is out of range; give 1 or more
    """
    if not value >= minimum:
        raise UserError(f"{name}: {value} is out of range; give {minimum} or more")


def check_not_empty(name: str, values: Sized) -> None:
    """Raise UserError if ``values`` is empty.

    Args:
        name: argument, for the message.
        values: the collection to check.
    """
    if not len(values):
        raise UserError(f"{name}: is empty; give at least one")


def readable(text: str) -> str:
    r"""Replace surrogates, with which Python represents undecodable bytes of file names, so that text can be printed.

    Bytes that are UTF-8 become their characters. Other bytes become escapes.

    >>> print(readable("caf\udce9.txt"))
    caf\xe9.txt
    """
    return re.sub("[\udc80-\udcff]+", lambda match: _decoded(match[0]), text)


def _decoded(surrogates: str) -> str:
    return surrogates.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    r"""Replace control characters by escapes, so that file names and messages cannot control a terminal.

    >>> print(visible("a\nb\x1b[2J"))
    a\nb\x1b[2J
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in readable(text))


def shell_quoted(word: str | Path) -> str:
    r"""Quote a word for the shell, so that users can copy commands from messages.

    Args:
        word: a string, or a path. A relative path of one name gets ``./``: without it, it would be the name of a run.

    >>> print(shell_quoted(Path("my run")), shell_quoted("my run"))
    './my run' 'my run'

    Characters that are not printable are escaped in octal:

    >>> print(shell_quoted("caf\udce9"))
    $'caf\351'
    """
    text = str(word)
    if isinstance(word, Path) and "/" not in text:
        text = f"./{text}"
    return shlex.quote(text) if text.isprintable() else f"$'{''.join(map(_escaped, text))}'"


def _escaped(letter: str) -> str:
    """Return a character as it is written between ``$'`` and ``'``."""
    if letter.isprintable():
        return f"\\{letter}" if letter in "'\\" else letter
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(letter))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty.

    >>> first_line(ValueError("not a number\\nsecond line")), first_line(KeyboardInterrupt())
    ('not a number', 'KeyboardInterrupt')
    """
    return next(iter(str(error).splitlines()), "") or type(error).__name__
