"""How TF Serving reads and writes JSON: ``json_tensor.cc`` of its sources, for the types that our signatures have."""

import base64
from typing import Any

import numpy as np

Columns = dict[str, Any]  # arrays by name; strings are bytes in an array of objects
LARGEST = 2**24 - 1  # whole number that float32 takes


def read(body: dict[str, Any], wanted: dict[str, Any]) -> tuple[Columns, str]:
    """The inputs of a request, by the types that its signature wants, and whether they came as rows or as columns.

    ``ValueError`` where the server refuses: it converts nothing, and has every input there.
    """
    forms = body.keys() & {"instances", "inputs"}
    if len(forms) != 1:
        raise ValueError("Missing 'inputs' or 'instances' key, or both are there")
    (form,) = forms
    return (_of_rows if form == "instances" else _of_columns)(body[form], wanted), form


def _of_columns(value: Any, wanted: dict[str, Any]) -> Columns:
    """A column for each input, or the one there is by itself; what the signature does not name is not looked at."""
    if not isinstance(value, dict) or value.keys() == {"b64"}:
        value = {_only(wanted): value}
    for name in sorted(wanted):
        if name not in value:
            raise ValueError(f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(value[name], kind) for name, kind in wanted.items()}


def _of_rows(rows: Any, wanted: dict[str, Any]) -> Columns:
    """All inputs in each row, or the one there is by itself; rows are of one shape."""
    if not isinstance(rows, list) or not rows:
        raise ValueError("Expecting 'instances' to be a list with values")
    if not isinstance(rows[0], dict) or rows[0].keys() == {"b64"}:
        return {_only(wanted): _array(rows, wanted[_only(wanted)])}
    for row in rows:
        if not isinstance(row, dict) or row.keys() != wanted.keys():
            raise ValueError(f"Failed to process element of 'instances': keys must be equal to: {sorted(wanted)}")
    return {name: _array([row[name] for row in rows], kind) for name, kind in wanted.items()}


def _only(wanted: dict[str, Any]) -> str:
    if len(wanted) > 1:
        raise ValueError("a plain list, but expecting objects as multiple input tensors are required")
    return next(iter(wanted))


def _array(value: Any, kind: Any) -> Any:
    """A value or nested lists of them, all lists of one level as long as the first one there."""
    shape, first = list[int](), value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    leaves = list[Any]()
    _fill(value, shape, leaves, kind)
    array = np.empty(len(leaves), kind)
    array[:] = leaves
    return array.reshape(shape)


def _fill(value: Any, shape: list[int], leaves: list[Any], kind: Any) -> None:
    if isinstance(value, list) != bool(shape):
        raise ValueError(f"JSON Value: {value} found at incorrect level")
    if not shape:
        leaves.append(_leaf(value, kind))
        return
    if len(value) != shape[0]:
        raise ValueError(f"Encountered list at unexpected size: {len(value)} expected size: {shape[0]}")
    for one in value:
        _fill(one, shape[1:], leaves, kind)


def _leaf(value: Any, kind: Any) -> Any:
    """A number or string of the very type: no 1.5 nor 1.0 where a whole number is wanted, no number for a string."""
    if kind is object and isinstance(value, dict) and value.keys() == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    if kind is object and isinstance(value, str):
        return value.encode()
    if kind in (np.int32, np.int64) and type(value) is int and np.iinfo(kind).min <= value <= np.iinfo(kind).max:
        return value
    if kind is np.float32 and type(value) is int and abs(value) <= LARGEST:
        return value
    if kind is np.float32 and type(value) is float and not np.finfo(kind).max < abs(value) < np.inf:
        return value
    raise ValueError(f"JSON Value: {value} Type: {type(value).__name__} is not of expected type: {kind.__name__}")


def told(outputs: Columns, form: str) -> dict[str, Any]:
    """The body of an answer in the form of the request; a single output goes without its name."""
    columns = {name: _values(column) for name, column in sorted(outputs.items())}
    if form == "inputs":
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError("outputs have inconsistent batch sizes")
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def _values(column: Any) -> Any:
    """Nested lists; a string has to be UTF-8, and a float32 has the fewest digits that bring it back."""
    if column.ndim > 1:
        return [_values(row) for row in column]
    if column.dtype == object:
        return [text.decode() for text in column]
    return [float(str(number)) for number in column] if column.dtype == np.float32 else column.tolist()
