"""Keras callbacks that write the files of a run during training: checkpoints, best weights, history and samples."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lstmgen.distribution import workers
from keras_lstmgen.files import atomic
from keras_lstmgen.models.run_directory import MODEL, WHOLE
from keras_lstmgen.training import checkpoint
from keras_lstmgen.training.callbacks.controller import TrainingController
from keras_lstmgen.training.callbacks.validation import DivergedError
from keras_lstmgen.utils.errors import UserError

HISTORY, SAMPLES = "history.json", "samples.txt"
SAVE_INTERVAL = 60.0  # minimum time between two checkpoints within an epoch, in seconds
MAX_SAVING_SHARE = 0.02  # maximum share of the training time for saving checkpoints within an epoch


class CheckpointSaver(keras.callbacks.Callback):
    """Save checkpoints during and after each epoch, and the best weights and the history after each epoch.

    This callback also ends the training if the validation loss has not improved for ``patience`` epochs.

    Args:
        folder: folder of the run.
        controller: the training controller.
        inference_model: the model on which the validation loss is measured. The weights of this model are saved.
    """

    def __init__(self, folder: Path, controller: TrainingController, inference_model: keras.Sequential) -> None:
        """Create the callback."""
        super().__init__()
        self.folder, self.controller, self.inference_model = folder, controller, inference_model
        self.record_save(0.0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Save a checkpoint within an epoch if the last checkpoint is old enough."""
        elapsed = self.controller.progress.seconds - self._saved_at
        is_due = elapsed >= max(SAVE_INTERVAL, self._save_seconds / MAX_SAVING_SHARE)
        if is_due and self.controller.is_within_epoch() and not self.controller.is_over():
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Save a checkpoint and the history, and save the weights if the validation loss is the lowest so far.

        If the training pauses within an epoch, this method saves the checkpoint before it adds the additional
        validation to the progress, so that a resumed training gives the same results as a training without a pause.
        The best weights and the history do include the additional validation.
        """
        is_paused = self.controller.is_paused()
        if is_paused:
            self.save()
        if self._add_to_history(logs) and workers.is_chief():
            before = self.folder / WHOLE if is_paused else None
            with atomic.replacing(self.folder / MODEL, before=before) as path:
                self.inference_model.save(path)
        if not is_paused:
            progress = self.controller.progress
            # After a whole epoch without a divergence, a new divergence has a new cause, so the count starts at 0.
            progress.lately *= self.controller.is_within_epoch()
            self.save()
        if workers.is_chief():
            atomic.write_json(self.folder / HISTORY, self.controller.progress.history)
        if self.controller.is_stale():
            self.model.stop_training = True

    def save(self) -> None:
        """Save a checkpoint.

        Raises:
            DivergedError: if a variable contains a value that is not finite. In this case, no checkpoint is saved.
        """
        diverged = [
            variable.path
            for variable in (*self.model.variables, *self.model.optimizer.variables)
            if not np.isfinite(variable.numpy()).all()
        ]
        if workers.all_reduce_sum(np.array(len(diverged))) > 0:
            name = f"the variable {diverged[0]}" if diverged else "a variable of another worker"
            raise DivergedError(f"{name} is no longer finite")
        self.record_save(checkpoint.save(self.folder, self.model, self.controller.progress))

    def record_save(self, seconds: float) -> None:
        """Record the current time as the time of the last checkpoint, and the seconds that were needed to save it."""
        self._saved_at, self._save_seconds = self.controller.progress.seconds, seconds

    def _add_to_history(self, logs: dict[str, float]) -> bool:
        """Add the losses of an epoch to the history, and return whether the validation loss is the best so far."""
        progress = self.controller.progress
        is_best = logs["val_loss"] < progress.best
        progress.best = min(logs["val_loss"], progress.best)
        # An incomplete epoch does not count as an epoch without improvement.
        progress.stale = 0 if is_best else progress.stale + (not self.controller.is_within_epoch())
        row = {"windows": progress.windows, "seconds": progress.seconds}
        progress.history.append({**row, "loss": logs["loss"], "val_loss": logs["val_loss"]})
        return is_best


class SampleWriter(keras.callbacks.Callback):
    """Append a generated text to ``samples.txt`` after each epoch.

    Args:
        folder: folder of the run.
        controller: the training controller.
        generate: a function that generates and returns a text.
        settings: description of the generation settings, which is written above each text.

    Attributes:
        text: the text that was generated last. "" before the first epoch ends.
    """

    def __init__(
        self, folder: Path, controller: TrainingController, generate: Callable[[], str], settings: str
    ) -> None:
        """Create the callback."""
        super().__init__()
        self.folder, self.controller, self.generate, self.settings = folder, controller, generate, settings
        self.text = ""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Generate a text and append it to the file."""
        self.text = self.generate()
        with (self.folder / SAMPLES).open("a", encoding="utf-8") as file:
            file.write(f"--- after {self.controller.epochs():.2f} epochs, {self.settings}\n{self.text}\n\n")


@contextmanager
def tensorboard_errors(folder: Path, alias: Path) -> Iterator[None]:
    """Convert TensorFlow's error to UserError if TensorFlow cannot write the logs for TensorBoard.

    Args:
        folder: path of the folder of the logs for the error message.
        alias: another path of the same folder. TensorFlow writes to this path.

    Raises:
        UserError: if the code in the context raises an error about ``alias``.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if str(alias) not in error.message:
            raise
        reason = error.message.splitlines()[0].rpartition("}} ")[2]
        raise UserError(f"{folder}: could not be written ({reason}); the previous version is kept") from error
