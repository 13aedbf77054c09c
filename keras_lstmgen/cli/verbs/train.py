"""Run the verb ``train``: train a new run, or continue the training of a run."""

import argparse
import os
from functools import partial
from pathlib import Path

from keras_lstmgen.cli import console
from keras_lstmgen.cli.checks.recipe_arguments import note_skipped_files, recipe_and_name, recipe_values
from keras_lstmgen.cli.display.training_run import run_training
from keras_lstmgen.cli.stop_signals import stop_on_signals
from keras_lstmgen.cli.verbs.run_arguments import find_run
from keras_lstmgen.config import effects, recipe
from keras_lstmgen.distribution import launcher, workers
from keras_lstmgen.files import filenames
from keras_lstmgen.models import continuation, run_directory
from keras_lstmgen.training import trainer
from keras_lstmgen.utils.errors import UserError, check_range


def run(arguments: argparse.Namespace) -> None:
    """Train in this process. This process may be one of several workers."""
    check_range("--workers", arguments.workers, 1, launcher.MAX_WORKERS)
    if not os.environ.get("TF_CONFIG"):
        launcher.report_idle_gpus(1)
    with workers.connected():
        if workers.is_chief():
            folder = _resume(arguments) if arguments.resume else _train(arguments)
        else:
            with stop_on_signals() as stop:
                trainer.train_as_worker(arguments.runs, stop)
    if workers.is_chief():
        console.next_command("keras-lstmgen", "generate", folder, "--temperature", "0.8")


def _train(arguments: argparse.Namespace) -> Path:
    """Train a new run and return its folder."""
    settings, name = recipe_and_name(arguments.source, recipe_values(arguments), partial(_base, arguments.runs))
    note_skipped_files(settings.corpus)
    return run_training(partial(trainer.train, settings, arguments.runs, arguments.name or name))


def _base(runs: Path, init_from: str) -> recipe.Recipe:
    """Return the recipe whose values apply to all fields that the user does not give."""
    return continuation.defaults(find_run(filenames.native(init_from), runs)) if init_from else recipe.Recipe()


def _resume(arguments: argparse.Namespace) -> Path:
    """Continue the training of a run from its last checkpoint and return its folder."""
    if arguments.source or arguments.name:
        raise UserError(
            "--resume: the run already has a text and a name; give neither of them, or train a new run instead"
        )
    folder, given = find_run(arguments.resume, arguments.runs), recipe_values(arguments)
    settings = recipe.override(recipe.load(folder / run_directory.RECIPE), given, "--")
    effects.check(settings, given, "--")
    note_skipped_files(settings.corpus)
    return run_training(partial(trainer.resume, folder, settings))
