"""A training can be repeated, broken off and gone on with, and what it keeps is the best that it found."""

import contextlib
import io
import itertools
import json
import math
import pydoc_data.topics
import re
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py  # type: ignore[import-untyped]
import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from keras_lstmgen.cli import console
from keras_lstmgen.cli.display.training_screen import loss_figures
from keras_lstmgen.config import recipe
from keras_lstmgen.data import stream_windows, token_cache
from keras_lstmgen.distribution.stop_votes import StopRequest
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.evaluation.report import evaluate
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.models.builder import build
from keras_lstmgen.system import signals
from keras_lstmgen.training import checkpoint, loop, schedule, trainer
from keras_lstmgen.training.callbacks import controller
from keras_lstmgen.training.callbacks.controller import TrainingController
from keras_lstmgen.training.callbacks.saving import CheckpointSaver
from keras_lstmgen.training.optimizer import Adam
from keras_lstmgen.utils.errors import UserError
from tests.shown import shown

B, T, E, H, L = 3, 17, 5, 12, 2
SMALL = {
    "model.embedding_size": E, "model.units": H, "model.layers": L, "model.dropout": 0.1, "training.batch_size": B,
    "training.window": T, "training.epochs": 3, "training.precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> recipe.Recipe:
    """A recipe of 52 windows an epoch, on 3,000 characters of prose."""
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text("".join(pydoc_data.topics.topics.values())[:3000], encoding="utf-8")
    return recipe.override(recipe.Recipe(), {"corpus.source": str(path), **SMALL})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs of this file."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def straight_and_told(small: recipe.Recipe, runs: Path) -> tuple[Path, str]:
    """A run trained from beginning to end without a break, and what was on the screen."""
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        folder = shown(trainer.train, small, runs, "straight")
    return folder, screen.getvalue()


@pytest.fixture(scope="module")
def straight(straight_and_told: tuple[Path, str]) -> Path:
    return straight_and_told[0]


@pytest.fixture(scope="module")
def told(straight_and_told: tuple[Path, str]) -> str:
    return straight_and_told[1]


def encoded(settings: recipe.Recipe, runs: Path) -> token_cache.Encoded:
    return token_cache.encode(settings, runs / ".encoded")


def numbers(path: Path) -> dict[str, NDArray[Any]]:
    """All numbers of a ``.keras`` file by their place in it: weights and, in a checkpoint, the optimizer's."""
    found: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(
            lambda name, item: found.update({name: np.array(item)} if isinstance(item, h5py.Dataset) else {})
        )
    return found


def progress(folder: Path) -> dict[str, Any]:
    with zipfile.ZipFile(folder / run_directory.CHECKPOINT) as archive:
        return dict(json.loads(archive.read("progress.json")))


def losses(folder: Path) -> list[tuple[int, float, float]]:
    """Windows so far, training loss, validation loss, of each epoch."""
    return [(row["windows"], row["loss"], row["val_loss"]) for row in json.loads((folder / "history.json").read_text())]


def assert_same_numbers(one: Path, other: Path) -> None:
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys()
    assert len(first) >= 2 + 3 * L + 1
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def at_window(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something in the midst of a training, after so many windows."""
    after = TrainingController.on_train_batch_end

    def wrapped(pace: TrainingController, batch: int, logs: Any = None) -> None:
        after(pace, batch, logs)
        if pace.progress.windows == number:
            act()

    monkeypatch.setattr(TrainingController, "on_train_batch_end", wrapped)


# The same again


def test_the_same_recipe_gives_the_same_losses_and_weights_to_the_last_bit(
    small: recipe.Recipe, runs: Path, straight: Path
) -> None:
    again = trainer.train(small, runs, "straight").folder
    assert again.name == "straight-2"  # the name was taken, and nothing is overwritten
    assert losses(again) == losses(straight)
    assert len(losses(again)) == 3
    assert_same_numbers(again / run_directory.CHECKPOINT, straight / run_directory.CHECKPOINT)
    assert (again / "samples.txt").read_bytes() == (straight / "samples.txt").read_bytes()


def test_another_seed_gives_other_losses(small: recipe.Recipe, runs: Path, straight: Path) -> None:
    other = trainer.train(recipe.override(small, {"training.seed": 1}), runs, "other").folder
    assert all(one != another for one, another in zip(losses(straight), losses(other), strict=True))


# Broken off and gone on with


def test_ctrl_c_within_an_epoch_saves_and_what_follows_is_as_if_nothing_had_happened(
    small: recipe.Recipe,
    runs: Path,
    straight: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch, signals.raise_terminated():
        at_window(patch, 70, lambda: signal.raise_signal(signal.SIGINT))
        folder = shown(trainer.train, small, runs, "interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (
        f"Stopped by Ctrl-C. The run is saved. To continue: keras-lstmgen train --resume {folder}"
        in capsys.readouterr().out
    )
    assert progress(folder)["windows"] == 70
    assert [row[0] for row in losses(folder)] == [52, 70]
    assert Generator(run_directory.load(folder)).generate("The ", GenerationConfig(20))[0].finish_reason == "length"

    shown(trainer.resume, folder, small)
    assert re.findall(r"^epoch (\d+)  ", capsys.readouterr().out, re.M) == ["2", "3"]
    assert losses(folder) == losses(straight)
    assert_same_numbers(folder / run_directory.CHECKPOINT, straight / run_directory.CHECKPOINT)
    assert_same_numbers(folder / run_directory.MODEL, straight / run_directory.MODEL)


def test_at_a_stop_within_an_epoch_the_best_of_whole_epochs_waits_beside_what_is_better_by_then(
    small: recipe.Recipe, tmp_path: Path
) -> None:
    model = trainer.compile_model(small, token_counts=np.full(9, 7))
    twin, progress_now = build(small.model, 9), checkpoint.Progress(windows=52)
    pace = TrainingController(small.training, progress_now, 52, stop := StopRequest())
    keep = CheckpointSaver(tmp_path, pace, twin)
    keep.set_model(model)
    keep.on_epoch_end(0, {"loss": 3.0, "val_loss": 2.0})
    first = numbers(tmp_path / run_directory.MODEL)
    twin.set_weights([weight + 1 for weight in twin.get_weights()])
    progress_now.windows, stop.interrupted = 70, True
    keep.on_epoch_end(1, {"loss": 3.0, "val_loss": 1.0})
    weights = {name: values for name, values in first.items() if name.startswith("layers/") and values.ndim}
    assert len(weights) == 1 + 3 * L + 2  # embedding, LSTM layers, output
    for name, values in weights.items():
        np.testing.assert_array_equal(numbers(tmp_path / run_directory.WHOLE)[name], values)
        np.testing.assert_array_equal(numbers(tmp_path / run_directory.MODEL)[name], values + 1)
    assert [row["windows"] for row in json.loads((tmp_path / "history.json").read_text())] == [52, 70]
    saved = progress(tmp_path)
    assert (saved["windows"], saved["best"], len(saved["history"])) == (70, 2.0, 1)  # which knows of no stop


def test_a_run_that_was_killed_goes_on_from_its_last_epoch_as_if_nothing_had_happened(
    small: recipe.Recipe, runs: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        at_window(patch, 110, die)
        with pytest.raises(SystemExit):
            trainer.train(small, runs, "killed")
    folder = runs / "killed"
    assert progress(folder)["windows"] == 104
    trainer.resume(folder, small)
    assert losses(folder) == losses(straight)
    assert_same_numbers(folder / run_directory.CHECKPOINT, straight / run_directory.CHECKPOINT)
    assert_same_numbers(folder / run_directory.MODEL, straight / run_directory.MODEL)


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_epochs_as_if_it_had_been_meant_so_but_for_the_rate(
    small: recipe.Recipe, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate depends on how many epochs there will be; with one that does not, nothing differs."""
    monkeypatch.setattr(schedule, "learning_rate", lambda *_: 2e-3)
    shorter = recipe.override(small, {"training.epochs": 1})
    longer = recipe.override(small, {"training.epochs": 2})
    folder, whole = trainer.train(shorter, runs, "shorter").folder, trainer.train(longer, runs, "longer").folder
    trainer.resume(folder, longer)
    assert recipe.load(folder / run_directory.RECIPE) == longer
    assert losses(folder) == losses(whole)
    assert_same_numbers(folder / run_directory.CHECKPOINT, whole / run_directory.CHECKPOINT)


def test_a_finished_run_gone_on_with_at_the_same_limit_stays_as_it_is(
    small: recipe.Recipe, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (straight / run_directory.CHECKPOINT).read_bytes()
    shown(trainer.resume, straight, small)
    assert "The run has reached its limit: raise training.epochs or training.minutes" in capsys.readouterr().out
    assert (straight / run_directory.CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("model.units", 13), ("training.batch_size", 4), ("training.seed", 9), ("tokenizer.type", "bpe")],
)
def test_what_is_built_into_the_weights_or_the_place_in_the_text_cannot_change_on_the_way(
    small: recipe.Recipe, straight: Path, name: str, value: Any
) -> None:
    before = (straight / run_directory.RECIPE).read_bytes()
    with pytest.raises(UserError, match=rf"^--{name}: {value} differs from .* in the run; --resume cannot change"):
        trainer.resume(straight, recipe.override(small, {name: value}))
    assert (straight / run_directory.RECIPE).read_bytes() == before


def test_a_second_ctrl_c_breaks_off_at_once_and_no_empty_run_is_left(
    small: recipe.Recipe, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_window(monkeypatch, 5, twice)
    with pytest.raises(KeyboardInterrupt), signals.raise_terminated():
        shown(trainer.train, small, runs, "twice")
    assert not (runs / "twice").exists()


# When it ends


def test_minutes_end_it_within_an_epoch_too(small: recipe.Recipe, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that goes on by a second a window."""
    monkeypatch.setattr(controller, "time", SimpleNamespace(monotonic=itertools.count(1000.0).__next__))
    limits = {"training.epochs": 0, "training.minutes": 1.0}
    folder = trainer.train(recipe.override(small, limits), runs, "minutes").folder
    history = json.loads((folder / "history.json").read_text())
    assert [(row["windows"], row["seconds"]) for row in history] == [(52, 52.0), (60, 60.0)]
    assert json.loads((folder / "metrics.json").read_text())["minutes"] == 1.0
    assert (
        numbers(folder / run_directory.CHECKPOINT)["optimizer/vars/1"] < 0.02 * small.training.learning_rate
    )  # the rate


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory: pytest.TempPathFactory, small: recipe.Recipe) -> Path:
    """A run on ``abab…`` that is measured on a random order: the surer it gets, the worse it is."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "train.txt").write_text("ab" * 1500)
    (folder / "validation.txt").write_text("".join(np.random.default_rng(0).choice(["a", "b"], 300)))
    values = {
        "corpus.source": str(folder / "train.txt"), "corpus.validation": str(folder / "validation.txt"),
        "model.layers": 1, "model.units": 32, "training.learning_rate": 0.01,
        "training.epochs": 20, "training.patience": 2,
    }  # fmt: skip
    return trainer.train(recipe.override(small, values), folder / "runs", "early").folder


def test_it_stops_when_so_many_epochs_brought_nothing_better(stopped_early: Path) -> None:
    validation = [row[2] for row in losses(stopped_early)]
    assert len(validation) == np.argmin(validation) + 1 + 2 < 20


def test_the_weights_kept_are_the_best_and_not_the_last(stopped_early: Path) -> None:
    model = run_directory.load(stopped_early)
    held_out = encoded(recipe.load(stopped_early / run_directory.RECIPE), stopped_early.parent).validation
    nats = likelihood.stream_nll(model.weights, held_out) / (len(held_out) - 1)
    validation = [row[2] for row in losses(stopped_early)]
    assert nats == pytest.approx(min(validation), abs=1e-5)
    assert nats < validation[-1] - 0.1
    assert json.loads((stopped_early / "metrics.json").read_text())["validation"]["nats_per_token"] == min(validation)


def test_an_epoch_broken_off_does_not_count_as_one_without_a_better_loss(small: recipe.Recipe, tmp_path: Path) -> None:
    model = trainer.compile_model(small, token_counts=np.full(9, 7))
    state = checkpoint.Progress(windows=4, best=1.0)
    pace = TrainingController(recipe.Training(patience=1, epochs=9), state, 4, StopRequest())
    keep = CheckpointSaver(tmp_path, pace, build(small.model, 9))
    keep.set_model(model)
    model.stop_training = False
    state.windows = 6
    keep.on_epoch_end(1, {"loss": 1.0, "val_loss": 2.0})
    assert (state.stale, model.stop_training) == (0, False)
    state.windows = 8
    keep.on_epoch_end(1, {"loss": 1.0, "val_loss": 2.0})
    assert (state.stale, model.stop_training, state.best) == (1, True, 1.0)


def test_after_a_loss_that_is_lost_the_screen_is_free_again(small: recipe.Recipe, runs: Path) -> None:
    wild = {"training.learning_rate": 10.0, "training.weight_decay": 10.0, "training.warmup": 0.0}
    with pytest.raises(UserError, match=r"the loss .* in epoch 1, after .* 3 times; train again with a lower"):
        shown(trainer.train, recipe.override(small, wild), runs, "wild")
    assert not (runs / "wild").exists()
    with console.progress_bar():
        pass


# The rate


def test_the_rate_rises_to_its_peak_and_falls_as_a_cosine_to_one_percent() -> None:
    settings = recipe.Training(learning_rate=0.5, warmup=0.2)
    rates = [schedule.learning_rate(settings, part) for part in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)]
    middle = [0.005 + 0.495 * (1 + math.cos(math.pi * over)) / 2 for over in (0.25, 0.5, 0.75)]
    assert rates == pytest.approx([0.0, 0.25, 0.5, *middle, 0.005])


@pytest.mark.parametrize(("warmup", "expected"), [(0.0, [0.5, 0.005]), (1.0, [0.0, 0.5])])
def test_the_warm_up_may_be_nothing_or_all(warmup: float, expected: list[float]) -> None:
    settings = recipe.Training(learning_rate=0.5, warmup=warmup)
    assert [schedule.learning_rate(settings, part) for part in (0.0, 1.0)] == pytest.approx(expected)


def test_the_clock_plays_no_part_where_epochs_alone_limit() -> None:
    settings = recipe.Training(epochs=4, minutes=0.0)
    parts = {schedule.completed_share(settings, checkpoint.Progress(windows=6, seconds=s), 3) for s in (0.0, 1e9)}
    assert parts == {0.5}


def test_of_two_limits_the_nearer_one_counts() -> None:
    settings = recipe.Training(epochs=4, minutes=1.0)
    parts = [
        schedule.completed_share(settings, checkpoint.Progress(windows=6, seconds=s), 3) for s in (0.0, 45.0, 99.0)
    ]
    assert parts == [0.5, 0.75, 1.0]
    endless = recipe.Training(epochs=0, minutes=1.0)
    assert schedule.completed_share(endless, checkpoint.Progress(windows=10**9, seconds=15.0), 3) == 0.25


def test_each_update_is_made_at_its_rate(small: recipe.Recipe, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    after = TrainingController.on_train_batch_end

    def wrapped(pace: TrainingController, batch: int, logs: Any = None) -> None:
        made.append(float(pace.model.optimizer.learning_rate.numpy()))
        after(pace, batch, logs)

    monkeypatch.setattr(TrainingController, "on_train_batch_end", wrapped)
    settings = recipe.override(small, {"training.epochs": 1, "training.warmup": 0.25})
    trainer.train(settings, runs, "rates")
    assert made == pytest.approx([schedule.learning_rate(settings.training, (n + 1) / 52) for n in range(52)])
    assert np.argmax(made) == 12  # the end of the warm-up
    assert made[-1] == pytest.approx(0.01 * settings.training.learning_rate)


# The state, the gradient, the loss


def test_the_loss_of_an_epoch_is_that_of_streams_read_from_an_empty_state_to_their_end(
    small: recipe.Recipe, runs: Path
) -> None:
    """With a rate of zero the weights stay: each epoch's loss can be computed from its streams, read in one piece."""
    still = {"training.learning_rate": 0.0, "training.epochs": 2, "model.dropout": 0.0}
    folder = trainer.train(recipe.override(small, still), runs, "still").folder
    weights, ids = run_directory.load(folder).weights, encoded(small, runs).train
    score, zeros = likelihood.scorer(weights), np.zeros((B, 2 * L * H), np.float32)
    count = stream_windows.windows_per_epoch(len(ids), B, T)
    for epoch, (_, loss, _) in enumerate(losses(folder)):
        at = [stream_windows.positions(epoch * count + n, len(ids), B, T, seed=0) for n in range(count)]
        whole = np.concatenate([at[0], *(part[:, 1:] for part in at[1:])], axis=1)
        assert loss == pytest.approx(-np.mean(score(ids[whole].astype(np.int32), zeros)[0]), abs=3e-6)
        forgetful = [score(ids[part].astype(np.int32), zeros)[0] for part in at]
        assert loss != pytest.approx(-np.mean(forgetful), abs=2e-5)


def updated(settings: recipe.Recipe, gradient: float) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """All weights before and after one update with the same ``gradient`` everywhere, by their path."""
    model = trainer.compile_model(settings, token_counts=np.full(9, 7))
    for weight in model.trainable_variables:
        weight.assign(keras.ops.ones_like(weight))
    before = {weight.path: weight.numpy() for weight in model.trainable_variables}
    model.optimizer.apply_gradients((gradient * keras.ops.ones_like(w), w) for w in model.trainable_variables)
    return before, {weight.path: weight.numpy() for weight in model.trainable_variables}


def with_values(settings: recipe.Recipe, **values: Any) -> recipe.Recipe:
    return recipe.override(settings, {f"training.{name}": value for name, value in values.items()})


def test_adamw_shrinks_weights_but_no_biases_and_adam_shrinks_none(small: recipe.Recipe) -> None:
    values = {"learning_rate": 0.5, "weight_decay": 0.1, "clip_norm": 0.0}
    before, after = updated(with_values(small, optimizer="adamw", **values), gradient=0.0)
    for path in before:
        expected = 1.0 if "bias" in path else 1 - 0.5 * 0.1
        np.testing.assert_allclose(after[path], expected, rtol=1e-6, err_msg=path)
    assert sum("bias" in path for path in before) == L + 1
    before, after = updated(with_values(small, optimizer="adam", **values), gradient=0.0)
    assert all(np.all(after[path] == 1) for path in before)


def test_what_the_optimizer_s_operator_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"amsgrad=True is not supported"):
        Adam(0.1, amsgrad=True)


@pytest.mark.parametrize("weight_decay", [None, 0.1])
def test_an_update_is_that_of_keras_s_own_adam(weight_decay: float | None) -> None:
    """Also where the gradient is a list of rows, one of them twice: clipped by the norm of the matrix that it is."""
    dice = np.random.default_rng(0)
    starts = [dice.normal(size=shape).astype(np.float32) for shape in ((5, 3), (4,))]
    steps = [(dice.normal(size=(3, 3)), dice.normal(size=4)) for _ in range(4)]
    results = []
    for kind in (Adam, keras.optimizers.Adam):
        optimizer = kind(0.1, weight_decay=weight_decay, global_clipnorm=1.5)
        weights = [keras.Variable(start, name=name) for start, name in zip(starts, ("table", "scale"), strict=True)]
        for rows, dense in steps:
            table: Any = tf.IndexedSlices(tf.constant(rows, tf.float32), tf.constant([4, 1, 4]), tf.constant([5, 3]))
            table = table if kind is Adam else tf.convert_to_tensor(table)
            optimizer.apply_gradients(zip([table, tf.constant(dense, tf.float32)], weights, strict=True))
        results.append([weight.numpy() for weight in weights])
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_gradient_is_clipped_by_its_norm_over_all_weights(small: recipe.Recipe, optimizer: str) -> None:
    """Adam's first moment after one update is a tenth of the gradient that reached it."""
    model = trainer.compile_model(with_values(small, optimizer=optimizer, clip_norm=0.5), token_counts=np.full(9, 7))
    weights = model.trainable_variables
    model.optimizer.apply_gradients((3.0 * keras.ops.ones_like(w), w) for w in weights)
    moments = [v.numpy() for v in model.optimizer.variables if "momentum" in v.path]
    assert len(moments) == len(weights)
    assert math.sqrt(sum(float(np.sum((10 * m) ** 2)) for m in moments)) == pytest.approx(0.5, rel=1e-4)


def test_a_clip_norm_of_zero_clips_nothing(small: recipe.Recipe) -> None:
    assert (
        trainer.compile_model(with_values(small, clip_norm=0.0), token_counts=np.full(9, 7)).optimizer.global_clipnorm
        is None
    )


def test_it_learns_more_than_how_frequent_each_token_is(stopped_early: Path, straight: Path) -> None:
    uniform, unigram = math.log(run_directory.load_metadata(straight).vocab_size), math.log(2)
    assert losses(straight)[-1][2] < uniform - 2
    assert losses(stopped_early)[-1][1] < 0.5 * unigram


# What is kept and told


def test_the_curve_of_losses_is_a_picture_and_a_table_for_tensorboard(straight: Path) -> None:
    picture = (straight / "curve.png").read_bytes()
    width, height = tf.io.decode_png(picture).shape[1::-1]
    assert width > height > 300
    for folder, tag, column in (("train", "epoch_loss", 1), ("validation", "epoch_loss", 2)):
        events = EventAccumulator(str(straight / "logs" / folder)).Reload()
        logged = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        assert logged == pytest.approx([row[column] for row in losses(straight)])


def test_each_epoch_leaves_a_sample_with_its_settings(straight: Path) -> None:
    text = (straight / "samples.txt").read_text()
    assert re.findall(r"^--- after (.*)$", text, re.M) == [f"{n}.00 epochs, temperature 0.8, seed 0" for n in (1, 2, 3)]
    model = run_directory.load(straight)
    best = int(np.argmin([row[2] for row in losses(straight)]))
    again = Generator(model).generate("", GenerationConfig(loop.SAMPLE_TOKENS, Options(temperature=0.8)))[0].text
    assert text.split("--- after ")[1:][best].split("\n", 1)[1] == f"{again}\n\n"


def test_the_metrics_say_what_was_reached(small: recipe.Recipe, runs: Path, straight: Path) -> None:
    metrics = json.loads((straight / "metrics.json").read_text())
    assert run_directory.load_metadata(straight).metrics == metrics
    held_out = encoded(small, runs).validation
    nats = likelihood.stream_nll(run_directory.load(straight).weights, held_out) / (len(held_out) - 1)
    assert metrics["validation"]["nats_per_token"] == pytest.approx(nats, abs=1e-6)
    assert metrics["validation"]["perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    assert metrics["validation_tokens_scored"] == len(held_out) - 1
    assert (metrics["epochs"], metrics["updates"]) == (3.0, 3 * 52)
    seconds = progress(straight)["seconds"]
    assert metrics["tokens_per_second"] == pytest.approx(3 * 52 * B * T / seconds)


def test_the_recipe_that_it_was_made_with_stands_in_the_run_whole(small: recipe.Recipe, straight: Path) -> None:
    assert recipe.load(straight / run_directory.RECIPE) == small
    assert recipe.parse(run_directory.load_metadata(straight).recipe) == small


def test_while_it_runs_it_tells_speed_and_losses_in_three_units(straight: Path, told: str) -> None:
    assert len(losses(straight)) == 3
    for epoch, (_, loss, val_loss) in enumerate(losses(straight), 1):
        units = "  ".join(
            loss_figures(val_loss, tokens_per_character=303 / 299)
        )  # a character that training lacks is bytes
        assert re.search(rf"^epoch {epoch}  [\d,]+ tokens/s  train {loss:.3f}  validation {units}$", told, re.M)
    vocabulary = "char vocabulary of 314 (256 byte pieces)"
    assert f"{straight}: 7,716 parameters, {vocabulary}, 2,700 tokens to train on, 304 held out" in told


@pytest.fixture(scope="module")
def words(small: recipe.Recipe, runs: Path) -> tuple[recipe.Recipe, Path, str]:
    """A recipe that trains on 40 words for an epoch, the run, and what was on the screen."""
    values = {"tokenizer.type": "word", "tokenizer.vocab_size": 40, "training.epochs": 1, "training.window": 7}
    settings = recipe.override(small, values)
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        folder = shown(trainer.train, settings, runs, "words")
    return settings, folder, screen.getvalue()


def test_the_epoch_line_the_table_and_evaluate_agree_on_the_bits_of_a_character(
    words: tuple[recipe.Recipe, Path, str], runs: Path
) -> None:
    settings, folder, out = words
    ratios = [encoded(settings, runs).counts[split] for split in ("train", "validation")]
    train, validation = (counts["tokens"] / counts["characters"] for counts in ratios)
    assert abs(train - validation) > 0.01
    bits = evaluate(run_directory.load(folder), [], samples=0, sample_tokens=1)["loss"]["bits_per_character"]
    assert re.findall(r"^epoch .* ([0-9.]+) bits/character", out, re.M) == [f"{bits:.2f}"]
    assert re.findall(r"^ *bits per character +([0-9.]+)", out, re.M) == [f"{bits:.4f}"]
    assert run_directory.load_metadata(folder).metrics["validation"]["bits_per_character"] == pytest.approx(
        bits, rel=1e-6
    )


def test_of_words_it_is_told_how_many_the_vocabulary_lacks(words: tuple[recipe.Recipe, Path, str], runs: Path) -> None:
    settings, _, out = words
    for split, ids in (("train", encoded(settings, runs).train), ("validation", encoded(settings, runs).validation)):
        share = np.mean(np.asarray(ids) == 0)
        assert share > 0.3
        assert f"{split}: {share:.2%} of the tokens are <unk>" in out
