"""Run a training on the command line: end it on signals, show its progress and print its result."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from keras_lstmgen.cli import console
from keras_lstmgen.cli.display import training_hint
from keras_lstmgen.cli.display.training_screen import TrainingScreen
from keras_lstmgen.cli.stop_signals import stop_on_signals
from keras_lstmgen.distribution.stop_votes import StopRequest
from keras_lstmgen.training.loop import Display, TrainingView
from keras_lstmgen.training.trainer import CURVE, TrainingResult, TrainingSummary
from keras_lstmgen.utils.errors import shell_quoted


class Train(Protocol):
    """A function that trains, such as ``trainer.train`` with its other arguments bound."""

    def __call__(self, *, stop: StopRequest, display: Display) -> TrainingResult:
        """Train and return the result."""


def run_training(train: Train) -> Path:
    """Train, show the progress, print the result, and return the folder of the run."""
    with stop_on_signals() as stop:
        result = train(stop=stop, display=_screen)
    if result.summary:
        _print_summary(result.folder, result.summary)
    if result.interrupted:
        folder = shell_quoted(result.folder)
        console.out.print(
            f"Stopped by Ctrl-C, and saved. To go on: keras-lstmgen train --resume {folder}", markup=False
        )
    return result.folder


@contextmanager
def _screen(view: TrainingView) -> Iterator[TrainingScreen]:
    """Show a progress bar during the training, and a line and a sample after each epoch."""
    screen = TrainingScreen(view.completed, view.batch_tokens, view.tokens_per_character, view.sample)
    with screen.bar:
        yield screen


def _print_summary(folder: Path, summary: TrainingSummary) -> None:
    """Print a table of the losses, and a hint if the training over-fits."""
    metrics = summary.metrics
    rows: list[tuple[str, Any]] = [
        *((name.replace("_", " "), f"{value:,.4f}") for name, value in metrics["validation"].items()),
        ("training nats per token", f"{metrics['train_nats_per_token']:.4f}"),
        ("minutes", f"{metrics['minutes']:.1f}"),
        ("tokens per second", f"{metrics['tokens_per_second']:,.0f}"),
        ("curve", folder / CURVE),
    ]
    console.table(f"{folder}: best epoch, {summary.scored_text}", ("measure", "value"), rows)
    if hint := training_hint.overfitting_hint(folder, summary.recipe, summary.characters, summary.history):
        console.out.print(hint, markup=False)
