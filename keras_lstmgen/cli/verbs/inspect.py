"""Run the verb ``inspect``: plot the activations of a layer, and find cells that follow a readable feature."""

import argparse
from pathlib import Path

from keras_lstmgen.cli import console, inspection_report
from keras_lstmgen.cli.verbs.run_arguments import find_run, note_reserved_names, sampling_options
from keras_lstmgen.config import effects
from keras_lstmgen.data import sources, splits
from keras_lstmgen.files import atomic
from keras_lstmgen.interpret.inspect_run import InspectOptions
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import UserError, check_range


def run(arguments: argparse.Namespace) -> None:
    """Inspect a run, print tables, and write the pictures and the HTML page."""
    check_range("--max-new-tokens", arguments.max_new_tokens, 0)
    note_reserved_names(arguments.text)
    sampling = sampling_options(arguments)
    effects.check_sampling(arguments)
    folder = find_run(arguments.run, arguments.runs)
    model = run_directory.load(folder)
    values = {name: getattr(arguments, name) for name in InspectOptions.__dataclass_fields__ if name != "options"}
    values["prompt"] = splits.normalized_prompt(arguments.prompt, model.recipe.corpus)
    console.left_out(sources.left_out(arguments.text))
    inspection_report.inspect(model, InspectOptions(**values, options=sampling), _output_folder(arguments, folder))
    console.next_command("keras-lstmgen", "evaluate", folder)


def _output_folder(arguments: argparse.Namespace, run_folder: Path) -> Path:
    """Return the folder for the pictures; raise UserError if it is not writable.

    The check runs before the inspection, so that an error is reported early.
    """
    path: Path = arguments.output or run_folder / "inspect"
    if path.exists() and not path.is_dir():
        raise UserError(f"--output {path}: is a file; name a folder")
    atomic.check_writable(next(folder for folder in (path, *path.absolute().parents) if folder.is_dir()))
    return path
