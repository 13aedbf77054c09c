"""Recipe fields as keyword arguments: ``units=512`` instead of ``{"model.units": 512}``."""

import numbers
from collections import Counter
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from keras_lstmgen.config import recipe
from keras_lstmgen.files import filenames
from keras_lstmgen.utils.errors import UserError

ALIASES = {"tokenizer": "tokenizer.type"}  # further short names


def short_names() -> dict[str, str]:
    """Return the dotted name of each recipe field by its short name.

    A short name is the part after the dot. If two tables have a field with the same short name, the dictionary contains
    neither of them.

    >>> short_names()["units"], short_names()["tokenizer"]
    ('model.units', 'tokenizer.type')
    """
    dotted = list(recipe.recipe_fields())
    counts = Counter(name.partition(".")[2] for name in dotted)
    names = {name.partition(".")[2]: name for name in dotted if counts[name.partition(".")[2]] == 1}
    return names | ALIASES


def dotted_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of recipe fields by dotted name.

    Args:
        values: values by short name or by dotted name. Paths and NumPy numbers are accepted.

    Raises:
        UserError: if a name is unknown, or if a field has two values.

    >>> dotted_values({"units": 512, "training.epochs": 3})
    {'model.units': 512, 'training.epochs': 3}
    """
    known, short, dotted = recipe.recipe_fields(), short_names(), dict[str, Any]()
    for name, value in values.items():
        full = name if name in known else short.get(name)
        if full is None:
            nearest = recipe.nearest(name, list(known) if "." in name else list(short))
            raise UserError(f"unknown recipe field '{name}'; the nearest is '{nearest}'")
        if full in dotted:
            raise UserError(f"{full}: is given twice; leave out one of the two values")
        dotted[full] = _plain(value)
    return dotted


def _plain(value: Any) -> Any:
    """Return a path as a string, a NumPy number as a number of Python, and any other value unchanged."""
    if isinstance(value, PathLike):
        return stored_path(value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, numbers.Number) and hasattr(value, "item"):
        return value.item()
    return value


def stored_path(path: PathLike[str]) -> str:
    """Return the name of a file in the form in which a recipe stores it."""
    return filenames.of_argument(fspath(path))


def of_table(table: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return recipe fields of one table by dotted name; raise UserError if the table has no such field."""
    known = [name.partition(".")[2] for name in recipe.recipe_fields() if name.startswith(f"{table}.")]
    for name in fields:
        if name not in known:
            raise UserError(f"there is no option '{name}'; the nearest is '{recipe.nearest(name, known)}'")
    return dotted_values({f"{table}.{name}": value for name, value in fields.items()})


def whole_number(name: str, value: Any) -> int:
    """Return a whole number of Python or NumPy as an int; raise UserError for any other value."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    raise UserError(f"{name}: {value!r:.60} is not a whole number")
