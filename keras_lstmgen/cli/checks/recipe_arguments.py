"""Read the arguments of ``train`` and ``prepare``: a recipe or texts, and options that replace recipe values."""

import argparse
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from keras_lstmgen.cli import console
from keras_lstmgen.cli.verbs.run_arguments import note_reserved_names
from keras_lstmgen.config import effects, recipe
from keras_lstmgen.data import prepared_corpus, sources
from keras_lstmgen.files import filenames, packaged, spooling
from keras_lstmgen.utils.errors import UserError

MAX_NAME = 60  # maximum number of characters of a run name that is derived from a text


def recipe_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe values that the user has given as options, by dotted name such as ``"model.units"``."""
    return {name: value for name, value in vars(arguments).items() if "." in name}


def _default_recipe(init_from: str) -> recipe.Recipe:  # noqa: ARG001
    """Return the recipe with the default values."""
    return recipe.Recipe()


def recipe_and_name(
    words: list[str], given: dict[str, Any], base: Callable[[str], recipe.Recipe] = _default_recipe
) -> tuple[recipe.Recipe, str]:
    """Return the recipe that the command line specifies, and a name for the run.

    Args:
        words: the name or path of a recipe, or one or more texts. An empty list stands for the language reference of
            Python.
        given: the values of options by dotted name. They replace the values of the recipe.
        base: function that takes the value of ``training.init_from``, and returns the recipe whose values apply to all
            fields that are not given.

    Returns:
        The recipe and the name of the run.

    Raises:
        UserError: the arguments contradict each other, or a value is invalid or has no effect.
    """
    recipes = [word for word in words if _is_recipe(word)]
    if recipes and len(words) > 1:
        raise UserError(f"{recipes[0]}: a recipe must be the only argument; give its text with --corpus.source")
    if recipes:
        path = _recipe_path(recipes[0])
        init_from = given.get("training.init_from") or recipe.load(path).training.init_from
        settings = recipe.override(recipe.load(path, base(init_from)), given, "--")
        _check_effects(settings, given, f"{recipes[0]}: ")
        return settings, Path(recipes[0]).stem
    if words and "corpus.source" in given:
        raise UserError(f"{words[0]}: has no effect together with --corpus.source; leave out one of them")
    note_reserved_names(words)
    start = base(given.get("training.init_from", ""))
    settings = recipe.override(start, {**({"corpus.source": words} if words else {}), **given}, "--")
    _check_effects(settings, given, "")
    first = words[0] if words else "quickstart"
    return settings, "text" if spooling.is_read_once(first) else run_name(first)


def _is_recipe(word: str) -> bool:
    """Return whether an argument is a recipe: a TOML file, or the name of a packaged recipe.

    A file or folder of the working directory with the name of a packaged recipe is a text.
    """
    path = Path(filenames.native(word))
    if word not in packaged.recipes():
        return word.endswith(".toml") and not path.is_dir()
    if path.exists():
        note = f"{word}: using the text in the working directory; to select the packaged recipe, type {word}.toml"
        console.notes.print(note, markup=False)
    return not path.exists()


def _recipe_path(word: str) -> Path:
    """Return the path of a recipe; raise UserError if neither a file nor a packaged recipe has this name."""
    path = Path(filenames.native(word))
    if path.exists():
        return path
    if found := packaged.recipes().get(word.removesuffix(".toml")):
        return found
    raise UserError(f"{word}: there is no such recipe; {packaged.listed_recipes()}")


def _check_effects(settings: recipe.Recipe, given: Iterable[str], where: str) -> None:
    """Raise UserError if a value of an option or of the recipe has no effect.

    Args:
        settings: the recipe with the values of the options.
        given: dotted names of the values that are given as options.
        where: beginning of a message about a value that is not given as an option, such as ``"recipe.toml: "``.
    """
    complete = prepared_corpus.with_prepared_tables(settings)
    effects.check(complete, given, "--")
    effects.check(complete, recipe.recipe_fields(), where)


def run_name(source: str) -> str:
    """Derive the name of a run from a path, glob or URL: ``"books/*.txt"`` gives ``"books"``."""
    plain = source.partition("?")[0] if "://" in source else source
    words = [word for word in plain.split("/") if word]
    if not Path(source).exists():  # then the source may be a glob; the name of an existing file may contain "*?[" too
        words = [word for word in words if not set(word) & set("*?[")]
    name = unicodedata.normalize("NFC", words[-1] if words else "").removesuffix(".gz")
    stem = name if Path(source).is_dir() else Path(name).stem
    return re.sub(r"[^\w-]+", "-", stem).strip("-_")[:MAX_NAME] or "text"


def note_skipped_files(corpus: recipe.Corpus) -> None:
    """Print which files in the folders of a corpus are skipped."""
    console.left_out(sources.left_out((*corpus.source, *corpus.validation)))
