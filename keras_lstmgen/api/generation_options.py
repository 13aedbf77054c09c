"""Check the options of ``generate``, in the same way in Python, on the command line and in prompt files."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple, TypedDict

from keras_lstmgen.config import effects
from keras_lstmgen.config.generate_options import GenerateOptions, parse
from keras_lstmgen.generation.beam_search import BeamSearchConfig
from keras_lstmgen.generation.logits_processors import HostOptions
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError, check_range

__all__ = ["GenerateOptions", "Plan", "parse", "plan"]

MAX_TEXTS = 65_536  # maximum number of texts in a batch


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
    min_new_tokens: int
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
    if options.min_new_tokens > options.max_new_tokens:
        raise UserError(
            f"--min-new-tokens: {options.min_new_tokens} is out of range; give {options.max_new_tokens} "
            "(the maximum number of tokens per text) or less"
        )
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
