"""Write the loss, the learning rate and the speed for TensorBoard after every few updates."""

import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_lstmgen.training.callbacks.controller import TrainingController
from keras_lstmgen.training.callbacks.validation import Validation

STEPS = "steps"  # subfolder of the logs
INTERVAL = 20  # number of updates between two entries


class StepLogs(keras.callbacks.Callback):
    """Write three scalars for TensorBoard after every ``INTERVAL`` updates and at the end of an epoch.

    The scalars are ``loss`` (mean loss of the batches since the last entry, in nats per token), ``learning_rate``, and
    ``tokens_per_second``, without the time for validation. The step of an entry is the number of updates since the
    beginning of the run, also in a resumed training.

    Args:
        folder: folder of the logs of the run.
        controller: the training controller.
        validation: the callback that computes the loss of each batch.
        batch_tokens: average number of tokens in a batch.
    """

    def __init__(
        self, folder: Path, controller: TrainingController, validation: Validation, batch_tokens: float
    ) -> None:
        """Create the callback."""
        super().__init__()
        self.folder, self.controller, self.validation = folder, controller, validation
        self.batch_tokens = batch_tokens
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        """Open an event file."""
        self._writer = tf.summary.create_file_writer(str(self.folder / STEPS))
        self._begin_interval()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Begin a new interval, so that the measured time excludes the validation."""
        self._begin_interval()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Add the loss of a batch, and write an entry after every ``INTERVAL`` updates."""
        self._losses.append(self.validation.batch_loss)
        self._ended = time.monotonic()
        if self.controller.progress.windows % INTERVAL == 0 or not self.controller.is_within_epoch():
            self._write()

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        """Close the event file."""
        self._writer.close()

    def _begin_interval(self) -> None:
        """Begin an interval without batches."""
        self._losses: list[float] = []
        self._began = self._ended = time.monotonic()

    def _write(self) -> None:
        """Write an entry, and begin a new interval."""
        seconds = max(self._ended - self._began, 1e-9)
        values = {
            "loss": sum(self._losses) / len(self._losses),
            "learning_rate": float(self.model.optimizer.learning_rate.numpy()),
            "tokens_per_second": self.batch_tokens * len(self._losses) / seconds,
        }
        with self._writer.as_default(step=self.controller.progress.windows):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._begin_interval()
