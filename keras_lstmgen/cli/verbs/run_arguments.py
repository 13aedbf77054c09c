"""Read arguments that several verbs share: the run, and sampling options."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from keras_lstmgen.cli import console
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import shell_quoted


def find_run(name: str | None, runs: Path) -> Path:
    """Return the folder of a run.

    If the working directory contains another folder with this name, print that the run is used, not the folder.

    Args:
        name: name or path of the run; None for the newest run.
        runs: folder that contains the runs.
    """
    folder = run_directory.find(name, runs)
    if name and not run_directory.is_path(name) and Path(name).is_dir() and not folder.samefile(name):
        _note_ambiguity(name, f"the run {folder}", "folder")
    return folder


def note_reserved_names(texts: Sequence[str]) -> None:
    """Print a note for each text that is both a reserved name, such as ``-``, and the name of a file."""
    for name, meaning in (("pydoc", "Python's language reference"), ("-", "standard input")):
        if name in texts and Path(name).exists():
            _note_ambiguity(name, meaning, "file")


def _note_ambiguity(name: str, used: str, other: str) -> None:
    """Print to standard error how an ambiguous name is interpreted.

    Args:
        name: the name.
        used: the meaning that is used, such as "standard input".
        other: the kind of the other meaning, "file" or "folder".
    """
    hint = f"to select the {other} in the working directory, type {shell_quoted(Path(name))}"
    console.notes.print(f"{name}: using {used}; {hint}", markup=False)


def sampling_options(arguments: argparse.Namespace) -> Options:
    """Return the sampling options of the command line, such as the temperature."""
    return Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__})
