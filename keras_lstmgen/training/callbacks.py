"""What happens around the batches of ``model.fit``: the rate, the limits, the validation, the files, the screen."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.distribution import workers
from keras_lstmgen.files import atomic
from keras_lstmgen.layers.ensemble import layers_of
from keras_lstmgen.layers.regularization import ActivationRegularization
from keras_lstmgen.models.run_directory import MODEL, WHOLE
from keras_lstmgen.system import signals
from keras_lstmgen.training import checkpoint
from keras_lstmgen.training.checkpoint import CARRYING, Progress
from keras_lstmgen.utils.errors import Terminated, UserError

EVERY = 60.0  # seconds between two checkpoints within an epoch, at least
SHARE = 0.02  # of the time, that these may take at most
ASKED = 0.5  # seconds between two times that workers ask each other whether to end, while the chief measures
EXPLODED = 50.0  # nats a token; to guess among a million ids without looking costs 14


class DivergedError(Exception):
    """The loss is no number any more, or beyond all reason: the message says which."""


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
        self.interrupted = self.terminated = False
        self._asked = [False, False]  # the same of this worker alone, until all know it
        self._began = time.monotonic() - progress.seconds
        self._exchanged = 0.0  # when the workers last asked each other

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Within an epoch, go on with its mean losses too: Keras has just set them to nothing."""
        if self.within():
            for variable, value in zip(checkpoint.metrics(self.model), self.progress.measured, strict=True):
                variable.assign(value)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Set the rate; forget the state where the next window continues none."""
        if not self.within():
            for layer in layers_of(self.model):
                if isinstance(layer, CARRYING):
                    layer.reset_states()
        # + 1, so that the first update of a warm-up is not made at rate 0.
        ahead = Progress(self.progress.windows + 1, self.progress.seconds)
        part = done(self.settings, ahead, self.windows)
        self.model.optimizer.learning_rate.assign(rate(self.settings, part) / 2**self.progress.setbacks)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Count; leave Keras's epoch at the end of the streams, when the time is over, or after a signal."""
        self.progress.windows += 1
        self._agree(logs)
        self.model.stop_training = self.over() or not self.within()
        self.heed()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Go on with the next epoch, unless it is over."""
        _mean_of_all(logs)
        self.model.stop_training = self.over()

    def interrupt(self) -> None:
        """End after the batch in hand, or after the validation if that is running."""
        self._ask(True, self.terminated)
        if self.model and self.interrupted:  # it has none before ``fit``
            self.model.stop_training = True

    def terminate(self) -> None:
        """End after the batch in hand, without a validation."""
        self._ask(self.interrupted, True)

    def asked(self) -> bool:
        """Whether it was asked to end."""
        return any(self._asked)

    def _ask(self, *what: bool) -> None:
        """Of several workers, all have to know before one of them acts."""
        self._asked = list(what)
        if workers.size() == 1:
            self.interrupted, self.terminated = what

    def _agree(self, logs: Any) -> None:
        """Take the chief's clock, the losses of all rows, and what any worker was asked."""
        self.progress.seconds = time.monotonic() - self._began
        if workers.size() == 1:
            return
        seconds = self.progress.seconds if workers.is_chief() else 0.0
        self.progress.seconds, *asked = _mean_of_all(logs, [seconds, *self._asked])
        self.interrupted, self.terminated = (count > 0 for count in asked)

    def measured(self, measure: Callable[[Callable[[int], None]], float]) -> float:
        """What the chief measures, for all workers; ``measure`` is to call what it is given now and then.

        SIGTERM breaks it off, whichever of them gets it.
        """
        if workers.size() == 1:
            return measure(lambda _: self.heed())
        if workers.is_chief():
            return self._exchange(1.0, measure(self._still_measuring))[1]
        while not (answer := self._exchange())[0]:
            pass
        return answer[1]

    def _still_measuring(self, _: int) -> None:
        if time.monotonic() >= self._exchanged + ASKED:
            self._exchange()

    def _exchange(self, done: float = 0.0, loss: float = 0.0) -> tuple[float, float]:
        """Whether the chief has measured, and what; on the way all come to know what any of them was asked."""
        done, loss, *asked = map(float, workers.all_reduce_sum(np.array([done, loss, *self._asked])))
        self._exchanged = time.monotonic()
        self.interrupted, self.terminated = (count > 0 for count in asked)
        self.model.stop_training |= self.interrupted
        self.heed()
        return done, loss

    def heed(self) -> None:
        """End here and now, if SIGTERM asked for it."""
        if self.terminated:
            raise Terminated("stopped by SIGTERM")

    def done(self) -> float:
        """The part of the training that is over."""
        return done(self.settings, self.progress, self.windows)

    def within(self) -> bool:
        """Whether an epoch is under way."""
        return self.progress.windows % self.windows != 0

    def judged(self) -> bool:
        """Whether all whole epochs have been measured on the held-out text."""
        rows = self.progress.history
        return self.within() or self.progress.windows == (rows[-1]["windows"] if rows else 0)

    def stale(self) -> bool:
        """Whether so many epochs brought nothing better that it is to end."""
        return 0 < self.settings.patience <= self.progress.stale

    def paused(self) -> bool:
        """Whether it ends within an epoch because it was asked to, where it would have gone on."""
        return self.interrupted and self.within() and self.done() < 1

    def over(self) -> bool:
        """Whether nothing more is to be done now."""
        return self.interrupted or self.done() >= 1


def _mean_of_all(logs: dict[str, Any], others: Sequence[float] = ()) -> list[float]:
    """Put the means of all workers in the place of this one's; give the sums of ``others``, in the same exchange."""
    if workers.size() == 1:
        return list(others)
    names = sorted(logs)
    sums = workers.all_reduce_sum(np.array([*(logs[name] for name in names), *others]))
    logs.update(zip(names, (sums[: len(names)] / workers.size()).tolist(), strict=True))
    return list(map(float, sums[len(names) :]))


@contextmanager
def signals_end(pace: Pace) -> Iterator[None]:
    """Let the first Ctrl-C end the training after the batch in hand, saved; a second one breaks it off at once.

    SIGTERM ends it likewise, but without a last validation: whoever sends it does not wait for long. This is so on the
    command line. A program that calls ``training.train`` keeps its own handlers.
    """

    def interrupt(number: int, frame: Any) -> None:
        if pace.asked():
            signal.default_int_handler(number, frame)
        pace.interrupt()

    def terminate(number: int, frame: Any) -> None:  # noqa: ARG001
        pace.terminate()

    with signals.installed({signal.SIGINT: interrupt, signal.SIGTERM: terminate}):
        yield


@contextmanager
def diary(folder: Path, written: Path) -> Iterator[None]:
    """Raise UserError where TensorFlow, with errors of its own, cannot write for TensorBoard.

    ``written`` is the path of ``folder`` that TensorFlow was given.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if str(written) not in error.message:
            raise
        reason = error.message.splitlines()[0].rpartition("}} ")[2]
        raise UserError(f"{folder}: could not be written ({reason}); what was there before is kept") from error


class Validate(keras.callbacks.Callback):
    """Adds ``val_loss``, nats per token of the held-out text with the state carried, to the logs of each epoch.

    ``loss`` in the logs becomes the negative log-likelihood alone, comparable with it. Raises DivergedError where
    either is lost.
    """

    def __init__(self, loss: Callable[[], float], pace: Pace, heaviest: float = 1.0) -> None:
        """Take what computes the loss, what knows where an epoch is, and how many average batches one can count for."""
        super().__init__()
        self.loss, self.pace, self.heaviest = loss, pace, heaviest
        self._sum: float | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Forget the sum of the epoch before."""
        self._sum = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Stop at once where the training itself has failed."""
        _without_penalty(logs)
        count = (self.pace.progress.windows - 1) % self.pace.windows + 1
        before, self._sum = self._sum, logs["loss"] * count
        _check((logs["loss"] if before is None else self._sum - before) / self.heaviest)  # of this window alone

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Compute it; later callbacks find it in ``logs``."""
        _without_penalty(logs)
        logs["val_loss"] = self.loss()
        _check(logs["val_loss"])


def _check(loss: float) -> None:
    if not math.isfinite(loss):
        raise DivergedError("the loss is no number any more")
    if loss > EXPLODED:
        raise DivergedError(f"the loss has exploded to {loss:,.0f} nats per token")


def judge(model: keras.Sequential, these: list[keras.callbacks.Callback], epoch: int, pace: Pace) -> None:
    """End an epoch whose updates are done, as ``fit`` would have."""
    everything = keras.callbacks.CallbackList(these, model=model)
    for variable, value in zip(checkpoint.metrics(model), pace.progress.measured, strict=True):
        variable.assign(value)
    everything.on_train_begin()
    everything.on_epoch_begin(epoch)
    everything.on_epoch_end(epoch, model.get_metrics_result())


def _without_penalty(logs: dict[str, Any]) -> None:
    """Take out of ``loss`` what ``ActivationRegularization`` added."""
    logs["loss"] -= logs.pop(ActivationRegularization.METRIC, 0.0)


class Keep(keras.callbacks.Callback):
    """Saves: a checkpoint now and then, and after each epoch best weights, checkpoint, history. Ends what is stale."""

    def __init__(self, folder: Path, pace: Pace, twin: keras.Sequential) -> None:
        """Save into ``folder``; ``twin`` is the model that writes, of which ``val_loss`` was measured."""
        super().__init__()
        self.folder, self.pace, self.twin = folder, pace, twin
        self.saved(0.0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Save where it is time to; at an epoch's end only after the validation."""
        since = self.pace.progress.seconds - self._saved
        if self.pace.within() and not self.pace.over() and since >= max(EVERY, self._took / SHARE):
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:  # noqa: ARG002
        """Save; what is found at a pause goes into the run, but not into the checkpoint, which knows of no pause."""
        paused = self.pace.paused()
        if paused:
            self.save()
        if self._judge(logs) and workers.is_chief():
            before = self.folder / WHOLE if paused else None
            with atomic.replacing(self.folder / MODEL, before=before) as path:
                self.twin.save(path)
        if not paused:
            progress = self.pace.progress
            progress.lately *= self.pace.within()  # a whole epoch went well: what comes is another trouble
            self.save()
        if workers.is_chief():
            atomic.write_json(self.folder / "history.json", self.pace.progress.history)
        if self.pace.stale():
            self.model.stop_training = True

    def save(self) -> None:
        """Save a checkpoint. Raises DivergedError instead where a number in it is none."""
        lost = [
            variable.path
            for variable in (*self.model.variables, *self.model.optimizer.variables)
            if not np.isfinite(variable.numpy()).all()
        ]
        if workers.all_reduce_sum(np.array(len(lost))) > 0:
            raise DivergedError(f"{lost[0] if lost else 'the state of another worker'} is no number any more")
        self.saved(checkpoint.save(self.folder, self.model, self.pace.progress))

    def saved(self, seconds: float) -> None:
        """Note when it was saved, and how long that took."""
        self._saved, self._took = self.pace.progress.seconds, seconds

    def _judge(self, logs: dict[str, float]) -> bool:
        """Add a row to the history; whether it is the best."""
        progress = self.pace.progress
        better = logs["val_loss"] < progress.best
        progress.best = min(logs["val_loss"], progress.best)
        progress.stale = 0 if better else progress.stale + (not self.pace.within())  # a stop half-way is no verdict
        row = {"windows": progress.windows, "seconds": progress.seconds}
        progress.history.append({**row, "loss": logs["loss"], "val_loss": logs["val_loss"]})
        return better
