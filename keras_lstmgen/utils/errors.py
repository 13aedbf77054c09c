"""Define the exceptions that the command line handles, check values, and format text for messages."""

import os
import re
import shlex
from collections.abc import Sized
from pathlib import Path

LARGEST = 2**31 - 1  # default maximum of a number, because TensorFlow graphs receive numbers as int32


class UserError(ValueError):
    """Report an error that the user can correct, such as invalid input or a missing file.

    The message is one line. It names the place (file, line, byte or key), the problem, and the correction. The command
    line prints the message and exits with status 2. The class extends ValueError because callers of a Python library
    expect this exception for invalid arguments.
    """


class Terminated(BaseException):
    """Report that SIGTERM ended the command. The command line prints the message and exits with status 143."""


class ReaderLeft(BaseException):
    """Report that the reader of a pipe has closed the pipe. The command line prints nothing and exits with status 0."""


def check_at_least(name: str, value: float, minimum: int) -> None:
    """Raise UserError if a value is NaN or below a minimum.

    Args:
        name: name of the argument or option; the message begins with this name.
        value: the value to check.
        minimum: smallest valid value.

    >>> check_at_least("--beams", 0, 1)
    Traceback (most recent call last):
    keras_lstmgen.utils.errors.UserError: --beams: 0 is out of range; give 1 or more
    """
    if not value >= minimum:
        raise UserError(f"{name}: {value} is out of range; give {minimum} or more")


def check_range(name: str, value: int, low: int, high: int = LARGEST) -> None:
    """Raise UserError if a number is below ``low`` or above ``high``.

    Args:
        name: name of the argument or option; the message begins with this name.
        value: the number.
        low: smallest valid number.
        high: largest valid number.
    """
    check_at_least(name, value, low)
    if value > high:
        raise UserError(f"{name}: {value} is out of range; give {high} or less")


def check_not_empty(name: str, values: Sized) -> None:
    """Raise UserError if ``values`` is empty.

    Args:
        name: name of the argument; the message begins with this name.
        values: the collection to check.
    """
    if not len(values):
        raise UserError(f"{name}: is empty; give at least one")


def readable(text: str) -> str:
    r"""Replace the surrogates in a file name, so that the name can be printed.

    When Python decodes a file name and cannot decode a byte, the byte becomes a surrogate. This function decodes the
    bytes of surrogates as UTF-8, and writes bytes that are not UTF-8 as escapes.

    >>> print(readable("caf\udce9.txt"))
    caf\xe9.txt
    """
    return re.sub("[\udc80-\udcff]+", lambda match: _decoded(match[0]), text)


def _decoded(surrogates: str) -> str:
    """Decode the bytes that surrogates represent; bytes that are not UTF-8 become escapes."""
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
        word: a string or a path. A path without a slash gets the prefix ``./``, because the command line would
            interpret the path as the name of a run.

    >>> print(shell_quoted(Path("my run")), shell_quoted("my run"))
    './my run' 'my run'

    If a character is not printable, its bytes are written in octal:

    >>> print(shell_quoted("caf\udce9"))
    $'caf\351'
    """
    text = str(word)
    if isinstance(word, Path) and "/" not in text:
        text = f"./{text}"
    return shlex.quote(text) if text.isprintable() else f"$'{''.join(map(_escaped, text))}'"


def _escaped(letter: str) -> str:
    """Return the form of a character inside the shell's quotes ``$'…'``."""
    if letter.isprintable():
        return f"\\{letter}" if letter in "'\\" else letter
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(letter))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty.

    >>> first_line(ValueError("not a number\\nsecond line")), first_line(KeyboardInterrupt())
    ('not a number', 'KeyboardInterrupt')
    """
    return next(iter(str(error).splitlines()), "") or type(error).__name__
