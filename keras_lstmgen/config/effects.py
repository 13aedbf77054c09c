"""Refuse a value that a user gave and that cannot have an effect, and name what it needs.

A saved run is never refused for such a value: only what is typed, and a recipe that is trained anew, is looked at.
"""

import argparse
from collections.abc import Callable, Iterable
from typing import NamedTuple

from keras_lstmgen.config import recipe
from keras_lstmgen.config.recipe import Recipe
from keras_lstmgen.utils.errors import UserError

TABLES = ("jsonl", "csv", "tsv")  # documents that have fields
SEARCHED = ("bleu", "rouge", "exact_match", "distinct_2")  # measures of answers that a beam search finds too
SAMPLE_TOKENS = 500  # default of --sample-tokens
# The options by which tokens are drawn, with their defaults; those that do nothing where the likeliest is always taken.
SAMPLING = {"repetition_penalty": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}
NOT_GREEDY = ("top_k", "top_p", "min_p", "seed")


class Need(NamedTuple):
    """When a value has an effect, and how to say it."""

    has_effect: Callable[[Recipe], bool]
    what: str


NEEDS = {
    "corpus.field": Need(lambda of: of.corpus.documents in TABLES, "corpus.documents = 'csv', 'tsv' or 'jsonl'"),
    "corpus.sha256": Need(
        lambda of: ("pydoc", True) not in zip(of.corpus.source, map(bool, of.corpus.sha256), strict=False),
        "a file: 'pydoc' is a part of Python; give '' for it",
    ),
    "corpus.validation_fraction": Need(lambda of: not of.corpus.validation, "a corpus without corpus.validation"),
    "corpus.split_seed": Need(
        lambda of: of.corpus.documents != "stream" and not of.corpus.validation,
        "another corpus.documents than 'stream', and no corpus.validation",
    ),
    "training.random_offsets": Need(
        lambda of: of.carries, "a state that is carried on: no pairs, and not training.state = 'fresh'"
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
    """Raise UserError for a value with one of these dotted names that is no default and has no effect in the recipe."""
    values, defaults = recipe.to_tables(settings), recipe.to_tables(Recipe())
    for name in given:
        section, key = name.split(".")
        need = NEEDS.get(name)
        if need and values[section][key] != defaults[section][key] and not need.has_effect(settings):
            raise UserError(f"{where}{name} has no effect here: it needs {need.what}")


def check_sampling(arguments: argparse.Namespace) -> None:
    """Raise UserError for an option of how tokens are drawn, where none is drawn or the likeliest is always taken."""
    if not arguments.max_new_tokens:
        _refuse(arguments, SAMPLING, "--max-new-tokens")
    if getattr(arguments, "beams", 0):
        _refuse(arguments, ["seed"], "sampling; leave it or --beams out")
    if arguments.temperature == 0:
        _refuse(arguments, NOT_GREEDY, "a --temperature above 0, as 0 always takes the likeliest token")


def _refuse(arguments: argparse.Namespace, names: Iterable[str], what: str) -> None:
    for name in names:
        if getattr(arguments, name) != SAMPLING[name]:
            raise UserError(f"--{name.replace('_', '-')} has no effect here: it needs {what}")


def check_samples(arguments: argparse.Namespace, asked: recipe.Evaluate) -> None:
    """Raise UserError for a length of samples where ``evaluate`` writes none."""
    writes = arguments.samples or set(asked.measures) - {"ngram"}
    if not writes and arguments.sample_tokens != SAMPLE_TOKENS:
        raise UserError(
            "--sample-tokens has no effect here: it needs --samples, or evaluate.measures of what is written"
        )
