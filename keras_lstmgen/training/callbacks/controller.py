"""Training controller: a Keras callback that sets the learning rate and stops a training."""

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
    """Set the learning rate, reset the LSTM states at the start of an epoch, and stop at a limit or on request.

    If a training resumes in the middle of an epoch, Keras starts a new epoch there. This callback ends the new Keras
    epoch when the interrupted epoch is complete.

    Args:
        settings: the training settings of the recipe: learning-rate schedule, limits and patience.
        progress: progress of the training. This callback updates it.
        batches_per_epoch: number of batches per epoch.
        stop: stop request of this worker.
    """

    def __init__(
        self, settings: recipe.Training, progress: Progress, batches_per_epoch: int, stop: StopRequest
    ) -> None:
        """Create the callback and start to measure the training time."""
        super().__init__()
        self.settings, self.progress, self.batches_per_epoch = settings, progress, batches_per_epoch
        self.votes = StopVotes(stop)
        self._began = time.monotonic() - progress.seconds

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Restore the metrics of an interrupted epoch, because Keras resets all metrics when it starts an epoch."""
        if self.is_within_epoch():
            checkpoint.restore_metrics(self.model, self.progress)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Set the learning rate, and reset the LSTM states before the first batch of an epoch."""
        if not self.is_within_epoch():
            for layer in layers_of(self.model):
                if isinstance(layer, CARRYING):
                    layer.reset_states()
        # Count this batch as completed, because the learning rate of the first warm-up batch would otherwise be 0.
        ahead = Progress(self.progress.windows + 1, self.progress.seconds)
        completed = schedule.completed_share(self.settings, ahead, self.batches_per_epoch)
        rate = schedule.learning_rate(self.settings, completed) / 2**self.progress.setbacks
        self.model.optimizer.learning_rate.assign(rate)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Count the batch. End the Keras epoch if the epoch is complete, at a limit or on request.

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
        """Average the losses over all workers. End the training at a limit or on request."""
        if workers.size() > 1:
            self._average(logs)
        self.model.stop_training = self.is_over()

    def _average(self, logs: dict[str, Any], *others: float) -> list[float]:
        """Replace the losses in ``logs`` by their means over all workers, and return the sums of ``others``."""
        names = sorted(logs)
        sums = self.votes.total([*(logs[name] for name in names), *others])
        logs.update(zip(names, (value / workers.size() for value in sums), strict=False))
        return sums[len(names) :]

    @property
    def interrupted(self) -> bool:
        """Whether a stop request asks the training to end after a last validation."""
        return self.votes.interrupted

    @property
    def terminated(self) -> bool:
        """Whether a worker received SIGTERM, so that the training must end without a validation."""
        return self.votes.terminated

    def raise_if_terminated(self) -> None:
        """Raise Terminated if a worker received SIGTERM."""
        if self.terminated:
            raise Terminated("stopped by SIGTERM")

    def completed(self) -> float:
        """Return the completed share of the training, from 0 to 1."""
        return schedule.completed_share(self.settings, self.progress, self.batches_per_epoch)

    def epochs(self) -> float:
        """Return the number of epochs so far, including the completed fraction of the current epoch."""
        return self.progress.windows / self.batches_per_epoch

    def is_within_epoch(self) -> bool:
        """Return whether the current epoch has begun but is not complete."""
        return self.progress.windows % self.batches_per_epoch != 0

    def is_validated(self) -> bool:
        """Return whether every completed epoch has a validation loss."""
        rows = self.progress.history
        return self.is_within_epoch() or self.progress.windows == (rows[-1]["windows"] if rows else 0)

    def is_stale(self) -> bool:
        """Return whether the validation loss has not improved for ``patience`` epochs."""
        return 0 < self.settings.patience <= self.progress.stale

    def is_paused(self) -> bool:
        """Return whether a stop request ends the training within an epoch, before the training reaches a limit."""
        return self.interrupted and self.is_within_epoch() and self.completed() < 1

    def is_over(self) -> bool:
        """Return whether the training must end now, because of a limit or a stop request."""
        return self.interrupted or self.completed() >= 1
