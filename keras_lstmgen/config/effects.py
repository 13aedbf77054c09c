"""Raise an error if a setting has no effect, and name the other setting that is needed.

Only command line options and the recipe of a new training are checked. The recipe of a saved run is always accepted.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from keras_lstmgen.config import recipe
from keras_lstmgen.config.recipe import Recipe
from keras_lstmgen.config.schema import TABLE_FORMATS
from keras_lstmgen.utils.errors import UserError

SEARCHED = ("bleu", "rouge", "exact_match", "distinct_2")  # metrics that can also evaluate a beam search
SAMPLE_TOKENS = 500  # default of --sample-tokens
SAMPLING = {  # the sampling options and their defaults
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "seed": 0,
}
NOT_GREEDY = ("top_k", "top_p", "min_p", "seed")  # sampling options that have no effect in greedy decoding


class Need(NamedTuple):
    """A condition that a recipe must satisfy so that a setting has an effect."""

    has_effect: Callable[[Recipe], bool]  # returns whether a recipe satisfies the condition
    description: str  # completes "it needs …" in the error message


NEEDS = {
    "corpus.field": Need(lambda of: of.corpus.documents in TABLE_FORMATS, "corpus.documents = 'csv', 'tsv' or 'jsonl'"),
    "corpus.sha256": Need(
        lambda of: ("pydoc", True) not in zip(of.corpus.source, map(bool, of.corpus.sha256), strict=False),
        "a file or URL; 'pydoc' is part of Python: give '' as its checksum",
    ),
    "corpus.validation_fraction": Need(lambda of: not of.corpus.validation, "a corpus without corpus.validation"),
    "corpus.split_seed": Need(
        lambda of: of.corpus.documents != "stream" and not of.corpus.validation,
        "a value of corpus.documents other than 'stream', and no corpus.validation",
    ),
    "training.random_offsets": Need(
        lambda of: of.carries, "a carried state: no pairs, and not training.state = 'fresh'"
    ),
    "training.source_loss": Need(
        lambda of: of.corpus.is_pairs, "pairs: corpus.documents = 'pairs', several fields or corpus.labels"
    ),
    "training.weight_decay": Need(lambda of: of.training.optimizer == "adamw", "training.optimizer = 'adamw'"),
    "evaluate.beams": Need(
        lambda of: bool(set(SEARCHED) & set(of.evaluate.measures)),
        f"one of the evaluate.measures {', '.join(SEARCHED)}",
    ),
    "evaluate.length_penalty": Need(lambda of: of.evaluate.beams > 0, "evaluate.beams"),
}  # fmt: skip


def check(settings: Recipe, given: Iterable[str], where: str) -> None:
    """Raise UserError if a setting differs from its default and has no effect in the recipe.

    Args:
        settings: the whole recipe.
        given: dotted names of the settings to check, such as ``"evaluate.beams"``.
        where: text before the name of the setting in the message, such as ``"--"`` or ``"recipe.toml: "``.
    """
    values, defaults = recipe.to_tables(settings), recipe.to_tables(Recipe())
    for name in given:
        section, key = name.split(".")
        need = NEEDS.get(name)
        if need and values[section][key] != defaults[section][key] and not need.has_effect(settings):
            raise UserError(f"{where}{name} has no effect here: it needs {need.description}")


def check_sampling(arguments: Any) -> None:
    """Raise UserError for a sampling option that has no effect.

    No sampling option has an effect if no tokens are generated. In greedy decoding or in a beam search, some sampling
    options have no effect.

    Args:
        arguments: the options of ``generate``, ``chat`` or ``inspect`` as attributes.
    """
    if not arguments.max_new_tokens:
        _refuse(arguments, SAMPLING, "--max-new-tokens")
    if getattr(arguments, "beams", 0):
        _refuse(arguments, ["seed"], "sampling; leave out either this option or --beams")
    if arguments.temperature == 0:
        _refuse(arguments, NOT_GREEDY, "a --temperature above 0, because 0 always selects the most probable token")


def _refuse(arguments: Any, names: Iterable[str], description: str) -> None:
    """Raise UserError for the first option whose value differs from the default.

    Args:
        arguments: the options as attributes.
        names: names of the options to check.
        description: text that completes "it needs …" in the message.
    """
    for name in names:
        if getattr(arguments, name) != SAMPLING[name]:
            raise UserError(f"--{name.replace('_', '-')} has no effect here: it needs {description}")


def check_samples(arguments: Any, settings: recipe.Evaluate) -> None:
    """Raise UserError if ``--sample-tokens`` is given but ``evaluate`` generates no text.

    Args:
        arguments: the options of ``evaluate`` as attributes.
        settings: the table ``evaluate`` of the recipe.
    """
    generates = arguments.samples or set(settings.measures) - {"ngram"}
    if not generates and arguments.sample_tokens != SAMPLE_TOKENS:
        raise UserError(
            "--sample-tokens has no effect here: it needs --samples, or a measure of "
            "generated text in evaluate.measures"
        )
