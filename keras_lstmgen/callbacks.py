"""What happens around the batches of ``model.fit``: the rate, the limits, the validation, the files, the screen."""

import io
import json
import math
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lstmgen import files, recipe
from keras_lstmgen.attention import Attention
from keras_lstmgen.ensemble import layers_of
from keras_lstmgen.errors import UserError
from keras_lstmgen.regularization import ActivationRegularization
from keras_lstmgen.run import CHECKPOINT, MODEL

CARRYING = (keras.layers.LSTM, Attention)  # layers that leave something to the next window of a text


@dataclass
class Progress:
    """How far a training is; it stands in every checkpoint."""

    windows: int = 0  # batches trained on, over all epochs
    seconds: float = 0.0
    best: float = math.inf  # lowest validation loss, nats per token
    stale: int = 0  # whole epochs since then
    text: str = ""  # sha256 of the ids that it learns from and is measured on
    history: list[dict[str, float]] = field(default_factory=list)  # a row an epoch


def rate(settings: recipe.Training, progress: float) -> float:
    """The learning rate when ``progress`` of the training (0 to 1) is over: a warm-up from 0, then a cosine to 1 %.

    Source of the cosine: Loshchilov and Hutter, "SGDR", 2017.
    """
    if progress < settings.warmup:
        return settings.learning_rate * (progress / settings.warmup)
    over = min((progress - settings.warmup) / max(1 - settings.warmup, 1e-9), 1.0)
    return settings.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * over)) / 2)


def done(settings: recipe.Training, progress: Progress, windows: int) -> float:
    """The part of the training that is over, by epochs of so many ``windows`` or by minutes, whichever is further.

    Where epochs alone limit it, the clock plays no part, and the same recipe gives the same losses.
    """
    by_epochs = progress.windows / (settings.epochs * windows) if settings.epochs else 0.0
    by_minutes = progress.seconds / (60 * settings.minutes) if settings.minutes else 0.0
    return min(max(by_epochs, by_minutes), 1.0)


class Pace(keras.callbacks.Callback):
    """Sets the rate, begins each epoch's streams with an empty state, and stops at a limit or a signal.

    After a stop within an epoch Keras counts on from there: its first epoch is cut short, so that all end where they
    would have ended without the stop.
    """

    def __init__(self, settings: recipe.Training, progress: Progress, windows: int) -> None:
        """Keep ``progress`` up to date; an epoch has so many ``windows``."""
        super().__init__()
        self.settings, self.progress, self.windows = settings, progress, windows
        self.interrupted = False
        self._began = time.monotonic() - progress.seconds

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Set the rate; forget the state where the next window continues none."""
        if self.progress.windows % self.windows == 0:
            for layer in layers_of(self.model):
                if isinstance(layer, CARRYING):
                    layer.reset_states()
        # + 1, so that the first update of a warm-up is not made at rate 0.
        ahead = Progress(self.progress.windows + 1, self.progress.seconds)
        self.model.optimizer.learning_rate.assign(rate(self.settings, done(self.settings, ahead, self.windows)))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Count; leave Keras's epoch at the end of the streams, when the time is over, or after Ctrl-C."""
        self.progress.windows += 1
        self.progress.seconds = time.monotonic() - self._began
        self.model.stop_training = self._over() or self.progress.windows % self.windows == 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Go on with the next epoch, unless it is over."""
        self.model.stop_training = self._over()

    def interrupt(self) -> None:
        """End after the batch in hand, or after the validation if that is running."""
        self.interrupted = True
        if self.model:  # it has none before ``fit``
            self.model.stop_training = True

    def done(self) -> float:
        """The part of the training that is over."""
        return done(self.settings, self.progress, self.windows)

    def _over(self) -> bool:
        return self.interrupted or self.done() >= 1


@contextmanager
def ctrl_c_ends(pace: Pace) -> Iterator[None]:
    """Let the first Ctrl-C end the training after the batch in hand, saved; a second one breaks it off at once."""

    def end(number: int, frame: Any) -> None:
        if pace.interrupted:
            signal.default_int_handler(number, frame)
        pace.interrupt()

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Validate(keras.callbacks.Callback):
    """Adds ``val_loss``, nats per token of the held-out text with the state carried, to the logs of each epoch.

    ``loss`` in the logs becomes the negative log-likelihood alone, comparable with it.
    """

    def __init__(self, loss: Callable[[], float]) -> None:
        """Take what computes the loss."""
        super().__init__()
        self.loss, self.epoch = loss, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Remember the epoch, for the message."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Stop at once where the training itself has failed."""
        self._check(logs["loss"])
        _without_penalty(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Compute it; later callbacks find it in ``logs``."""
        _without_penalty(logs)
        logs["val_loss"] = self.loss()
        self._check(logs["val_loss"])

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is no number any more in epoch {self.epoch + 1}; lower training.learning_rate or "
                "training.clip_norm, and train again or --resume what was saved"
            )


def _without_penalty(logs: dict[str, Any]) -> None:
    """Take out of ``loss`` what ``ActivationRegularization`` added."""
    logs["loss"] -= logs.pop(ActivationRegularization.METRIC, 0.0)


class Keep(keras.callbacks.Callback):
    """Saves after each epoch: best weights, checkpoint, history. Stops when it gets no better."""

    def __init__(
        self, folder: Path, settings: recipe.Training, progress: Progress, windows: int, twin: keras.Sequential
    ) -> None:
        """Save into ``folder``; ``twin`` is the model that writes, of which ``val_loss`` was measured."""
        super().__init__()
        self.folder, self.settings, self.progress, self.windows, self.twin = folder, settings, progress, windows, twin

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Save."""
        progress = self.progress
        better, whole = logs["val_loss"] < progress.best, progress.windows % self.windows == 0
        progress.best = min(logs["val_loss"], progress.best)
        progress.stale = 0 if better else progress.stale + whole  # a stop half-way is no verdict
        progress.history.append(
            {
                "windows": progress.windows,
                "seconds": progress.seconds,
                "loss": logs["loss"],
                "val_loss": logs["val_loss"],
            }
        )
        if better:
            with files.replacing(self.folder / MODEL) as path:
                self.twin.save(path)
        save_checkpoint(self.folder / CHECKPOINT, self.model, progress)
        files.write_json(self.folder / "history.json", progress.history)
        if self.settings.patience and progress.stale >= self.settings.patience:
            self.model.stop_training = True


def save_checkpoint(path: Path, model: keras.Sequential, progress: Progress) -> None:
    """Save weights, optimizer, carried states, seeds and progress as one ``.keras`` file, whole or not at all."""
    states = io.BytesIO()
    np.savez(states, *(state.numpy() for state in carried(model)))
    with files.replacing(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:  # Keras passes over members that it does not know
            archive.writestr("carried.npz", states.getvalue())
            archive.writestr("progress.json", json.dumps(asdict(progress)))


def load_checkpoint(path: Path, model: keras.Sequential, text: str) -> Progress:
    """Put a checkpoint's weights, optimizer and carried states into a compiled ``model``; give the progress.

    Raises UserError if it is damaged, or of another ``text`` (``Progress.text``).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            progress = Progress(**json.loads(archive.read("progress.json")))
            states = np.load(io.BytesIO(archive.read("carried.npz")), allow_pickle=False)
        if progress.text == text:
            model.load_weights(path)
            for variable, name in zip(carried(model), states.files, strict=True):
                variable.assign(states[name])
    except Exception as error:  # zipfile, h5py, Keras and NumPy each have their own for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be gone on from ({reason}); start the training again") from error
    if progress.text != text:
        raise UserError(f"{path.parent}: its corpus is not the text that it was trained on any more; start a new run")
    return progress


def carried(model: keras.Sequential) -> list[Any]:
    """What one batch leaves to the next and Keras saves nowhere: states, memories and all dropouts' seeds, in order."""
    states = [state for layer in layers_of(model) if isinstance(layer, CARRYING) for state in layer.states or ()]
    weights = {id(weight) for weight in model.weights}
    return states + [variable for variable in model.variables if id(variable) not in weights]
