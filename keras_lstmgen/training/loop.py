"""Training loop: run ``model.fit`` until a limit or a stop request, and go back to a checkpoint after a divergence."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
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
from keras_lstmgen.training.controller import TrainingController
from keras_lstmgen.training.input_pipeline import TrainingData
from keras_lstmgen.training.saving import CheckpointSaver, SampleWriter, tensorboard_errors
from keras_lstmgen.training.validation import (
    DivergedError,
    Validation,
    copy_weights,
    held_out_loss,
    measure_on_chief,
)
from keras_lstmgen.utils.errors import Terminated, UserError, shell_quoted

SAMPLE_TOKENS = 160
SAMPLE_TEMPERATURE = 0.8
SAMPLE_SETTINGS = f"temperature {SAMPLE_TEMPERATURE}, seed 0"
LOGS = "logs"  # folder of the logs for TensorBoard
MAX_SETBACKS = 3  # returns to a checkpoint within an epoch before a training that diverges is given up
ENDLESS = 1_000_000  # epochs of ``fit`` if the recipe does not limit them


@dataclass(frozen=True)
class TrainingView:
    """The values that a display of a running training shows beside the logs of Keras.

    Attributes:
        completed: a function that returns the completed share of the training, 0 to 1.
        batch_tokens: tokens in a batch, on average.
        tokens_per_character: predicted tokens per character of each split, which convert a loss per token.
        sample: a function that returns the text generated after the last epoch.
    """

    completed: Callable[[], float]
    batch_tokens: float
    tokens_per_character: dict[Split, float]
    sample: Callable[[], str]


# Creates the callback that shows a training; its context encloses all epochs.
Display = Callable[[TrainingView], AbstractContextManager[keras.callbacks.Callback]]


@dataclass(frozen=True)
class Training:
    """One training of a run by this process.

    Attributes:
        data: the data.
        folder: folder of the run; for a worker that is not the chief, a temporary folder.
        model: the compiled model that trains.
        run: the inference run, whose model gets the weights after each epoch.
        controller: the training controller.
    """

    data: TrainingData
    folder: Path
    model: keras.Sequential
    run: Run
    controller: TrainingController


def run_epochs(training: Training, stop: StopRequest, display: Display | None) -> None:
    """Train until a limit or a stop request.

    Args:
        training: the training.
        stop: stop request of this worker.
        display: creates a callback that shows the progress; None for no display.

    Raises:
        Terminated: after SIGTERM, when the last checkpoint is saved.
        UserError: if the training diverges again and again, or a file cannot be written.
    """
    folder, controller = training.folder, training.controller
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(atomic.plain_path(folder))
        stack.enter_context(tensorboard_errors(folder / LOGS, place / LOGS))
        saver = CheckpointSaver(folder, controller, training.run.model)
        callbacks = [controller, _validation(training), saver]
        if workers.is_chief():
            samples = _sample_writer(training)
            callbacks += [keras.callbacks.TensorBoard(place / LOGS, write_graph=False), samples]
            if display:
                callbacks.append(stack.enter_context(display(_view(training, samples))))
        callbacks.append(_LateStop(controller))
        with stop.accepting():
            _fit_until_over(training, callbacks, saver)
    if controller.terminated and controller.completed() < 1:
        raise Terminated(
            f"stopped by SIGTERM, and saved; to go on: keras-lstmgen train --resume {shell_quoted(folder)}"
        )


class _LateStop(keras.callbacks.Callback):
    """Act on stop requests that arrive while the other callbacks run; this must be the last callback."""

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
    """Return the values that a display shows."""
    data = training.data
    return TrainingView(
        training.controller.completed, data.batch_tokens, data.tokens_per_character, lambda: samples.text
    )


def _fit_until_over(training: Training, callbacks: list[keras.callbacks.Callback], saver: CheckpointSaver) -> None:
    """Train until the end, or save a checkpoint after SIGTERM; go back to a checkpoint after a divergence."""
    controller = training.controller
    while not controller.is_over() or not controller.is_validated():
        try:
            _fit(training, callbacks)
            break
        except DivergedError as error:
            go_back(training, str(error))
        except Terminated:
            with contextlib.suppress(DivergedError):  # then the previous checkpoint remains the last good one
                saver.save()
            break


def _fit(training: Training, callbacks: list[keras.callbacks.Callback]) -> None:
    """Train all remaining epochs."""
    controller, settings = training.controller, training.data.recipe.training
    first = controller.progress.windows // controller.batches_per_epoch
    if not controller.is_validated():  # the last process ended during the validation of an epoch
        _finish_epoch(training, callbacks, first - 1)
        if controller.is_over() or controller.is_stale():
            return
    training.model.fit(
        training.data.dataset(controller.progress.windows),
        epochs=settings.epochs or ENDLESS,
        initial_epoch=first,
        steps_per_epoch=controller.batches_per_epoch,
        callbacks=callbacks,
        shuffle=False,  # the carried state needs the windows in their order
        verbose=0,
    )


def _finish_epoch(training: Training, callbacks: list[keras.callbacks.Callback], epoch: int) -> None:
    """Run the callbacks of the end of an epoch whose updates are complete, as ``fit`` would have done."""
    model = training.model
    callback_list = keras.callbacks.CallbackList(callbacks, model=model)
    checkpoint.restore_metrics(model, training.controller.progress)
    callback_list.on_train_begin()
    callback_list.on_epoch_begin(epoch)
    callback_list.on_epoch_end(epoch, model.get_metrics_result())


def go_back(training: Training, reason: str) -> None:
    """Restore the last checkpoint after a divergence, to continue with half the learning rate.

    The time since that checkpoint counts as training time.

    Args:
        training: the training.
        reason: description of the divergence.

    Raises:
        UserError: if the training has already gone back ``MAX_SETBACKS`` times within an epoch.
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
    """Return how to train without divergence: from saved weights if there are any, otherwise from the beginning."""
    option = f"--training.learning_rate {learning_rate / 10:g}"
    if has_weights(folder):
        return (
            f"go on from what was saved at a lower rate: keras-lstmgen train --resume {shell_quoted(folder)} {option}"
        )
    return f"train again at a lower rate, {option} for example, or with a lower --training.clip_norm"


def has_weights(folder: Path) -> bool:
    """Return whether a run has weights that were trained."""
    return any((folder / name).is_file() for name in (run_directory.MODEL, run_directory.PREVIOUS))
