"""Run a training from the command line: handle signals, show the progress, and print the result."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from keras_lstmgen.cli import console
from keras_lstmgen.cli.display import training_hint
from keras_lstmgen.cli.display.training_screen import TrainingScreen
from keras_lstmgen.cli.stop_signals import stop_on_signals
from keras_lstmgen.distribution.stop_votes import StopRequest
from keras_lstmgen.training import continuation_report
from keras_lstmgen.training.loop import Display, TrainingView
from keras_lstmgen.training.summary import CURVE, TrainingSummary
from keras_lstmgen.training.trainer import TrainingResult
from keras_lstmgen.utils.errors import shell_quoted


class Train(Protocol):
    """The type of a training function, such as a ``functools.partial`` of ``trainer.train``."""

    def __call__(self, *, stop: StopRequest, display: Display) -> TrainingResult:
        """Train a model and return the result.

        Args:
            stop: the training ends early if this object contains a request.
            display: function that returns a context manager. The context manager yields a callback that shows the
                progress.
        """


def run_training(train: Train) -> Path:
    """Call a training function, show the progress, and print the result.

    Args:
        train: the training function.

    Returns:
        The folder of the run.
    """
    with stop_on_signals() as stop:
        result = train(stop=stop, display=_screen)
    if result.summary:
        _print_summary(result.folder, result.summary)
    if result.interrupted:
        folder = shell_quoted(result.folder)
        console.out.print(
            f"Stopped by Ctrl-C. The run is saved. To continue: keras-lstmgen train --resume {folder}", markup=False
        )
    return result.folder


@contextmanager
def _screen(view: TrainingView) -> Iterator[TrainingScreen]:
    """Show a progress bar inside the context, and yield the callback that updates the progress bar."""
    screen = TrainingScreen(view.completed, view.batch_tokens, view.tokens_per_character, view.sample)
    with screen.bar:
        yield screen


def _print_summary(folder: Path, summary: TrainingSummary) -> None:
    """Print a table of the results of a training, and a hint if the model over-fits."""
    metrics = summary.metrics
    rows: list[tuple[str, Any]] = [
        *((name.replace("_", " "), f"{value:,.4f}") for name, value in metrics["validation"].items()),
        ("training nats per token", f"{metrics['train_nats_per_token']:.4f}"),
        ("minutes", f"{metrics['minutes']:.1f}"),
        ("tokens per second", f"{metrics['tokens_per_second']:,.0f}"),
        ("curve", folder / CURVE),
    ]
    console.table(f"{folder}: best epoch, {summary.scored_text}", ("measure", "value"), rows)
    if losses := metrics.get(continuation_report.KEY):
        _print_continuation(losses)
    if hint := training_hint.overfitting_hint(folder, summary.recipe, summary.characters, summary.history):
        console.out.print(hint, markup=False)


def _print_continuation(losses: dict[str, Any]) -> None:
    """Print a table of the losses before and after a training that started from another run."""
    rows = []
    for key, text in (("old", "text of the earlier run"), ("new", "new text")):
        values = losses[key] or {}
        figures = [f"{values[when]:.4f}" if when in values else "not available" for when in ("before", "after")]
        rows.append((text, *figures))
    title = f"started from {losses['run']}: nats per token on held-out text"
    console.table(title, ("held-out text", "before", "after"), rows)
