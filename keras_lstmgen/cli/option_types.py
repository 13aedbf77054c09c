"""Convert command line arguments to the types of options. Each error message is one line."""

import argparse
import os
from collections.abc import Callable
from typing import Any, get_args

from keras_lstmgen.config import recipe
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import visible


def metavar(kind: Any) -> str:
    """Return the placeholder that the help text shows for a value of a type."""
    return "WORD" if get_args(kind) or kind is str else {int: "N", float: "X", bool: "true|false"}[kind]


def parser_of(kind: Any) -> Any:
    """Return a function that converts a command line argument to the type of a recipe field."""
    return (
        parse_text
        if get_args(kind) or kind is str
        else {bool: _parse_truth, int: parse_whole, float: _parse_real}[kind]
    )


def parse_text(word: str) -> str:
    """Decode a command line argument as UTF-8 in every locale; raise ArgumentTypeError for other bytes."""
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"'{visible(word)}' is not UTF-8 at byte {error.start}; convert it") from error


def or_auto(kind: Any) -> Any:
    """Return a function that converts an argument to a type, but returns the word "auto" unchanged."""
    return lambda word: word if word == recipe.AUTO_WORD else parser_of(kind)(word)


def with_own_message(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a version of ``read`` that raises ArgumentTypeError instead of ValueError.

    If a function raises ArgumentTypeError, argparse shows the message of the exception. After a ValueError, argparse
    would show the whole argument instead, and an argument may be very long.
    """

    def parse(word: str) -> Any:
        try:
            return read(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


parse_whole = with_own_message(numerals.parse_int)
_parse_real = with_own_message(numerals.parse_float)
_parse_seed = with_own_message(numerals.parse_seed)


def _parse_truth(word: str) -> bool:
    """Convert "true" or "false" to a bool."""
    if word not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{numerals.shortened(word)}' is not true or false")
    return word == "true"


def add_number(parser: Any, name: str, default: float, about: str) -> None:
    """Add an option for a number.

    Args:
        parser: a parser or a group of options.
        name: name of the option, such as ``"--top-k"``.
        default: default value; the option has the same type, int or float.
        about: help text.
    """
    kind = type(default)
    parse = _parse_seed if name == "--seed" else parser_of(kind)
    parser.add_argument(name, type=parse, default=default, metavar=metavar(kind), help=about)
