"""Train a new run from a recipe, or resume a run from its last checkpoint."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, sources, stream_windows
from keras_lstmgen.distribution import workers
from keras_lstmgen.distribution.stop_votes import StopRequest
from keras_lstmgen.files import atomic, filenames, spooling
from keras_lstmgen.layers import lstm
from keras_lstmgen.models import continuation, run_directory
from keras_lstmgen.models.builder import TrainingOptions, build, raise_bias_of, start_at
from keras_lstmgen.models.continuation import Vocabulary
from keras_lstmgen.models.inference_step import state_size, weights_of
from keras_lstmgen.models.run_directory import Metadata, Run
from keras_lstmgen.reporting import reporter
from keras_lstmgen.tokenizers import tokenizer
from keras_lstmgen.training import checkpoint, continuation_report, input_pipeline, losses
from keras_lstmgen.training.callbacks.controller import TrainingController
from keras_lstmgen.training.callbacks.saving import HISTORY
from keras_lstmgen.training.callbacks.user_callbacks import UserCallbacks
from keras_lstmgen.training.checkpoint import Progress
from keras_lstmgen.training.input_pipeline import TrainingData
from keras_lstmgen.training.loop import Display, Hooks, Training, has_weights, run_epochs
from keras_lstmgen.training.optimizer import Adam
from keras_lstmgen.training.summary import TrainingSummary, summarize
from keras_lstmgen.utils.errors import UserError

# Training options that may change when a run resumes. Other options may not change, because they determine the weights
# or the position in the text.
RESUME_OPTIONS = ("epochs", "minutes", "learning_rate", "warmup", "weight_decay", "clip_norm", "patience")


@dataclass(frozen=True)
class TrainingResult:
    """Result of ``train`` or ``resume``.

    Attributes:
        folder: folder of the run.
        interrupted: whether a stop request ended the training early.
        summary: losses and sizes. None if no validation loss was measured, and on workers other than the chief.
    """

    folder: Path
    interrupted: bool = False
    summary: TrainingSummary | None = None


def train(
    settings: recipe.Recipe,
    runs: Path,
    name: str,
    stop: StopRequest | None = None,
    display: Display | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> TrainingResult:
    """Train a new run in the folder ``runs/name``.

    If ``settings.training.init_from`` names a run, the training starts from the weights of this run. In this case,
    create ``settings`` with ``recipe.override`` from ``models.continuation.defaults(folder)``, not from
    ``recipe.Recipe()``.

    If the training fails before it saves trained weights, the folder is removed. If a callback of the caller raises an
    exception, the folder is kept, so that ``resume`` can continue the training.

    Args:
        settings: the recipe.
        runs: folder of the runs.
        name: name of the run. If the folder exists already, a number is appended.
        stop: stop request, with which a signal handler can end the training early. None to train until the limit.
        display: a function that creates a callback to show the progress. None for no display.
        callbacks: Keras callbacks. They run after the callbacks of this package, in the given order
            (``docs/training.md``).

    Raises:
        UserError: if the corpus is not suitable for the recipe, if this machine cannot train the model, or if the
            training diverges.
        Terminated: if ``stop`` ended the training without a validation.
        Exception: any exception of ``callbacks``.
    """
    hooks = _hooks(stop, display, callbacks)
    read_once = [name for name in (*settings.corpus.source, *settings.corpus.validation) if spooling.is_read_once(name)]
    if read_once and workers.size() > 1:
        raise UserError(f"corpus: '{read_once[0]}' can be read only once, but each worker reads it; give a file")
    words = None
    if settings.training.init_from:
        settings, words = _with_origin(settings, runs)
    settings = replace(settings, corpus=sources.spool(settings.corpus))
    data = _load_on_all_workers(settings, runs, words)
    folder = run_directory.create(runs, name)
    try:
        atomic.write_text(folder / run_directory.RECIPE, recipe.to_toml(data.recipe))  # --resume needs this file
        return _fit(data, folder, hooks)
    except BaseException:
        if not has_weights(folder) and not hooks.callbacks.failed:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _with_origin(settings: recipe.Recipe, runs: Path) -> tuple[recipe.Recipe, Vocabulary]:
    """Find the run from which a training starts, and return the completed recipe and the vocabulary of this run."""
    folder = run_directory.find(filenames.native(settings.training.init_from), runs)
    settings = replace(settings, training=replace(settings.training, init_from=continuation.stored_path(folder)))
    return continuation.completed(settings, folder), continuation.vocabulary_of(folder)


def resume(
    folder: Path,
    settings: recipe.Recipe,
    stop: StopRequest | None = None,
    display: Display | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> TrainingResult:
    """Resume the training of a run from its last checkpoint.

    If the run stopped before its first checkpoint, the training starts from the beginning.

    Args:
        folder: folder of the run.
        settings: the recipe of the run. Only the options in ``RESUME_OPTIONS`` may differ from the stored recipe.
        stop: see ``train``.
        display: see ``train``.
        callbacks: see ``train``.

    Raises:
        UserError: if the run has no readable checkpoint, if the recipe contains a change that is not allowed, or if the
            text differs from the text of the run.
        Terminated: if ``stop`` ended the training without a validation.
    """
    if not checkpoint.exists(folder) and (folder / run_directory.MODEL).is_file():
        raise UserError(f"{folder}: has no checkpoint to resume from; train it again")
    _check_changes(recipe.load(folder / run_directory.RECIPE), settings)
    _check_text(settings.corpus)
    words = None
    if settings.training.init_from:  # the run itself has the vocabulary, unless it stopped before its first checkpoint
        words = continuation.vocabulary_of(folder if checkpoint.exists(folder) else continuation.origin(settings))
    return _fit(_load_on_all_workers(settings, folder.parent, words), folder, _hooks(stop, display, callbacks))


def _hooks(
    stop: StopRequest | None, display: Display | None = None, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> Hooks:
    """Return the hooks of a caller."""
    return Hooks(stop or StopRequest(), display, UserCallbacks(callbacks))


def train_as_worker(runs: Path, stop: StopRequest | None = None) -> None:
    """Run a worker that is not the chief. The worker receives the recipe from the chief, and trains with the chief.

    Args:
        runs: folder of the runs. In this folder, the worker writes only the cache of token ids.
        stop: see ``train``.
    """
    with reporter.use(reporter.Reporter()):  # only the chief reports
        tables, vocabulary = workers.broadcast_json(None)
        words = Vocabulary.from_json(vocabulary) if vocabulary else None
        data = _with_absolute_paths(input_pipeline.load(recipe.parse(tables), runs, words))
        with tempfile.TemporaryDirectory() as folder:  # only the chief writes to the folder of the run
            _fit(data, Path(folder), _hooks(stop))


def _load_on_all_workers(settings: recipe.Recipe, runs: Path, words: Vocabulary | None) -> TrainingData:
    """Load the data on the chief, and send the recipe and the vocabulary of the chief to the other workers."""
    data = input_pipeline.load(settings, runs, words)
    batch_size = data.recipe.training.batch_size
    if batch_size % workers.size():
        raise UserError(
            f"training.batch_size: {batch_size} rows cannot be divided evenly among {workers.size()} workers; give a "
            f"multiple of {workers.size()}"
        )
    workers.broadcast_json([recipe.to_tables(data.recipe), words.to_json() if words else None])
    return _with_absolute_paths(data)


def _with_absolute_paths(data: TrainingData) -> TrainingData:
    """Return the data with absolute paths in the recipe, which are valid in every working directory."""
    return replace(data, recipe=replace(data.recipe, corpus=sources.with_absolute_paths(data.recipe.corpus)))


def _check_text(corpus: recipe.Corpus) -> None:
    """Raise UserError if the files of the corpus of a run no longer exist at their paths."""
    if prepared_corpus.folder_of(corpus):
        return
    try:
        sources.resolve(corpus)
    except UserError as error:
        raise UserError(f"{error}; give the new path of the text: --corpus.source PATH") from error


def _check_changes(before: recipe.Recipe, settings: recipe.Recipe) -> None:
    """Raise UserError if the recipe changes an option that must not change. The corpus is not checked."""
    old, new = recipe.to_tables(before), recipe.to_tables(settings)
    for table in ("tokenizer", "model", "training"):
        for key, value in new[table].items():
            if key not in RESUME_OPTIONS and value != old[table][key]:
                change = f"--{table}.{key}: {value} differs from {old[table][key]} in the run"
                raise UserError(f"{change}; --resume cannot change this option")


def compile_model(settings: recipe.Recipe, token_counts: np.ndarray[Any, Any]) -> keras.Sequential:
    """Create the model of a recipe, and compile it for ``model.fit``. The weights depend on the seed of the recipe.

    Args:
        settings: the recipe, with a value for each size.
        token_counts: int [V], number of occurrences of each id in the training text.

    Returns:
        The compiled model. It maps ids, int32 [B, T], to the inputs of its loss (``losses.for_model``).
    """
    keras.utils.set_random_seed(settings.training.seed)
    part = settings.training
    sizes = (len(token_counts), part.batch_size, part.window if settings.carries else None)
    in_loss = settings.model.members == 1
    model = build(settings.model, *sizes, TrainingOptions(part.precision, in_loss, settings.carries))
    model.compile(
        _optimizer(part),
        losses.for_model(model, settings, token_counts),
        jit_compile=False,  # XLA does not accelerate the native LSTM kernel, and takes longer to compile
        # steps_per_execution is 1, so that the training can end after any step. Larger values would save little time.
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _optimizer(settings: recipe.Training) -> Adam:
    """Create the optimizer of a recipe."""
    return Adam(
        settings.learning_rate,
        weight_decay=settings.weight_decay if settings.optimizer == "adamw" else None,
        global_clipnorm=settings.clip_norm or None,
        use_ema=settings.average > 0,
        ema_momentum=1 - 1 / max(settings.average, 1),
    )


def _fit(data: TrainingData, folder: Path, hooks: Hooks) -> TrainingResult:
    """Train a run from its last checkpoint, or from the beginning if no checkpoint exists, and write the metrics."""
    with atomic.exclusive_lock(folder, lambda: _raise_already_training(folder)):
        training = _start(data, folder, hooks.stop)
        controller = training.controller
        if controller.is_stale():
            stale = controller.progress.stale
            reporter.message(
                f"The validation loss has not improved for {stale} epochs: raise training.patience to continue."
            )
        elif controller.completed() >= 1 and controller.is_validated():
            reporter.message("The run has reached its limit: raise training.epochs or training.minutes to continue.")
        else:
            run_epochs(training, hooks)
        is_measured = controller.progress.history and workers.is_chief()
        return TrainingResult(folder, controller.interrupted, summarize(training) if is_measured else None)


def _start(data: TrainingData, folder: Path, stop: StopRequest) -> Training:
    """Create the model of a new run, or restore the last checkpoint."""
    token_counts = stream_windows.counts(data.encoded.train, data.vocab_size)
    model = compile_model(data.recipe, token_counts)
    inference_model = build(data.recipe.model, data.vocab_size)
    run = Run(_metadata(data, inference_model), data.recipe, data.encoded.tokenizer, inference_model)
    text = input_pipeline.digest(data.encoded)
    if workers.broadcast_json(text) != text:
        raise UserError("corpus.source: this worker reads a different text than the chief; give the same text to all")
    if workers.broadcast_json(checkpoint.exists(folder)):
        progress = _restore(folder, model, text)
    else:
        tokenizer.save(run.tokenizer, folder / run_directory.TOKENIZER)
        metrics = _initialize(model, data, token_counts) if workers.is_chief() else {}
        run_directory.save_metadata(folder, replace(run.metadata, metrics=metrics))
        progress = checkpoint.share(model, Progress(text=text), [])
        checkpoint.save(folder, model, progress)
    atomic.write_text(folder / run_directory.RECIPE, recipe.to_toml(data.recipe))  # --resume may change limits
    _report_start(data, model, folder)
    controller = TrainingController(data.recipe.training, progress, data.batches_per_epoch, stop)
    return Training(data, folder, model, run, controller)


def _initialize(model: keras.Sequential, data: TrainingData, token_counts: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Set the initial weights of a new run.

    Returns:
        The metrics before the training: the losses of the run from which the training starts, if there is such a run.
    """
    if not data.recipe.training.init_from:
        start_at(model, token_counts)
        return {}
    origin = run_directory.load(continuation.origin(data.recipe))
    model.set_weights(origin.model.get_weights())
    raise_bias_of(model, origin.metadata.unsampled_ids, token_counts)
    return {continuation_report.KEY: continuation_report.losses_before(data, origin)}


def _raise_already_training(folder: Path) -> None:
    """Raise UserError because another process trains the run."""
    raise UserError(f"{folder}: is being trained by another process; wait for it, or end it first")


def _restore(folder: Path, model: keras.Sequential, text: str) -> Progress:
    """Load the last checkpoint into the model.

    If the training paused within an epoch, also restore the best weights and the history from before the pause.
    """
    progress, warning = checkpoint.load(folder, model, text)
    if warning:
        reporter.message(warning)
    if (folder / run_directory.WHOLE).is_file():
        os.replace(folder / run_directory.WHOLE, folder / run_directory.MODEL)
    atomic.write_json(folder / HISTORY, progress.history)
    return progress


def _metadata(data: TrainingData, model: keras.Sequential) -> Metadata:
    """Return the metadata of a run, without metrics."""
    corpus, encoded = data.recipe.corpus, data.encoded
    return Metadata(
        vocab_size=data.vocab_size,
        state_size=state_size(weights_of(model)),
        start_id=encoded.start_id,
        end_id=encoded.end_id,
        prompt_start=corpus.documents != "stream",
        source_end_id=tokenizer.NEWLINE if corpus.is_pairs else run_directory.NONE,
        unsampled_ids=encoded.unsampled_ids,
        recipe=recipe.to_tables(data.recipe),
    )


def _report_start(data: TrainingData, model: keras.Sequential, folder: Path) -> None:
    """Report the sizes of the model and the text, the kernel in use, and the share of unknown tokens."""
    encoded = data.encoded
    byte_pieces = f" ({encoded.tokenizer.byte_pieces} byte pieces)" if encoded.tokenizer.byte_pieces else ""
    vocabulary = f"{data.recipe.tokenizer.type} vocabulary of {data.vocab_size:,}{byte_pieces}"
    tokens = f"{encoded.counts['train']['tokens']:,} tokens to train on, {len(encoded.validation):,} held out"
    reporter.message(f"{folder}: {model.count_params():,} parameters, {vocabulary}, {tokens}")
    reporter.message(f"LSTM kernel: {lstm.kernel_description(data.recipe.training.precision)}")
    for split, counts in encoded.counts.items():
        if counts["unknown"]:
            share = counts["unknown"] / counts["tokens"]
            reporter.message(f"{split}: {share:.2%} of the tokens are <unk>, because the vocabulary lacks their words")
