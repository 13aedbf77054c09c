"""Measure the loss on the held-out text after each epoch, and check that the training has not diverged."""

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.data import example_batches
from keras_lstmgen.data.example_batches import Examples
from keras_lstmgen.distribution import workers
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.layers.regularization import ActivationRegularization
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.training.callbacks.controller import TrainingController
from keras_lstmgen.training.input_pipeline import TrainingData

EXCHANGE_INTERVAL = 0.5  # seconds between two exchanges of stop requests while the chief measures the loss
MAX_LOSS = 50.0  # nats per token; far above 14, the loss if a million tokens have equal probabilities
# A held-out text is divided into at most MAX_PARTS parts of at least PART_TOKENS tokens. One batch scores all parts.
MAX_PARTS, PART_TOKENS = 64, 2048

# A function that measures and returns a loss. It regularly calls its argument, a callback for the progress.
Measure = Callable[[Callable[[int], None]], float]


class DivergedError(Exception):
    """A divergence: a loss or a variable is not finite, or a loss is too large. The message contains the reason."""


class Validation(keras.callbacks.Callback):
    """Measure the loss on the held-out text after each epoch, and add it to the logs as ``val_loss``.

    ``val_loss`` is in nats per token. The training loss in the logs includes penalties of regularization layers. This
    callback subtracts these penalties, so that the two losses are comparable. The callback raises DivergedError if a
    loss has diverged.

    Args:
        measure: a function that returns the loss on the held-out text, in nats per token.
        controller: the training controller.
        max_batch_weight: the largest weight of a batch in the loss, as a multiple of the average weight of a batch.

    Attributes:
        batch_loss: loss of the last batch, in nats per token.
    """

    def __init__(
        self, measure: Callable[[], float], controller: TrainingController, max_batch_weight: float = 1.0
    ) -> None:
        """Create the callback."""
        super().__init__()
        self.measure, self.controller, self.max_batch_weight = measure, controller, max_batch_weight
        self.batch_loss = math.nan
        self._sum: float | None = None  # sum of the losses of the batches of this epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Reset the sum of the losses of the batches."""
        self._sum = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Compute the loss of this batch, and check that it has not diverged.

        The logs of Keras contain only the mean loss of all batches of the epoch so far.
        """
        _subtract_penalty(logs)
        count = (self.controller.progress.windows - 1) % self.controller.batches_per_epoch + 1
        before, self._sum = self._sum, logs["loss"] * count
        self.batch_loss = logs["loss"] if before is None else self._sum - before
        _check(self.batch_loss / self.max_batch_weight)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Measure the loss on the held-out text, and check that it has not diverged."""
        _subtract_penalty(logs)
        logs["val_loss"] = self.measure()
        _check(logs["val_loss"])


def _check(loss: float) -> None:
    """Raise DivergedError if a loss, in nats per token, is not finite or exceeds ``MAX_LOSS``."""
    if not math.isfinite(loss):
        raise DivergedError("the loss is no longer a finite number")
    if loss > MAX_LOSS:
        raise DivergedError(f"the loss has risen to {loss:,.0f} nats per token")


def _subtract_penalty(logs: dict[str, Any]) -> None:
    """Subtract the penalty of ``ActivationRegularization`` from ``loss`` in the logs."""
    logs["loss"] -= logs.pop(ActivationRegularization.METRIC, 0.0)


def copy_weights(model: keras.Sequential, inference_model: keras.Sequential) -> None:
    """Copy the weights of the training model, or their averages if the optimizer computes averages."""
    inference_model.set_weights(model.get_weights())
    model.optimizer.finalize_variable_values(inference_model.trainable_variables)


def held_out_loss(data: TrainingData, run: Run) -> Measure:
    """Create a function that measures the loss on the held-out text, in nats per predicted token.

    Args:
        data: the data of the training.
        run: the run with the inference model.

    Returns:
        A function that measures and returns the loss. The argument of the function is a callback for the progress.
    """
    return text_loss(run, data.held_out_ids, data.validation_examples)


def text_loss(run: Run, ids: NDArray[np.integer], examples: Examples | None) -> Measure:
    """Create a function that measures the loss on a text, in nats per predicted token.

    Args:
        run: the run with the inference model.
        ids: the ids of the text, integer [N].
        examples: the documents or pairs of the text. None if the model reads the text as continuous text.

    Returns:
        See ``held_out_loss``.
    """
    score = likelihood.scorer(run.weights)
    if examples is not None:
        of_examples, targets = examples, example_batches.target_tokens(examples)
        return lambda on_progress: likelihood.examples_nll(run.weights, of_examples, score, on_progress) / targets
    tokens = len(ids) - 1
    parts = max(1, min(MAX_PARTS, len(ids) // PART_TOKENS))
    return lambda on_progress: likelihood.stream_nll(run.weights, ids, parts, score, on_progress) / tokens


def measure_on_chief(controller: TrainingController, measure: Measure) -> float:
    """Measure the loss on the chief, and return it on all workers. All workers must call this function.

    Args:
        controller: the training controller of this worker.
        measure: result of ``held_out_loss``.

    Raises:
        Terminated: if a worker receives SIGTERM before the measurement ends.
    """
    if workers.size() == 1:
        return measure(lambda _: controller.raise_if_terminated())
    if workers.is_chief():
        return _exchange(controller, 1.0, measure(_periodic_exchange(controller)))[1]
    while not (answer := _exchange(controller))[0]:
        pass
    return answer[1]


def _periodic_exchange(controller: TrainingController) -> Callable[[int], None]:
    """Create a function that exchanges stop requests with all workers at most once per ``EXCHANGE_INTERVAL``."""
    last = 0.0

    def exchange(_: int) -> None:
        nonlocal last
        if time.monotonic() >= last + EXCHANGE_INTERVAL:
            _exchange(controller)
            last = time.monotonic()

    return exchange


def _exchange(controller: TrainingController, finished: float = 0.0, loss: float = 0.0) -> tuple[float, float]:
    """Exchange stop requests, and send the result of the chief to all workers.

    Args:
        controller: the training controller of this worker.
        finished: on the chief, 1 after the measurement and 0 before it. 0 on other workers.
        loss: on the chief, the loss after the measurement. 0 on other workers.

    Returns:
        The values of ``finished`` and ``loss`` on the chief.
    """
    finished, loss = controller.votes.total([finished, loss])
    controller.raise_if_terminated()
    return finished, loss
