"""Validation: the loss on the held-out text after each epoch, and the check that the loss has not diverged."""

import math
import time
from collections.abc import Callable
from typing import Any

import keras

from keras_lstmgen.distribution import workers
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.layers.regularization import ActivationRegularization
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.training.controller import TrainingController
from keras_lstmgen.training.input_pipeline import TrainingData

EXCHANGE_INTERVAL = 0.5  # seconds between two exchanges of stop requests while the chief measures
MAX_LOSS = 50.0  # nats per token; a uniform guess among a million tokens costs 14
MAX_PARTS, PART_TOKENS = 64, 2048  # of a held-out text that is scored in parts side by side

Measure = Callable[[Callable[[int], None]], float]  # measures a loss, and calls its argument from time to time


class DivergedError(Exception):
    """The loss is not finite or too large; the message says which."""


class Validation(keras.callbacks.Callback):
    """Add ``val_loss``, in nats per token of the held-out text, to the logs of each epoch.

    Penalties are subtracted from ``loss`` in the logs, so that both losses are comparable. The callback raises
    DivergedError if one of them has diverged.

    Args:
        measure: a function that returns the loss on the held-out text.
        controller: the training controller.
        max_batch_weight: the largest weight of a batch in the loss, in average batches.
    """

    def __init__(
        self, measure: Callable[[], float], controller: TrainingController, max_batch_weight: float = 1.0
    ) -> None:
        """Create the callback."""
        super().__init__()
        self.measure, self.controller, self.max_batch_weight = measure, controller, max_batch_weight
        self._sum: float | None = None  # of the losses of this epoch's batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Reset the sum of the losses."""
        self._sum = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Check the loss of this batch alone, which the mean loss in ``logs`` hides."""
        _subtract_penalty(logs)
        count = (self.controller.progress.windows - 1) % self.controller.batches_per_epoch + 1
        before, self._sum = self._sum, logs["loss"] * count
        _check((logs["loss"] if before is None else self._sum - before) / self.max_batch_weight)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Measure the loss on the held-out text."""
        _subtract_penalty(logs)
        logs["val_loss"] = self.measure()
        _check(logs["val_loss"])


def _check(loss: float) -> None:
    """Raise DivergedError if a loss in nats per token is not finite or too large."""
    if not math.isfinite(loss):
        raise DivergedError("the loss is no longer a finite number")
    if loss > MAX_LOSS:
        raise DivergedError(f"the loss has risen to {loss:,.0f} nats per token")


def _subtract_penalty(logs: dict[str, Any]) -> None:
    """Subtract the penalty of ``ActivationRegularization`` from ``loss``."""
    logs["loss"] -= logs.pop(ActivationRegularization.METRIC, 0.0)


def copy_weights(model: keras.Sequential, inference_model: keras.Sequential) -> None:
    """Copy the weights of the training model, averaged if the optimizer averages them, into the inference model."""
    inference_model.set_weights(model.get_weights())
    model.optimizer.finalize_variable_values(inference_model.trainable_variables)


def held_out_loss(data: TrainingData, run: Run) -> Measure:
    """Create a function that measures the loss on the held-out text, in nats per predicted token.

    Args:
        data: the data of the training.
        run: the inference run.
    """
    ids, score = data.held_out_ids, likelihood.scorer(run.weights)
    examples, tokens = data.validation_examples, data.scored_tokens
    if examples is not None:
        return lambda on_progress: likelihood.examples_nll(run.weights, examples, score, on_progress) / tokens
    parts = max(1, min(MAX_PARTS, len(ids) // PART_TOKENS))
    return lambda on_progress: likelihood.stream_nll(run.weights, ids, parts, score, on_progress) / tokens


def measure_on_chief(controller: TrainingController, measure: Measure) -> float:
    """Measure a loss on the chief, and return it on all workers.

    Raises:
        Terminated: while the chief measures, if a worker received SIGTERM.
    """
    if workers.size() == 1:
        return measure(lambda _: controller.raise_if_terminated())
    if workers.is_chief():
        return _exchange(controller, 1.0, measure(_periodic_exchange(controller)))[1]
    while not (answer := _exchange(controller))[0]:
        pass
    return answer[1]


def _periodic_exchange(controller: TrainingController) -> Callable[[int], None]:
    """Create a function that exchanges stop requests if the last exchange was ``EXCHANGE_INTERVAL`` ago."""
    last = 0.0

    def exchange(_: int) -> None:
        nonlocal last
        if time.monotonic() >= last + EXCHANGE_INTERVAL:
            _exchange(controller)
            last = time.monotonic()

    return exchange


def _exchange(controller: TrainingController, finished: float = 0.0, loss: float = 0.0) -> tuple[float, float]:
    """Return on all workers whether the chief has finished (1 or 0) and its loss, and exchange stop requests."""
    finished, loss = controller.votes.total([finished, loss])
    controller.raise_if_terminated()
    return finished, loss
