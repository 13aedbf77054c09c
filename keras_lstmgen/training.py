"""Training: from a recipe to a run directory, by ``model.fit``."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_lstmgen import (
    callbacks,
    defaults,
    evaluation,
    files,
    generation,
    kernel,
    prepared,
    recipe,
    run,
    show,
    sources,
    streams,
    tokenizer,
)
from keras_lstmgen.callbacks import Keep, Pace, Progress, Validate
from keras_lstmgen.encoding import Encoded, encode
from keras_lstmgen.errors import UserError
from keras_lstmgen.loss import SampledSoftmax
from keras_lstmgen.model import build, start_at, state_size, weights_of
from keras_lstmgen.optimizer import Adam
from keras_lstmgen.run import Metadata, Run
from keras_lstmgen.sampling import Options

# Most tokens of the held-out text that each epoch is measured on, and numbers in their logits: it is to stay short.
VALIDATION_TOKENS, VALIDATION_LOGITS = 2**19, 2**31
SAMPLE_TOKENS = 160
# What --resume may change; all else is built into the weights or into the place in the text.
LIMITS = ("epochs", "minutes", "learning_rate", "warmup", "weight_decay", "clip_norm", "patience")


def train(settings: recipe.Recipe, runs: Path, name: str) -> Path:
    """Train a new run ``runs/name``; where nothing comes of it, no folder is left."""
    settings = _without_standard_input(settings)
    settings, encoded = prepare(settings, runs)
    folder = run.create(runs, name)
    try:
        tokenizer.save(encoded.tokenizer, folder / run.TOKENIZER)
        return _fit(settings, encoded, folder, resume=False)
    except BaseException:
        if not (folder / run.MODEL).is_file():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def resume(folder: Path, settings: recipe.Recipe) -> Path:
    """Go on with a run from its last checkpoint; ``settings`` may change its limits."""
    if not (folder / run.CHECKPOINT).is_file():
        raise UserError(f"{folder}: has no checkpoint to go on from; train it again")
    _check_changes(recipe.load(folder / run.RECIPE), settings)
    return _fit(*prepare(settings, folder.parent), folder, resume=True)


def _check_changes(before: recipe.Recipe, settings: recipe.Recipe) -> None:
    """Refuse what a run cannot change on its way; that its text is the same is known from the checkpoint."""
    old, new = recipe.to_tables(before), recipe.to_tables(settings)
    for table in ("tokenizer", "model", "training"):
        for key, value in new[table].items():
            if key not in LIMITS and value != old[table][key]:
                raise UserError(f"--{table}.{key}: {value} does not go with --resume: the run has {old[table][key]}")


def _without_standard_input(settings: recipe.Recipe) -> recipe.Recipe:
    """Name the file that standard input was kept in, so that the run can be gone on with and evaluated."""
    corpus = settings.corpus
    names = [
        str(sources.resolve(replace(corpus, source=("-",), sha256=()))[0].path) if name == "-" else name
        for name in corpus.source
    ]
    return replace(settings, corpus=replace(corpus, source=tuple(names)))


def prepare(settings: recipe.Recipe, runs: Path) -> tuple[recipe.Recipe, Encoded]:
    """Encode the corpus into ``runs/.encoded``, choose what is left to its size, check that it fills a window."""
    if settings.training.precision == "bfloat16" and not kernel.has_bfloat16():
        raise UserError("training.precision: this processor does not multiply bfloat16; give auto or float32")
    settings = prepared.adopted(settings)
    with show.out.status("reading the corpus") as status:
        encoded = prepared.opened(settings.corpus) or encode(settings, runs / ".encoded", status.update)
    tokens = len(encoded.train)
    if values := defaults.chosen(settings, tokens, encoded.tokenizer.vocab_size):
        show.out.print(defaults.told(values, tokens), markup=False)
        settings = recipe.override(settings, values)
    _windows(settings, encoded)
    if len(encoded.validation) < 2:
        raise UserError(
            "the validation part has no text to predict: raise corpus.validation_fraction or give more text"
        )
    return settings, encoded


def compiled(settings: recipe.Recipe, counts: np.ndarray[Any, Any]) -> keras.Sequential:
    """A seeded model ready for ``fit``: int32 [B, T] in, the next ids as targets, mean negative log-likelihood.

    ``counts``, int [V], is how often the training text has each id.
    """
    keras.utils.set_random_seed(settings.training.seed)
    part = settings.training
    draws = part.sampled_softmax
    sizes = (len(counts), part.batch_size, part.window)
    model = build(settings.model, *sizes, precision=part.precision, sampled=draws > 0)
    model.compile(
        Adam(
            part.learning_rate,
            weight_decay=part.weight_decay if part.optimizer == "adamw" else None,
            global_clipnorm=part.clip_norm or None,
            use_ema=part.average > 0,
            ema_momentum=1 - 1 / max(part.average, 1),
        ),
        SampledSoftmax(model.layers[-1], counts, draws)
        if draws
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # the kernel's loop gains nothing from XLA, which takes longer to compile
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _fit(settings: recipe.Recipe, encoded: Encoded, folder: Path, resume: bool) -> Path:
    """Train from the beginning or from the checkpoint up to the limit, and conclude."""
    counts = streams.counts(encoded.train, encoded.tokenizer.vocab_size)
    model = compiled(settings, counts)
    text = _digest(encoded)
    progress = callbacks.load_checkpoint(folder / run.CHECKPOINT, model, text) if resume else Progress(text=text)
    twin = build(settings.model, encoded.tokenizer.vocab_size)
    writes = Run(_metadata(settings, encoded, twin), encoded.tokenizer, twin)
    files.write_text(folder / run.RECIPE, recipe.to_toml(settings))
    if not resume:  # which has weights, and metrics until there are new ones
        start_at(model, counts)
        run.save_metadata(folder, writes.metadata)
    _announce(settings, encoded, model, folder)
    pace = Pace(settings.training, progress, _windows(settings, encoded))
    if pace.done() < 1:
        _epochs(settings, encoded, folder, pace, model, writes)
    else:
        show.out.print("It has reached its limit: raise training.epochs or training.minutes to go on.")
    _conclude(encoded, folder, pace, writes)
    if pace.interrupted:
        show.out.print(f"Stopped by Ctrl-C, and saved. To go on: keras-lstmgen train --resume {folder}", markup=False)
    return folder


def _epochs(
    settings: recipe.Recipe, encoded: Encoded, folder: Path, pace: Pace, model: keras.Sequential, writes: Run
) -> None:
    """All that is left of the training."""
    B, T, epochs = settings.training.batch_size, settings.training.window, settings.training.epochs
    ds = streams.dataset(encoded.train, B, T, epochs, settings.training.seed, first_window=pace.progress.windows)
    *others, screen = _callbacks(settings, encoded, folder, pace, model, writes)
    with callbacks.ctrl_c_ends(pace), screen.bar:
        model.fit(
            ds,
            epochs=epochs or 1_000_000,
            initial_epoch=pace.progress.windows // pace.windows,
            steps_per_epoch=pace.windows,
            callbacks=[pace, *others, screen],
            shuffle=False,  # the order of the windows is what carries the state on
            verbose=0,
        )


def _windows(settings: recipe.Recipe, encoded: Encoded) -> int:
    return streams.windows(len(encoded.train), settings.training.batch_size, settings.training.window)


def _digest(encoded: Encoded) -> str:
    """What tells one text from another: sha256 of its ids, train and validation."""
    digest = hashlib.sha256()
    for ids in (encoded.train, encoded.validation):
        for start in range(0, len(ids), streams.PIECE):
            digest.update(ids[start : start + streams.PIECE].data)
    return digest.hexdigest()


def _callbacks(
    settings: recipe.Recipe, encoded: Encoded, folder: Path, pace: Pace, model: keras.Sequential, writes: Run
) -> tuple[Validate, Keep, keras.callbacks.TensorBoard, show.Screen]:
    held_out = _held_out(encoded)
    parts = max(1, min(64, len(held_out) // 2048))
    score, call = evaluation.scorer(writes.weights), generation.writer(writes)

    def validation_loss() -> float:
        hand_over(model, writes.model)
        return evaluation.total_nats(writes.weights, held_out, parts, score) / (len(held_out) - 1)

    def sample() -> str:
        epochs = pace.progress.windows / pace.windows
        text = generation.generate(writes, "", SAMPLE_TOKENS, Options(temperature=0.8), call=call)[0].text
        with (folder / "samples.txt").open("a", encoding="utf-8") as file:
            file.write(f"--- after {epochs:.2f} epochs, temperature 0.8, seed 0\n{text}\n\n")
        return text

    return (
        Validate(validation_loss),
        Keep(folder, settings.training, pace.progress, pace.windows, writes.model),
        keras.callbacks.TensorBoard(folder / "logs", write_graph=False),
        show.Screen(pace.done, _batch_tokens(settings.training), _per_character(encoded), sample),
    )


def _held_out(encoded: Encoded) -> NDArray[Any]:
    """The part of the held-out text that each epoch is measured on."""
    return encoded.validation[: min(VALIDATION_TOKENS, VALIDATION_LOGITS // encoded.tokenizer.vocab_size)]


def hand_over(model: keras.Sequential, twin: keras.Sequential) -> None:
    """Give the model that writes the weights so far: averaged, where the optimizer averages."""
    twin.set_weights(model.get_weights())
    model.optimizer.finalize_variable_values(twin.trainable_variables)


def _per_character(encoded: Encoded) -> float:
    counts = encoded.counts["train"]
    return counts["tokens"] / counts["characters"]


def _metadata(settings: recipe.Recipe, encoded: Encoded, model: keras.Sequential) -> Metadata:
    return Metadata(
        vocab_size=encoded.tokenizer.vocab_size,
        state_size=state_size(weights_of(model)),
        start_id=encoded.start_id,
        end_id=encoded.end_id,
        prompt_start=settings.corpus.documents != "stream",
        unsampled_ids=encoded.unsampled_ids,
        recipe=recipe.to_tables(settings),
    )


def _announce(settings: recipe.Recipe, encoded: Encoded, model: keras.Sequential, folder: Path) -> None:
    """Say what is trained on what, and what the tokenizer loses."""
    counts = encoded.counts["train"]
    vocabulary = f"{settings.tokenizer.type} vocabulary of {encoded.tokenizer.vocab_size:,}"
    tokens = f"{counts['tokens']:,} tokens to train on, {len(encoded.validation):,} held out"
    show.out.print(f"{folder}: {model.count_params():,} parameters, {vocabulary}, {tokens}", markup=False)
    for split, values in encoded.counts.items():
        if values["unknown"]:
            share = values["unknown"] / values["tokens"]
            show.out.print(f"{split}: {share:.2%} of the tokens are <unk>, words that the vocabulary has not")


def _conclude(encoded: Encoded, folder: Path, pace: Pace, writes: Run) -> None:
    """Write the metrics and the curve, print the table and the hint."""
    progress = pace.progress
    best = min(progress.history, key=lambda row: row["val_loss"])
    validation = encoded.counts["validation"]
    scored = len(_held_out(encoded)) - 1
    nats = best["val_loss"] * validation["tokens"]  # per token as measured, for the whole text's counts
    loss = evaluation.measures(nats, validation)
    metrics = {
        "validation": loss,
        "validation_tokens_scored": scored,
        "train_nats_per_token": best["loss"],
        "epochs": progress.windows / pace.windows,
        "minutes": progress.seconds / 60,
        "tokens_per_second": progress.windows * _batch_tokens(pace.settings) / progress.seconds,
        "cores": os.cpu_count(),
    }
    run.save_metadata(folder, replace(writes.metadata, metrics=metrics))
    files.write_json(folder / "metrics.json", metrics)
    show.curve(folder / "curve.png", progress.history)
    rows: list[tuple[str, Any]] = [(name.replace("_", " "), f"{value:,.4f}") for name, value in loss.items()]
    rows += [("training nats per token", f"{best['loss']:.4f}"), ("minutes", f"{metrics['minutes']:.1f}")]
    rows += [("tokens per second", f"{metrics['tokens_per_second']:,.0f}"), ("curve", folder / "curve.png")]
    part = "" if scored == len(encoded.validation) - 1 else f"the first {scored:,} tokens of "
    show.table(f"{folder}: best epoch, {part}held-out text", ("measure", "value"), rows)
    characters = encoded.counts["train"]["characters"]
    show.out.print(show.advice(writes.model.count_params(), characters, progress.history))


def _batch_tokens(settings: recipe.Training) -> int:
    return settings.batch_size * settings.window
