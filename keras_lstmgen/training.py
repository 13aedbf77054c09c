"""Training: from a recipe to a run directory, by ``model.fit``."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_lstmgen import callbacks, evaluation, files, generation, recipe, run, show, sources, streams
from keras_lstmgen.callbacks import Keep, Pace, Progress, Validate
from keras_lstmgen.encoding import Encoded, encode
from keras_lstmgen.errors import UserError
from keras_lstmgen.model import build, state_size, weights_of
from keras_lstmgen.run import Metadata, Run
from keras_lstmgen.sampling import Options

VALIDATION_TOKENS = 2**19  # most tokens of the held-out text that each epoch is measured on, so that it stays short
SAMPLE_TOKENS = 160


def train(settings: recipe.Recipe, runs: Path, name: str) -> Path:
    """Train a new run ``runs/name``; nothing is made before the corpus has proved to be usable."""
    settings = _without_standard_input(settings)
    encoded = prepare(settings, runs)
    folder = run.create(runs, name)
    files.write_text(folder / run.RECIPE, recipe.to_toml(settings))
    files.write_bytes(folder / run.TOKENIZER, encoded.tokenizer.model)
    return _fit(settings, encoded, folder, resume=False)


def resume(folder: Path, settings: recipe.Recipe) -> Path:
    """Go on with a run from its last checkpoint; ``settings`` may raise its limits."""
    if not (folder / run.CHECKPOINT).is_file():
        raise UserError(f"{folder}: has no checkpoint to go on from; train it again")
    encoded = prepare(settings, folder.parent)
    if encoded.tokenizer.model != (folder / run.TOKENIZER).read_bytes():
        raise UserError(f"{folder}: its corpus or tokenizer is not what it was trained with; start a new run")
    files.write_text(folder / run.RECIPE, recipe.to_toml(settings))
    return _fit(settings, encoded, folder, resume=True)


def _without_standard_input(settings: recipe.Recipe) -> recipe.Recipe:
    """Name the file that standard input was kept in, so that the run can be gone on with and evaluated."""
    corpus = settings.corpus
    names = [
        str(sources.resolve(replace(corpus, source=("-",), sha256=()))[0].path) if name == "-" else name
        for name in corpus.source
    ]
    return replace(settings, corpus=replace(corpus, source=tuple(names)))


def prepare(settings: recipe.Recipe, runs: Path) -> Encoded:
    """Encode the corpus into ``runs/.encoded`` and check that it fills a window."""
    with show.out.status("reading the corpus") as status:
        encoded = encode(settings, runs / ".encoded", lambda text: status.update(text))
    streams.windows(len(encoded.train), settings.training.batch_size, settings.training.window)
    if len(encoded.validation) < 2:
        raise UserError(
            "the validation part has no text to predict: raise corpus.validation_fraction or give more text"
        )
    return encoded


def compiled(settings: recipe.Recipe, V: int) -> keras.Sequential:
    """A seeded model ready for ``fit``: int32 [B, T] in, the next ids as targets, mean negative log-likelihood."""
    keras.utils.set_random_seed(settings.training.seed)
    model = build(settings.model, V, settings.training.batch_size, settings.training.window)
    optimizer: Any = {"adamw": _adamw, "adam": keras.optimizers.Adam}[settings.training.optimizer]
    weight_decay = {"weight_decay": settings.training.weight_decay} if settings.training.optimizer == "adamw" else {}
    model.compile(
        optimizer(
            settings.training.learning_rate,
            global_clipnorm=settings.training.clip_norm or None,
            **weight_decay,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _adamw(*arguments: Any, **options: Any) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) that leaves biases alone."""
    optimizer = keras.optimizers.AdamW(*arguments, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def _fit(settings: recipe.Recipe, encoded: Encoded, folder: Path, resume: bool) -> Path:
    model = compiled(settings, encoded.tokenizer.vocab_size)
    progress = callbacks.load_checkpoint(folder / run.CHECKPOINT, model) if resume else Progress()
    B, T, epochs = settings.training.batch_size, settings.training.window, settings.training.epochs
    windows = streams.windows(len(encoded.train), B, T)
    writes = Run(_metadata(settings, encoded, model), encoded.tokenizer, model)
    run.save_metadata(folder, writes.metadata)
    pace = Pace(settings.training, progress, windows)
    _announce(settings, encoded, model, folder)
    with callbacks.ctrl_c_ends(pace):
        if callbacks.done(settings.training, progress, windows) < 1:
            model.fit(
                streams.dataset(encoded.train, B, T, epochs, settings.training.seed, first_window=progress.windows),
                epochs=epochs or 1_000_000,
                initial_epoch=progress.windows // windows,
                steps_per_epoch=windows,
                callbacks=[pace, *_callbacks(settings, encoded, folder, progress, windows, writes)],
                shuffle=False,  # the order of the windows is what carries the state on
                verbose=0,
            )
    _conclude(encoded, folder, progress, writes)
    if pace.interrupted:
        show.out.print("stopped by Ctrl-C; all is saved")
    return folder


def _callbacks(
    settings: recipe.Recipe, encoded: Encoded, folder: Path, progress: Progress, windows: int, writes: Run
) -> list[keras.callbacks.Callback]:
    B, T = settings.training.batch_size, settings.training.window
    held_out = encoded.validation[:VALIDATION_TOKENS]
    parts = max(1, min(64, len(held_out) // 2048))
    score, call = evaluation.scorer(writes.weights), generation.writer(writes)

    def validation_loss() -> float:
        return evaluation.total_nats(writes.weights, held_out, parts, score) / (len(held_out) - 1)

    def sample() -> str:
        text = generation.generate(writes, "", SAMPLE_TOKENS, Options(temperature=0.8), call=call)[0].text
        with (folder / "samples.txt").open("a", encoding="utf-8") as file:
            file.write(f"--- after {progress.windows / windows:.2f} epochs, temperature 0.8, seed 0\n{text}\n\n")
        return text

    return [
        Validate(validation_loss),
        Keep(folder, settings.training, progress, build(settings.model, encoded.tokenizer.vocab_size)),
        keras.callbacks.TensorBoard(folder / "logs", write_graph=False),
        show.Screen(
            lambda: callbacks.done(settings.training, progress, windows),
            B * T,
            _per_character(encoded),
            sample,
        ),
    ]


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
    show.out.print(f"{folder}: {model.count_params():,} parameters, {vocabulary}, {tokens}")
    for split, values in encoded.counts.items():
        if values["unknown"]:
            share = values["unknown"] / values["tokens"]
            show.out.print(f"{split}: {share:.2%} of the tokens are <unk>, words that the vocabulary has not")


def _conclude(encoded: Encoded, folder: Path, progress: Progress, writes: Run) -> None:
    """Write the metrics and the curve, print the table and the hint."""
    best = min(progress.history, key=lambda row: row["val_loss"])
    validation = encoded.counts["validation"]
    scored = min(len(encoded.validation), VALIDATION_TOKENS) - 1
    nats = best["val_loss"] * validation["tokens"]  # per token as measured, for the whole text's counts
    metrics = {
        "validation": evaluation.measures(nats, validation),
        "validation_tokens_scored": scored,
        "train_nats_per_token": best["loss"],
        "epochs": len(progress.history),
        "minutes": progress.seconds / 60,
        "tokens_per_second": progress.windows * _batch_tokens(writes) / progress.seconds,
        "cores": os.cpu_count(),
    }
    run.save_metadata(folder, replace(writes.metadata, metrics=metrics))
    files.write_json(folder / "metrics.json", metrics)
    show.curve(folder / "curve.png", progress.history)
    loss = evaluation.measures(nats, validation)
    rows: list[tuple[str, Any]] = [(name.replace("_", " "), f"{value:,.4f}") for name, value in loss.items()]
    rows += [("training nats per token", f"{best['loss']:.4f}"), ("minutes", f"{metrics['minutes']:.1f}")]
    rows += [("tokens per second", f"{metrics['tokens_per_second']:,.0f}"), ("curve", folder / "curve.png")]
    show.table(f"{folder}: best epoch, held-out text", ("measure", "value"), rows)
    show.out.print(show.advice(writes.model.count_params(), encoded.counts["train"]["characters"], progress.history))


def _batch_tokens(writes: Run) -> int:
    training = writes.metadata.recipe["training"]
    return int(training["batch_size"]) * int(training["window"])
