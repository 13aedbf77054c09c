"""Options of ``generate``, with the same names, defaults and checks in Python and on the command line."""

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, TypedDict

from keras_lstmgen.config import effects, recipe
from keras_lstmgen.generation.beam_search import BeamSearchConfig
from keras_lstmgen.generation.logits_processors import HostOptions
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError, check_range

MAX_TEXTS = 65_536  # maximum number of texts in a batch


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
        no_repeat_ngram: see ``HostOptions``, like the four attributes that follow.
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
    no_repeat_ngram: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Sequence[str] = ()
    regex: str | None = None
    beams: int = 0
    length_penalty: float = 0.0


class GenerateArguments(TypedDict, total=False):
    """The options of ``TextGenerator.generate``, which have the names and defaults of the command line."""

    seed: int
    max_new_tokens: int
    stop: str | Sequence[str]
    logprobs: int | None
    repetition_penalty: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    no_repeat_ngram: int
    presence_penalty: float
    frequency_penalty: float
    logit_bias: str | Sequence[str]
    regex: str | None
    beams: int
    length_penalty: float


class Plan(NamedTuple):
    """Checked options of ``generate``.

    Attributes:
        options: the options.
        config: settings of the sampling.
        search: settings of the beam search; None to sample.
    """

    options: GenerateOptions
    config: GenerationConfig
    search: BeamSearchConfig | None


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


def plan(options: GenerateOptions, keep_text: bool = True) -> Plan:
    """Check the ranges of options and whether the options fit together.

    Args:
        options: the options.
        keep_text: see ``GenerationConfig``.

    Raises:
        UserError: if a value is out of range or has no effect.
    """
    config, search = _generation_config(options, keep_text), _beam_search_config(options)
    effects.check_sampling(options)
    return Plan(options, config, search)


def _generation_config(options: GenerateOptions, keep_text: bool) -> GenerationConfig:
    """Return the settings of the sampling; raise UserError if a value is out of range."""
    sampling = Options(**{name: getattr(options, name) for name in Options.__dataclass_fields__})
    values = {name: getattr(options, name) for name in HostOptions.__dataclass_fields__}
    processors = HostOptions(**{**values, "logit_bias": tuple(options.logit_bias)})
    check_range("--n", options.n, 1, MAX_TEXTS)
    check_range("--max-new-tokens", options.max_new_tokens, 1)
    check_range("--seed", options.seed, numerals.SEEDS[0], numerals.SEEDS[-1])
    if options.logprobs is not None:
        check_range("--logprobs", options.logprobs, 0)
    processors_or_none = processors if processors != HostOptions() else None
    return GenerationConfig(options.max_new_tokens, sampling, tuple(options.stop), processors_or_none, keep_text)


def _beam_search_config(options: GenerateOptions) -> BeamSearchConfig | None:
    """Return the settings of a beam search; None if ``beams`` is 0."""
    if not options.beams:
        if options.length_penalty:
            raise UserError("--length-penalty: applies to a beam search; give --beams too")
        return None
    search = BeamSearchConfig(options.beams, options.length_penalty, options.max_new_tokens)
    for name, default in asdict(Options()).items():
        if getattr(options, name) != default:
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{option}: has no effect in a beam search, which does not sample; "
                "leave out either this option or --beams"
            )
    if options.n > options.beams:
        raise UserError(
            f"--n: {options.n} is out of range; a search with --beams {options.beams} finds no more than "
            f"{options.beams} texts"
        )
    return search
