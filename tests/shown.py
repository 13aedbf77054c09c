"""Trains as the command line does: signals end the training, and its progress and result are printed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from keras_lstmgen.cli.console_reporter import ConsoleReporter
from keras_lstmgen.cli.display.training_run import run_training
from keras_lstmgen.reporting import reporter


def shown(train: Callable[..., Any], *arguments: Any) -> Path:
    """Call ``trainer.train`` or ``trainer.resume`` with these arguments, and return the folder of the run."""
    with reporter.use(ConsoleReporter()):
        return run_training(partial(train, *arguments))
