"""Arguments that several verbs share: the run, ranges of numbers, and how tokens are sampled."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from keras_lstmgen.cli import console
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import UserError, check_at_least, shell_quoted

LARGEST = 2**31 - 1  # the inputs of the graphs are int32


def find_run(name: str | None, runs: Path) -> Path:
    """Return the folder of a run, the newest if ``name`` is None.

    If a folder in the working directory has the same name, a note says that the run is used.
    """
    folder = run_directory.find(name, runs)
    if name and not run_directory.is_path(name) and Path(name).is_dir() and not folder.samefile(name):
        _note_ambiguity(name, f"the run {folder}", "folder")
    return folder


def note_reserved_names(texts: Sequence[str]) -> None:
    """Print a note if a word with a special meaning, such as ``-``, is also the name of a file."""
    for name, meaning in (("pydoc", "Python's language reference"), ("-", "standard input")):
        if name in texts and Path(name).exists():
            _note_ambiguity(name, meaning, "file")


def _note_ambiguity(name: str, used: str, other: str) -> None:
    """Print to standard error which of two things a word selects, and how to select the other one."""
    hint = f"for the {other} in the working directory, type {shell_quoted(Path(name))}"
    console.notes.print(f"{name}: using {used}; {hint}", markup=False)


def check_range(name: str, value: int, low: int, high: int = LARGEST) -> None:
    """Raise UserError for a number below ``low`` or above ``high``."""
    check_at_least(name, value, low)
    if value > high:
        raise UserError(f"{name}: {value} is out of range; give {high} or less")


def sampling_options(arguments: argparse.Namespace) -> Options:
    """Return the options that select the next token."""
    return Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__})
