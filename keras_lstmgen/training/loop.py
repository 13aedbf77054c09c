"""Run ``model.fit`` until a limit or a stop request. Return to the last checkpoint if the training diverges."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import keras

from keras_lstmgen.data.splits import Split
from keras_lstmgen.distribution import workers
from keras_lstmgen.distribution.stop_votes import StopRequest
from keras_lstmgen.files import atomic
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.reporting import reporter
from keras_lstmgen.training import checkpoint
from keras_lstmgen.training.callbacks.controller import TrainingController
from keras_lstmgen.training.callbacks.saving import CheckpointSaver, SampleWriter, tensorboard_errors
from keras_lstmgen.training.callbacks.step_logs import StepLogs
from keras_lstmgen.training.callbacks.user_callbacks import UserCallbacks
from keras_lstmgen.training.callbacks.validation import (
    DivergedError,
    Validation,
    copy_weights,
    held_out_loss,
    measure_on_chief,
)
from keras_lstmgen.training.input_pipeline import TrainingData
from keras_lstmgen.utils.errors import Terminated, UserError, shell_quoted

SAMPLE_TOKENS = 160
SAMPLE_TEMPERATURE = 0.8
SAMPLE_SETTINGS = f"temperature {SAMPLE_TEMPERATURE}, seed 0"
LOGS = "logs"  # subfolder of the run for the logs of TensorBoard
MAX_SETBACKS = 3  # the training fails if it diverges more often than this within an epoch
ENDLESS = 1_000_000  # number of epochs for ``fit`` if the recipe does not limit the epochs


@dataclass(frozen=True)
class TrainingView:
    """Values of a running training that a display shows in addition to the logs of Keras.

    Attributes:
        completed: a function that returns the completed share of the training, from 0 to 1.
        batch_tokens: average number of tokens in a batch.
        tokens_per_character: number of predicted tokens per character of each split, to convert a loss per token to a
            loss per character.
        sample: a function that returns the text that was generated after the last epoch.
    """

    completed: Callable[[], float]
    batch_tokens: float
    tokens_per_character: dict[Split, float]
    sample: Callable[[], str]


# A function that returns a context. Entering the context creates a callback that shows the progress of a training. The
# context stays open during all epochs.
Display = Callable[[TrainingView], AbstractContextManager[keras.callbacks.Callback]]


@dataclass(frozen=True)
class Hooks:
    """Hooks of a caller into a training.

    Attributes:
        stop: stop request of this worker.
        display: a function that creates a callback to show the progress. None for no display.
        callbacks: the callbacks of the user. Only the chief calls them.
    """

    stop: StopRequest = field(default_factory=StopRequest)
    display: Display | None = None
    callbacks: UserCallbacks = field(default_factory=lambda: UserCallbacks([]))


@dataclass(frozen=True)
class Training:
    """A training of a run in this process.

    Attributes:
        data: the data of the training.
        folder: folder of the run. A worker that is not the chief has a temporary folder instead.
        model: the compiled model that is trained.
        run: the run with its inference model. The weights of the trained model are copied to it after each epoch.
        controller: the training controller.
    """

    data: TrainingData
    folder: Path
    model: keras.Sequential
    run: Run
    controller: TrainingController


def run_epochs(training: Training, hooks: Hooks) -> None:
    """Train until a limit or a stop request.

    Args:
        training: the training.
        hooks: the stop request, the display and the callbacks of the caller.

    Raises:
        Terminated: if SIGTERM ended the training. A checkpoint is saved first, unless the training has diverged.
        UserError: if the training diverges more than ``MAX_SETBACKS`` times within an epoch, or if a file cannot be
            written.
        Exception: any exception of a callback of the user.
    """
    folder, controller = training.folder, training.controller
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(atomic.plain_path(folder))
        stack.enter_context(tensorboard_errors(folder / LOGS, place / LOGS))
        saver = CheckpointSaver(folder, controller, training.run.model)
        callbacks = stack.enter_context(_callbacks(training, place / LOGS, saver, hooks))
        with hooks.stop.accepting():
            _fit_until_over(training, callbacks, saver, hooks.callbacks)
    if controller.terminated and controller.completed() < 1:
        raise Terminated(
            f"stopped by SIGTERM, checkpoint saved; to continue: keras-lstmgen train --resume {shell_quoted(folder)}"
        )


@contextlib.contextmanager
def _callbacks(
    training: Training, logs: Path, saver: CheckpointSaver, hooks: Hooks
) -> Iterator[list[keras.callbacks.Callback]]:
    """Create all callbacks in the order in which Keras calls them (``docs/training.md``)."""
    controller, validation = training.controller, _validation(training)
    callbacks: list[keras.callbacks.Callback] = [controller, validation, saver]
    with contextlib.ExitStack() as stack:
        if workers.is_chief():
            samples = _sample_writer(training)
            steps = StepLogs(logs, controller, validation, training.data.batch_tokens)
            callbacks += [keras.callbacks.TensorBoard(logs, write_graph=False), steps, samples]
            if hooks.display:
                callbacks.append(stack.enter_context(hooks.display(_view(training, samples))))
            hooks.callbacks.stop_by(hooks.stop)
            callbacks.append(hooks.callbacks)
        yield [*callbacks, _LateStop(controller)]


class _LateStop(keras.callbacks.Callback):
    """Stop the training if a stop request arrives while other callbacks run. This must be the last callback."""

    def __init__(self, controller: TrainingController) -> None:
        super().__init__()
        self.controller = controller

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        self._stop_if_over()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        self._stop_if_over()

    def _stop_if_over(self) -> None:
        if self.controller.is_over():
            self.model.stop_training = True


def _validation(training: Training) -> Validation:
    """Create the callback that measures the loss on the held-out text."""
    measure = held_out_loss(training.data, training.run)

    def validation_loss() -> float:
        if workers.is_chief():
            copy_weights(training.model, training.run.model)
        return measure_on_chief(training.controller, measure)

    return Validation(validation_loss, training.controller, training.data.max_batch_weight)


def _sample_writer(training: Training) -> SampleWriter:
    """Create the callback that generates a text after each epoch."""
    run, options = training.run, Options(temperature=SAMPLE_TEMPERATURE)
    generator = Generator(run, run.weights)

    def generate() -> str:
        return generator.generate("", GenerationConfig(SAMPLE_TOKENS, options))[0].text

    return SampleWriter(training.folder, training.controller, generate, SAMPLE_SETTINGS)


def _view(training: Training, samples: SampleWriter) -> TrainingView:
    """Return the values of a training that a display shows."""
    data = training.data
    return TrainingView(
        training.controller.completed, data.batch_tokens, data.tokens_per_character, lambda: samples.text
    )


def _fit_until_over(
    training: Training, callbacks: list[keras.callbacks.Callback], saver: CheckpointSaver, of_user: UserCallbacks
) -> None:
    """Train until a limit or a stop request.

    Return to the last checkpoint after a divergence, and continue from there. Save a checkpoint after SIGTERM, and
    after an exception of a callback of the user.
    """
    controller = training.controller
    while not controller.is_over() or not controller.is_validated():
        try:
            _fit(training, callbacks)
            break
        except DivergedError as error:
            go_back(training, str(error))
        except Terminated:
            with contextlib.suppress(DivergedError):  # if the training has diverged, the last checkpoint is kept
                saver.save()
            break
        except Exception:
            # Several workers save a checkpoint together, and the others do not know of the exception.
            if of_user.failed_at_batch and workers.size() == 1:
                with contextlib.suppress(DivergedError):
                    saver.save()
            raise


def _fit(training: Training, callbacks: list[keras.callbacks.Callback]) -> None:
    """Call ``model.fit`` for all remaining epochs."""
    controller, settings = training.controller, training.data.recipe.training
    first = controller.progress.windows // controller.batches_per_epoch
    if not controller.is_validated():  # the previous process ended during a validation
        _finish_epoch(training, callbacks, first - 1)
        if controller.is_over() or controller.is_stale():
            return
    training.model.fit(
        training.data.dataset(controller.progress.windows),
        epochs=settings.epochs or ENDLESS,
        initial_epoch=first,
        steps_per_epoch=controller.batches_per_epoch,
        callbacks=callbacks,
        shuffle=False,  # carried LSTM states require the original order of the windows
        verbose=0,
    )


def _finish_epoch(training: Training, callbacks: list[keras.callbacks.Callback], epoch: int) -> None:
    """Run the callbacks at the end of an epoch, as ``fit`` does. All batches of the epoch must already be trained."""
    model = training.model
    callback_list = keras.callbacks.CallbackList(callbacks, model=model)
    checkpoint.restore_metrics(model, training.controller.progress)
    callback_list.on_train_begin()
    callback_list.on_epoch_begin(epoch)
    callback_list.on_epoch_end(epoch, model.get_metrics_result())


def go_back(training: Training, reason: str) -> None:
    """Return to the last checkpoint after a divergence, and halve the learning rate.

    The time between the checkpoint and the divergence still counts as training time.

    Args:
        training: the training.
        reason: description of the divergence for messages.

    Raises:
        UserError: if the training has already returned to a checkpoint ``MAX_SETBACKS`` times within an epoch.
    """
    folder, controller = training.folder, training.controller
    progress = controller.progress
    where = f"{reason} in epoch {max(progress.windows - 1, 0) // controller.batches_per_epoch + 1}"
    if progress.lately >= MAX_SETBACKS or progress.setbacks + 1 == checkpoint.MAX_SETBACKS:
        advice = _advice_after_divergence(folder, controller.settings.learning_rate)
        raise UserError(f"{where}, after halving the learning rate {MAX_SETBACKS} times; {advice}")
    before, _ = checkpoint.load(folder, training.model, progress.text)
    counts = {"setbacks": progress.setbacks + 1, "lately": progress.lately + 1}
    vars(progress).update(vars(before) | counts | {"seconds": progress.seconds})
    reporter.message(
        f"{where}: going back to the checkpoint after {controller.epochs():.2f} epochs, with half the learning rate "
        f"({progress.lately} of {MAX_SETBACKS} times)"
    )


def _advice_after_divergence(folder: Path, learning_rate: float) -> str:
    """Return advice for a training that diverges: continue from saved weights if they exist, otherwise train again."""
    option = f"--training.learning_rate {learning_rate / 10:g}"
    if has_weights(folder):
        return (
            "to continue from the last weights at a lower learning rate: "
            f"keras-lstmgen train --resume {shell_quoted(folder)} {option}"
        )
    return f"train again with a lower --training.clip_norm or a lower learning rate, for example {option}"


def has_weights(folder: Path) -> bool:
    """Return whether the folder of a run contains trained weights."""
    return any((folder / name).is_file() for name in (run_directory.MODEL, run_directory.PREVIOUS))
