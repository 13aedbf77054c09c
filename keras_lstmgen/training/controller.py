"""Training controller: a Keras callback for the learning rate, the limits of a training and early stops."""

import time
from typing import Any

import keras

from keras_lstmgen.config import recipe
from keras_lstmgen.distribution import workers
from keras_lstmgen.distribution.stop_votes import StopRequest, StopVotes
from keras_lstmgen.layers.ensemble import layers_of
from keras_lstmgen.training import checkpoint, schedule
from keras_lstmgen.training.checkpoint import CARRYING, Progress
from keras_lstmgen.utils.errors import Terminated


class TrainingController(keras.callbacks.Callback):
    """Set the learning rate, reset the LSTM state at the start of an epoch, and stop at a limit or on request.

    A training that continues within an epoch starts in the middle of a Keras epoch. This callback ends that Keras epoch
    at the point where the epoch would have ended without the stop.

    Args:
        settings: the schedule and the limits.
        progress: progress of the training; this callback updates it.
        batches_per_epoch: number of batches per epoch.
        stop: stop request of this worker.
    """

    def __init__(
        self, settings: recipe.Training, progress: Progress, batches_per_epoch: int, stop: StopRequest
    ) -> None:
        """Create the callback and start its clock."""
        super().__init__()
        self.settings, self.progress, self.batches_per_epoch = settings, progress, batches_per_epoch
        self.votes = StopVotes(stop)
        self._began = time.monotonic() - progress.seconds

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Restore the mean losses of an epoch that continues, because Keras has just reset them."""
        if self.is_within_epoch():
            checkpoint.restore_metrics(self.model, self.progress)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Set the learning rate, and reset the LSTM state before the first batch of an epoch."""
        if not self.is_within_epoch():
            for layer in layers_of(self.model):
                if isinstance(layer, CARRYING):
                    layer.reset_states()
        # + 1, because the first update of a warm-up must not have a rate of 0.
        ahead = Progress(self.progress.windows + 1, self.progress.seconds)
        completed = schedule.completed_share(self.settings, ahead, self.batches_per_epoch)
        rate = schedule.learning_rate(self.settings, completed) / 2**self.progress.setbacks
        self.model.optimizer.learning_rate.assign(rate)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Count the batch; end the Keras epoch at the end of the epoch, at a limit or on request.

        Raises:
            Terminated: if a worker received SIGTERM.
        """
        self.progress.windows += 1
        self.progress.seconds = time.monotonic() - self._began
        if workers.size() > 1:
            seconds = self.progress.seconds if workers.is_chief() else 0.0
            (self.progress.seconds,) = self._average(logs, seconds)
        self.model.stop_training = self.is_over() or not self.is_within_epoch()
        self.raise_if_terminated()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Average the losses over all workers, and let Keras continue with the next epoch unless a limit is reached."""
        if workers.size() > 1:
            self._average(logs)
        self.model.stop_training = self.is_over()

    def _average(self, logs: dict[str, Any], *others: float) -> list[float]:
        """Replace the losses in ``logs`` by their means over all workers, and return the sums of other values."""
        names = sorted(logs)
        sums = self.votes.total([*(logs[name] for name in names), *others])
        logs.update(zip(names, (value / workers.size() for value in sums), strict=False))
        return sums[len(names) :]

    @property
    def interrupted(self) -> bool:
        """Whether the training was asked to end after a last validation."""
        return self.votes.interrupted

    @property
    def terminated(self) -> bool:
        """Whether the training was asked to end without a validation."""
        return self.votes.terminated

    def raise_if_terminated(self) -> None:
        """Raise Terminated if the training was asked to end without a validation."""
        if self.terminated:
            raise Terminated("stopped by SIGTERM")

    def completed(self) -> float:
        """Return the completed share of the training, 0 to 1."""
        return schedule.completed_share(self.settings, self.progress, self.batches_per_epoch)

    def epochs(self) -> float:
        """Return the number of epochs so far."""
        return self.progress.windows / self.batches_per_epoch

    def is_within_epoch(self) -> bool:
        """Return whether an epoch has begun and not ended."""
        return self.progress.windows % self.batches_per_epoch != 0

    def is_validated(self) -> bool:
        """Return whether every completed epoch has a validation loss."""
        rows = self.progress.history
        return self.is_within_epoch() or self.progress.windows == (rows[-1]["windows"] if rows else 0)

    def is_stale(self) -> bool:
        """Return whether the training ends because ``patience`` epochs brought no better validation loss."""
        return 0 < self.settings.patience <= self.progress.stale

    def is_paused(self) -> bool:
        """Return whether the training ends within an epoch on request, before it reaches a limit."""
        return self.interrupted and self.is_within_epoch() and self.completed() < 1

    def is_over(self) -> bool:
        """Return whether the training ends now, at a limit or on request."""
        return self.interrupted or self.completed() >= 1
