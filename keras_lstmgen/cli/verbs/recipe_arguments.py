"""Arguments of ``train`` and ``prepare``: a recipe or texts, with options that change values of the recipe."""

import argparse
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_lstmgen.cli import console
from keras_lstmgen.cli.verbs.run_arguments import note_reserved_names
from keras_lstmgen.config import effects, recipe
from keras_lstmgen.data import prepared_corpus, sources
from keras_lstmgen.files import filenames, spooling
from keras_lstmgen.utils.errors import UserError

MAX_NAME = 60  # characters of a name that is derived from a text


def recipe_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values of a recipe that were given as options, by dotted name."""
    return {name: value for name, value in vars(arguments).items() if "." in name}


def recipe_and_name(words: list[str], given: dict[str, Any]) -> tuple[recipe.Recipe, str]:
    """Return the recipe to train, and a name for the run.

    Args:
        words: the path of one recipe, or texts; an empty list selects Python's language reference.
        given: values by dotted name, which replace those of the recipe.

    Raises:
        UserError: the words or the values contradict each other, or a value has no effect.
    """
    recipes = [word for word in words if word.endswith(".toml") and not Path(filenames.native(word)).is_dir()]
    if recipes and len(words) > 1:
        raise UserError(f"{recipes[0]}: a recipe stands alone; its text is given by --corpus.source")
    if recipes:
        settings = recipe.override(recipe.load(Path(filenames.native(recipes[0]))), given, "--")
        _check_effects(settings, given, f"{recipes[0]}: ")
        return settings, Path(recipes[0]).stem
    if words and "corpus.source" in given:
        raise UserError(f"{words[0]}: has no effect beside --corpus.source; leave one of them out")
    note_reserved_names(words)
    settings = recipe.override(recipe.Recipe(), {"corpus.source": words} if words else {})
    settings = recipe.override(settings, given, "--")
    _check_effects(settings, given, "")
    first = words[0] if words else "quickstart"
    return settings, "text" if spooling.is_read_once(first) else run_name(first)


def _check_effects(settings: recipe.Recipe, given: Iterable[str], where: str) -> None:
    """Raise UserError for a value without an effect, given as an option or in the recipe, whose place is ``where``."""
    complete = prepared_corpus.with_prepared_tables(settings)
    effects.check(complete, given, "--")
    effects.check(complete, recipe.recipe_fields(), where)


def run_name(source: str) -> str:
    """Derive the name of a run from a path, glob or URL: ``"books/*.txt"`` gives ``"books"``."""
    plain = source.partition("?")[0] if "://" in source else source
    words = [word for word in plain.split("/") if word]
    if not Path(source).exists():  # a glob; the name of a file may contain the same characters
        words = [word for word in words if not set(word) & set("*?[")]
    name = unicodedata.normalize("NFC", words[-1] if words else "").removesuffix(".gz")
    stem = name if Path(source).is_dir() else Path(name).stem
    return re.sub(r"[^\w-]+", "-", stem).strip("-_")[:MAX_NAME] or "text"


def note_skipped_files(corpus: recipe.Corpus) -> None:
    """Print the files in the folders of a corpus that are not read."""
    console.left_out(sources.left_out((*corpus.source, *corpus.validation)))
