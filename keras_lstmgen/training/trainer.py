"""Training: from a recipe to a run directory, by ``model.fit``."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lstmgen.cli import console, training_hint
from keras_lstmgen.cli.training_screen import TrainingScreen
from keras_lstmgen.config import recipe
from keras_lstmgen.data import example_batches, prepared_corpus, sources, stream_windows
from keras_lstmgen.data.splits import validates_on
from keras_lstmgen.data.token_cache import SPLITS, Encoded
from keras_lstmgen.distribution import workers
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.files import atomic, spooling
from keras_lstmgen.generation import text_generation
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.layers import lstm
from keras_lstmgen.models import run_directory
from keras_lstmgen.models.builder import TrainingOptions, build, start_at
from keras_lstmgen.models.inference_step import state_size, weights_of
from keras_lstmgen.models.run_directory import Metadata, Run
from keras_lstmgen.reporting import plots, reporter
from keras_lstmgen.system import cpu
from keras_lstmgen.tokenizers import tokenizer
from keras_lstmgen.training import callbacks, checkpoint, input_pipeline
from keras_lstmgen.training.callbacks import Keep, Pace, Validate
from keras_lstmgen.training.checkpoint import Progress
from keras_lstmgen.training.losses import Copied, EachMember, NegativeLogLikelihood, SampledSoftmax
from keras_lstmgen.training.optimizer import Adam
from keras_lstmgen.utils.errors import Terminated, UserError, shell_quoted

SAMPLE_TOKENS = 160
LOGS = "logs"  # TensorBoard's
# What --resume may change; all else is built into the weights or into the place in the text.
LIMITS = ("epochs", "minutes", "learning_rate", "warmup", "weight_decay", "clip_norm", "patience")
SETBACKS = 3  # times within an epoch that a training whose loss is lost goes back; then it gives up


def train(settings: recipe.Recipe, runs: Path, name: str) -> Path:
    """Train a new run ``runs/name``; where nothing comes of it, no folder is left."""
    once = [name for name in (*settings.corpus.source, *settings.corpus.validation) if spooling.is_read_once(name)]
    if once and workers.size() > 1:
        raise UserError(f"corpus: '{once[0]}' can be read by one process alone; give several workers a file")
    settings = replace(settings, corpus=sources.spool(settings.corpus))
    settings, encoded = _prepare(settings, runs)
    folder = run_directory.create(runs, name)
    try:
        atomic.write_text(
            folder / run_directory.RECIPE, recipe.to_toml(settings)
        )  # with this alone it can be gone on with
        return _fit(settings, encoded, folder)
    except BaseException:
        if not _is_saved(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_saved(folder: Path) -> bool:
    """Return whether a run has something that was trained."""
    return any((folder / name).is_file() for name in (run_directory.MODEL, run_directory.PREVIOUS))


def resume(folder: Path, settings: recipe.Recipe) -> Path:
    """Go on with a run from its last checkpoint; ``settings`` may change its limits.

    A run that was killed before there was one begins again.
    """
    if not checkpoint.exists(folder) and (folder / run_directory.MODEL).is_file():
        raise UserError(f"{folder}: has no checkpoint to go on from; train it again")
    _check_changes(recipe.load(folder / run_directory.RECIPE), settings)
    _check_text(settings.corpus)
    return _fit(*_prepare(settings, folder.parent), folder)


def assist(runs: Path) -> None:
    """Be a worker that is not the chief: train what that trains, and write nothing but the cache of ids in ``runs``."""
    with reporter.use(reporter.Reporter()):  # the chief alone reports
        settings, encoded = input_pipeline.prepare(recipe.parse(workers.broadcast_json(None)), runs)
        settings = _located(settings)
        with tempfile.TemporaryDirectory() as folder:  # in place of the run's
            _fit(settings, encoded, Path(folder))


def _prepare(settings: recipe.Recipe, runs: Path) -> tuple[recipe.Recipe, Encoded]:
    """Prepare as the chief, and tell the other workers what they are to train."""
    settings, encoded = input_pipeline.prepare(settings, runs)
    if settings.training.batch_size % workers.size():
        raise UserError(
            f"training.batch_size: {settings.training.batch_size} rows cannot be shared out evenly among "
            f"{workers.size()} workers; give a multiple of {workers.size()}"
        )
    workers.broadcast_json(recipe.to_tables(settings))
    return _located(settings), encoded


def _located(settings: recipe.Recipe) -> recipe.Recipe:
    """Return the recipe that a run stores: its text is found from any working directory."""
    return replace(settings, corpus=sources.with_absolute_paths(settings.corpus))


def _check_text(corpus: recipe.Corpus) -> None:
    """Raise UserError with what to do if the text of a run is not where it was."""
    if prepared_corpus.folder_of(corpus):
        return
    try:
        sources.resolve(corpus)
    except UserError as error:
        raise UserError(f"{error}; name the text where it is now: --corpus.source PATH") from error


def _check_changes(before: recipe.Recipe, settings: recipe.Recipe) -> None:
    """Refuse what a run cannot change on its way; that its text is the same is known from the checkpoint."""
    old, new = recipe.to_tables(before), recipe.to_tables(settings)
    for table in ("tokenizer", "model", "training"):
        for key, value in new[table].items():
            if key not in LIMITS and value != old[table][key]:
                raise UserError(f"--{table}.{key}: {value} does not go with --resume: the run has {old[table][key]}")


def compiled(settings: recipe.Recipe, counts: np.ndarray[Any, Any]) -> keras.Sequential:
    """A seeded model ready for ``fit``: int32 [B, T] in, the next ids as targets, mean negative log-likelihood.

    ``counts``, int [V], is how often the training text has each id.
    """
    keras.utils.set_random_seed(settings.training.seed)
    part = settings.training
    carries = settings.carries
    sizes = (len(counts), part.batch_size, part.window if carries else None)
    in_loss = settings.model.members == 1
    model = build(settings.model, *sizes, TrainingOptions(part.precision, in_loss, carries))
    model.compile(
        Adam(
            part.learning_rate,
            weight_decay=part.weight_decay if part.optimizer == "adamw" else None,
            global_clipnorm=part.clip_norm or None,
            use_ema=part.average > 0,
            ema_momentum=1 - 1 / max(part.average, 1),
        ),
        _loss_of(settings, model, counts),
        jit_compile=False,  # the kernel's loop gains nothing from XLA, which takes longer to compile
        # steps_per_execution stays 1, so that every step can be the last one: a step of this kernel is long beside what
        # a call costs.
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _loss_of(settings: recipe.Recipe, model: keras.Sequential, counts: np.ndarray[Any, Any]) -> keras.losses.Loss:
    """The negative log-likelihood of the targets, in the form that the model wants."""
    if settings.model.members > 1:
        return EachMember()
    if settings.training.sampled_softmax:
        return SampledSoftmax(model.layers[-1], counts, settings.training.sampled_softmax)
    if settings.model.copy:
        return Copied(model.layers[0])
    return NegativeLogLikelihood(model.layers[-1])


def _fit(settings: recipe.Recipe, encoded: Encoded, folder: Path) -> Path:
    """Train from the beginning or from the checkpoint up to the limit, and conclude."""
    with atomic.exclusive_lock(folder, lambda: _already_trained(folder)):
        counts = stream_windows.counts(encoded.train, encoded.tokenizer.vocab_size)
        model = compiled(settings, counts)
        twin = build(settings.model, encoded.tokenizer.vocab_size)
        writes = Run(_metadata(settings, encoded, twin), settings, encoded.tokenizer, twin)
        progress = _progress(encoded, folder, model, counts, writes)
        atomic.write_text(folder / run_directory.RECIPE, recipe.to_toml(settings))  # which may have other limits now
        _announce(settings, encoded, model, folder)
        pace = Pace(settings.training, progress, input_pipeline.windows(settings, encoded))
        if pace.stale():
            reporter.message(f"{progress.stale} epochs brought nothing better: raise training.patience to go on.")
        elif pace.done() >= 1 and pace.judged():
            reporter.message("It has reached its limit: raise training.epochs or training.minutes to go on.")
        else:
            _epochs(settings, encoded, folder, pace, model, writes)
        if progress.history and workers.is_chief():
            _conclude(settings, encoded, folder, pace, writes)
        if pace.interrupted:
            told = f"Stopped by Ctrl-C, and saved. To go on: keras-lstmgen train --resume {shell_quoted(folder)}"
            reporter.message(told)
    return folder


def _already_trained(folder: Path) -> None:
    raise UserError(f"{folder}: is being trained by another process; wait for it, or end it first")


def _progress(
    encoded: Encoded, folder: Path, model: keras.Sequential, counts: np.ndarray[Any, Any], writes: Run
) -> Progress:
    """Of the last checkpoint, put into ``model``; of a new run, which gets a first checkpoint."""
    text = input_pipeline.digest(encoded)
    if workers.broadcast_json(text) != text:
        raise UserError("corpus.source: the text here is not the chief's; give all workers the same")
    if not workers.broadcast_json(checkpoint.exists(folder)):
        tokenizer.save(encoded.tokenizer, folder / run_directory.TOKENIZER)
        run_directory.save_metadata(folder, writes.metadata)  # without metrics until there are some
        start_at(model, counts)
        progress = checkpoint.share(model, Progress(text=text), [])
        checkpoint.save(folder, model, progress)
        return progress
    progress, complaint = checkpoint.load(folder, model, text)
    if complaint:
        reporter.message(complaint)
    if (folder / run_directory.WHOLE).is_file():
        os.replace(folder / run_directory.WHOLE, folder / run_directory.MODEL)
    atomic.write_json(folder / "history.json", progress.history)
    return progress


def _epochs(
    settings: recipe.Recipe, encoded: Encoded, folder: Path, pace: Pace, model: keras.Sequential, writes: Run
) -> None:
    """All that is left of the training; where it loses its loss, once more from the last checkpoint."""
    with atomic.plain_path(folder) as place, callbacks.diary(folder / LOGS, place / LOGS):
        validate, keep, screen = _callbacks(settings, encoded, folder, pace, model, writes)
        board = keras.callbacks.TensorBoard(place / LOGS, write_graph=False)
        these = [pace, validate, keep, *([board, screen] if workers.is_chief() else [])]
        with callbacks.signals_end(pace), screen.bar:
            _until_over(settings, encoded, folder, pace, model, these)
    if pace.terminated and pace.done() < 1:
        raise Terminated(
            f"stopped by SIGTERM, and saved; to go on: keras-lstmgen train --resume {shell_quoted(folder)}"
        )


def _until_over(
    settings: recipe.Recipe,
    encoded: Encoded,
    folder: Path,
    pace: Pace,
    model: keras.Sequential,
    these: list[Any],
) -> None:
    """Train until the end, or until the last checkpoint after SIGTERM; go back where the loss is lost."""
    while not pace.over() or not pace.judged():
        try:
            _some_epochs(settings, encoded, pace, model, these)
            break
        except callbacks.DivergedError as error:
            _go_back(folder, pace, model, str(error))
        except Terminated:
            with contextlib.suppress(callbacks.DivergedError):  # then the checkpoint before is the last good one
                next(one for one in these if isinstance(one, Keep)).save()
            break


def _some_epochs(
    settings: recipe.Recipe, encoded: Encoded, pace: Pace, model: keras.Sequential, these: list[Any]
) -> None:
    """All epochs that are left, if nothing happens."""
    first = pace.progress.windows // pace.windows
    if not pace.judged():  # it was ended between the last update of an epoch and the end of its validation
        callbacks.judge(model, these, first - 1, pace)
        if pace.over() or pace.stale():
            return
    epochs, ds = settings.training.epochs, input_pipeline.dataset(settings, encoded, pace.progress.windows)
    model.fit(
        ds,
        epochs=epochs or 1_000_000,
        initial_epoch=first,
        steps_per_epoch=pace.windows,
        callbacks=these,
        shuffle=False,  # the order of the windows is what carries the state on
        verbose=0,
    )


def _go_back(folder: Path, pace: Pace, model: keras.Sequential, what: str) -> None:
    """Put the last checkpoint in the place of what went wrong, to go on at half the rate; UserError if that is enough.

    The time that was lost counts.
    """
    progress = pace.progress
    where = f"{what} in epoch {max(progress.windows - 1, 0) // pace.windows + 1}"
    if progress.lately >= SETBACKS or progress.setbacks + 1 == checkpoint.MOST_SETBACKS:
        raise UserError(
            f"{where}, after {SETBACKS} times of going back and halving the rate too; {_calmer(folder, pace)}"
        )
    before, _ = checkpoint.load(folder, model, progress.text)
    counts = {"setbacks": progress.setbacks + 1, "lately": progress.lately + 1}
    vars(progress).update(vars(before) | counts | {"seconds": progress.seconds})
    epochs = progress.windows / pace.windows
    reporter.message(
        f"{where}: going back to the checkpoint after {epochs:.2f} epochs, and on at half the rate "
        f"({progress.lately} of {SETBACKS} times)"
    )


def _calmer(folder: Path, pace: Pace) -> str:
    """Say how to train so that the loss stays a number: from what was saved, if anything was, or anew."""
    rate = f"--training.learning_rate {pace.settings.learning_rate / 10:g}"
    if _is_saved(folder):
        return f"go on from what was saved at a lower rate: keras-lstmgen train --resume {shell_quoted(folder)} {rate}"
    return f"train again at a lower rate, {rate} for example, or with a lower --training.clip_norm"


def _callbacks(
    settings: recipe.Recipe, encoded: Encoded, folder: Path, pace: Pace, model: keras.Sequential, writes: Run
) -> tuple[Validate, Keep, TrainingScreen]:
    loss, call = _loss(settings, encoded, writes), text_generation.writer(writes, writes.weights)
    per_character = {split: input_pipeline.per_character(settings, encoded, split) for split in SPLITS}

    def validation_loss() -> float:
        if workers.is_chief():
            hand_over(model, writes.model)
        return pace.measured(loss)

    def sample() -> str:
        epochs = pace.progress.windows / pace.windows
        text = text_generation.generate(writes, "", SAMPLE_TOKENS, Options(temperature=0.8), call=call)[0].text
        with (folder / "samples.txt").open("a", encoding="utf-8") as file:
            file.write(f"--- after {epochs:.2f} epochs, temperature 0.8, seed 0\n{text}\n\n")
        return text

    return (
        Validate(validation_loss, pace, input_pipeline.heaviest(settings, encoded)),
        Keep(folder, pace, writes.model),
        TrainingScreen(pace.done, input_pipeline.batch_tokens(settings, encoded), per_character, sample),
    )


def _loss(settings: recipe.Recipe, encoded: Encoded, writes: Run) -> Callable[[Callable[[int], None]], float]:
    """What measures the mean nats per token of the held-out text, or of the targets of held-out pairs.

    It tells what it is given how far it is, now and then.
    """
    held_out, score = input_pipeline.held_out(encoded), likelihood.scorer(writes.weights)
    if not settings.carries:
        tried = input_pipeline.tried(settings, encoded)
        return lambda advance: (
            likelihood.examples_nll(writes.weights, tried, score, advance) / example_batches.predicted(tried)
        )
    parts = max(1, min(64, len(held_out) // 2048))
    N = len(held_out) - 1
    return lambda advance: likelihood.stream_nll(writes.weights, held_out, parts, score, advance) / N


def hand_over(model: keras.Sequential, twin: keras.Sequential) -> None:
    """Give the model that writes the weights so far: averaged, where the optimizer averages."""
    twin.set_weights(model.get_weights())
    model.optimizer.finalize_variable_values(twin.trainable_variables)


def _metadata(settings: recipe.Recipe, encoded: Encoded, model: keras.Sequential) -> Metadata:
    return Metadata(
        vocab_size=encoded.tokenizer.vocab_size,
        state_size=state_size(weights_of(model)),
        start_id=encoded.start_id,
        end_id=encoded.end_id,
        prompt_start=settings.corpus.documents != "stream",
        source_end_id=tokenizer.NEWLINE if settings.corpus.is_pairs else run_directory.NONE,
        unsampled_ids=encoded.unsampled_ids,
        recipe=recipe.to_tables(settings),
    )


def _announce(settings: recipe.Recipe, encoded: Encoded, model: keras.Sequential, folder: Path) -> None:
    """Say what is trained on what, and what the tokenizer loses."""
    counts = encoded.counts["train"]
    vocabulary = f"{settings.tokenizer.type} vocabulary of {encoded.tokenizer.vocab_size:,}"
    tokens = f"{counts['tokens']:,} tokens to train on, {len(encoded.validation):,} held out"
    reporter.message(f"{folder}: {model.count_params():,} parameters, {vocabulary}, {tokens}")
    if told := lstm.missing_kernel_warning():
        reporter.message(told)
    for split, values in encoded.counts.items():
        if values["unknown"]:
            share = values["unknown"] / values["tokens"]
            reporter.message(f"{split}: {share:.2%} of the tokens are <unk>, words that the vocabulary has not")


def _conclude(settings: recipe.Recipe, encoded: Encoded, folder: Path, pace: Pace, writes: Run) -> None:
    """Print the table and the hint, write the metrics and the curve."""
    progress = pace.progress
    best = min(progress.history, key=lambda row: row["val_loss"])
    validation = input_pipeline.counts(settings, encoded, "validation")
    whole = len(input_pipeline.held_out(encoded)) == len(encoded.validation)
    nats = best["val_loss"] * validation["tokens"]  # per token as measured, for the whole text's counts
    loss = likelihood.loss_in_units(nats, validation)
    metrics = {
        "validation": loss,
        "validation_tokens_scored": input_pipeline.scored(settings, encoded),
        "train_nats_per_token": best["loss"],
        "epochs": progress.windows / pace.windows,
        "minutes": progress.seconds / 60,
        "tokens_per_second": progress.windows * input_pipeline.batch_tokens(settings, encoded) / progress.seconds,
        "cores": cpu.available(),
    }
    rows: list[tuple[str, Any]] = [(name.replace("_", " "), f"{value:,.4f}") for name, value in loss.items()]
    rows += [("training nats per token", f"{best['loss']:.4f}"), ("minutes", f"{metrics['minutes']:.1f}")]
    rows += [("tokens per second", f"{metrics['tokens_per_second']:,.0f}"), ("curve", folder / "curve.png")]
    part = "" if whole else f"the first {metrics['validation_tokens_scored']:,} tokens of "
    console.table(f"{folder}: best epoch, {part}{validates_on(settings.corpus)}", ("measure", "value"), rows)
    characters = encoded.counts["train"]["characters"]
    if hint := training_hint.overfitting_hint(folder, settings, characters, progress.history):
        reporter.message(hint)
    run_directory.save_metadata(folder, replace(writes.metadata, metrics=metrics))
    atomic.write_json(folder / "metrics.json", metrics)
    plots.curve(folder / "curve.png", progress.history)
