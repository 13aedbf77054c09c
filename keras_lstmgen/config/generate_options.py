"""Options of ``generate``, with the same names and types in Python, on the command line and in prompt files."""

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from keras_lstmgen.config import recipe
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError


@dataclass(frozen=True)
class GenerateOptions:
    """Options of ``generate``. ``keras-lstmgen generate --help`` and ``docs/generation.md`` describe them.

    Attributes:
        n: number of texts for each prompt. Text k uses the seed ``seed + k``.
        seed: 64-bit seed.
        max_new_tokens: maximum number of tokens per text.
        stop: strings that end a text.
        logprobs: number of most probable tokens to report for each token; None for no log-probabilities.
        repetition_penalty: see ``Options``, like the four attributes that follow.
        temperature: see ``Options``.
        top_k: see ``Options``.
        top_p: see ``Options``.
        min_p: see ``Options``.
        min_new_tokens: see ``HostOptions``, like the five attributes that follow.
        no_repeat_ngram: see ``HostOptions``.
        presence_penalty: see ``HostOptions``.
        frequency_penalty: see ``HostOptions``.
        logit_bias: see ``HostOptions``.
        regex: see ``HostOptions``.
        beams: number of beams of a beam search; 0 to sample.
        length_penalty: length penalty of the beam search.
    """

    n: int = 1
    seed: int = 0
    max_new_tokens: int = 300
    stop: Sequence[str] = ()
    logprobs: int | None = None
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    min_new_tokens: int = 0
    no_repeat_ngram: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Sequence[str] = ()
    regex: str | None = None
    beams: int = 0
    length_penalty: float = 0.0


def parse(values: Mapping[str, Any]) -> GenerateOptions:
    """Return options from values by name, and check the name and the type of each value.

    Args:
        values: the values. A single string is accepted for a list of strings.

    Raises:
        UserError: if a name is unknown or a value has a wrong type.

    >>> parse({"top_k": 5, "stop": "."}).stop
    ('.',)
    """
    kinds = {field.name: field.type for field in fields(GenerateOptions)}
    for name in values:
        if name not in kinds:
            raise UserError(f"there is no option '{name}'; the nearest is '{recipe.nearest(name, list(kinds))}'")
    return replace(GenerateOptions(), **{name: _convert(name, value, kinds[name]) for name, value in values.items()})


def _convert(name: str, value: Any, kind: Any) -> Any:
    """Return a value as the type of its field; raise UserError if this is not possible."""
    if value is None and kind in (int | None, str | None):
        return None
    if kind in (int, int | None) and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if kind == str | None and isinstance(value, str):
        return value
    if kind == Sequence[str]:
        words = (value,) if isinstance(value, str) else value
        if isinstance(words, list | tuple) and all(isinstance(word, str) for word in words):
            return tuple(words)
    expected = {int: "a whole number", int | None: "a whole number", float: "a number", str | None: "a string"}
    raise UserError(f"{name}: {numerals.shortened(repr(value))} is not {expected.get(kind, 'a list of strings')}")
