"""Load, parse, override and write recipes. A recipe is a TOML file with all settings of a run.

The file has a table for each stage. A field that the file does not contain has the default value of ``schema``.
``keras-lstmgen train --help`` lists all fields. Each field is also a command line option, such as
``--model.units 512``. A recipe contains only data and is never executed.
"""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import tomli_w

from keras_lstmgen.config import validation
from keras_lstmgen.config.schema import (
    AUTO,
    AUTO_WORD,
    CARRIED,
    FRESH,
    NONE,
    SECTIONS,
    Corpus,
    Evaluate,
    Export,
    Model,
    Recipe,
    Tokenizer,
    Training,
    recipe_fields,
)
from keras_lstmgen.utils.errors import UserError

__all__ = [
    "AUTO", "AUTO_WORD", "CARRIED", "FRESH", "NONE", "SECTIONS", "Corpus", "Evaluate", "Export", "Model", "Recipe",
    "Tokenizer", "Training", "load", "nearest", "override", "parse", "recipe_fields", "to_tables", "to_toml",
]  # fmt: skip

LARGEST = 2**53  # default maximum of a number; float64 represents all integers up to this limit exactly
MAX_SHOWN = 80  # maximum number of characters of a value in a message


def load(path: Path, base: Recipe | None = None) -> Recipe:
    """Read a recipe from a TOML file.

    Args:
        path: the TOML file.
        base: the recipe with the values of all fields that the file does not contain. None for the default values.

    Raises:
        UserError: the file does not exist or is not TOML, a key is unknown, or a value is invalid.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such recipe") from None
    except (OSError, ValueError, RecursionError) as error:  # long numbers raise ValueError, deep tables RecursionError
        reason = "a number has too many digits" if "int_max_str_digits" in str(error) else error
        raise UserError(
            f"{path}: is not TOML ({reason}); correct the recipe, or give a text with this name by --corpus.source"
        ) from error
    return parse(tables, f"{path}: ", base)


def parse(tables: Mapping[str, Any], where: str = "", base: Recipe | None = None) -> Recipe:
    """Return a recipe from nested dictionaries, such as the content of a TOML or JSON file.

    Args:
        tables: the tables by name; each table maps field names to values.
        where: beginning of error messages, such as ``"recipe.toml: "``.
        base: see ``load``.

    Raises:
        UserError: a key is unknown, or a value is invalid.

    >>> parse({"model": {"units": 512}}).model.units
    512
    """
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise UserError(f"{where}unknown key '{name}'; a recipe has the tables {', '.join(SECTIONS)}")
    values = {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
    return override(base or Recipe(), values, where)


def override(recipe: Recipe, values: Mapping[str, Any], where: str = "") -> Recipe:
    """Return a copy of a recipe with new values.

    The function checks the name, type and range of each new value, and then whether all values fit together.

    Args:
        recipe: the recipe to start from.
        values: new values by dotted name, such as ``{"model.units": 512}``.
        where: beginning of error messages, such as ``"recipe.toml: "``.

    Raises:
        UserError: a name is unknown, a value is invalid, or two values do not fit together.

    >>> override(Recipe(), {"model.units": 512}).model.units
    512
    """
    known = recipe_fields()
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}unknown key '{name}'; the nearest is '{nearest(name, list(known))}'")
        section, key = name.split(".")
        table = replace(getattr(recipe, section), **{key: _check_value(where + name, value, known[name])})
        recipe = replace(recipe, **{section: table})
    validation.check(recipe, where)
    return recipe


def nearest(word: str, words: list[str]) -> str:
    """Return the word of a list that is most similar to a given word.

    >>> nearest("model.unit", ["model.units", "model.tied"])
    'model.units'
    """
    return max(words, key=lambda known: difflib.SequenceMatcher(None, word, known).ratio())


def _check_value(where: str, value: Any, known: tuple[Any, Any, Mapping[str, Any]]) -> Any:
    """Check a value and convert it to the type of its field.

    Args:
        where: beginning of error messages.
        value: the value from TOML, JSON or the command line.
        known: type, default and metadata of the field, as ``recipe_fields`` returns them.

    Returns:
        The converted value.

    Raises:
        UserError: the type is wrong, a word is not one of the choices, or a number is out of range.
    """
    kind, default, limits = known
    if default == AUTO and value == AUTO_WORD:
        return AUTO
    value = _convert(where, value, kind)
    for word in value if isinstance(value, tuple) else (value,):
        if limits["choices"] and word not in limits["choices"]:
            raise UserError(f"{where}: '{word}' is not one of {', '.join(limits['choices'])}")
    low, high = limits["low"], limits["high"]
    if low is not None and not (low <= value <= (LARGEST if high is None else high) and math.isfinite(value)):
        bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:.10g}"
        raise UserError(f"{where}: {_shown(value)} is out of range; give a number {bounds}")
    return value


def _convert(where: str, value: Any, kind: Any) -> Any:
    """Convert a TOML value to the type of its field. A single string becomes a list with one string."""
    if get_args(kind):
        words = ([value] if value else []) if isinstance(value, str) else value
        if isinstance(words, list | tuple) and all(isinstance(word, str) for word in words):
            return tuple(words)
    elif kind is float and type(value) is int and abs(value) <= LARGEST:
        return float(value)
    elif type(value) is kind:
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    raise UserError(f"{where}: {_shown(value)} is not {names.get(kind, 'a list of strings')}")


def _shown(value: Any) -> str:
    """Shorten the ``repr`` of a value for a message; return "the value" if the value is too long or too deep."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "the value"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def to_tables(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return a recipe as nested dictionaries for JSON and TOML.

    Tuples become lists, and ``AUTO`` becomes ``"auto"``.
    """
    return {name: {key: _plain(value) for key, value in table.items()} for name, table in asdict(recipe).items()}


def _plain(value: Any) -> Any:
    """Return the value of a field in the form that JSON and TOML can store."""
    if value == AUTO:
        return AUTO_WORD
    return list(value) if isinstance(value, tuple) else value


def to_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML text. If ``load`` reads this text from a file, it returns an equal recipe."""
    return tomli_w.dumps(to_tables(recipe))
