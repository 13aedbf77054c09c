"""Show the messages and the progress of a call with ``verbose=1``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_lstmgen.reporting import reporter
from keras_lstmgen.reporting.reporter import Reporter
from keras_lstmgen.training.loop import TrainingView
from keras_lstmgen.utils.errors import UserError


class PrintingReporter(Reporter):
    """Prints the messages of the library to standard output."""

    def message(self, text: str) -> None:
        """Print one line."""
        print(text, flush=True)


class ProgressBar(keras.callbacks.ProgbarLogger):
    """The progress bar of ``model.fit(verbose=1)``. The training itself calls ``fit`` with ``verbose=0``."""

    def set_params(self, params: dict[str, Any]) -> None:
        """Set the parameters of the training, and show the progress."""
        super().set_params({**params, "verbose": 1})


@contextmanager
def progress_bar(view: TrainingView) -> Iterator[keras.callbacks.Callback]:  # noqa: ARG001
    """Yield the progress bar of a training."""
    yield ProgressBar()


def check(verbose: int) -> None:
    """Raise UserError if ``verbose`` is neither 0 nor 1."""
    if verbose not in (0, 1):
        raise UserError(f"verbose: {verbose!r:.60} is not 0 (no output) or 1 (messages and a progress bar)")


@contextmanager
def reports(verbose: int) -> Iterator[None]:
    """Print the messages of the library inside the context if ``verbose`` is 1, and discard them if it is 0."""
    check(verbose)
    with reporter.use(PrintingReporter() if verbose else Reporter()):
        yield
