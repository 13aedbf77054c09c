"""Callbacks of the user take part in a training, and the logs for TensorBoard contain updates."""

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from keras_lstmgen.config import recipe
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import schedule, trainer
from keras_lstmgen.training.callbacks import step_logs
from keras_lstmgen.training.checkpoint import Progress

BATCHES = 12  # per epoch


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> recipe.Recipe:
    """A recipe with ``BATCHES`` batches per epoch."""
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text("the ferry is late, the boat is early\n" * 24, encoding="utf-8")
    values = {
        "model.embedding_size": 5, "model.units": 7, "model.layers": 1, "model.dropout": 0.0,
        "training.batch_size": 4, "training.window": 16, "training.epochs": 3, "training.learning_rate": 0.01,
    }  # fmt: skip
    return recipe.override(recipe.Recipe(), {"corpus.source": str(path), **values})


class Recorder(keras.callbacks.Callback):
    """Records each call in a list that several recorders share, and can raise an exception or stop the training."""

    def __init__(self, name: str, calls: list[tuple[str, str, Any]], at: str = "", act: str = "") -> None:
        super().__init__()
        self.name, self.calls, self.at, self.act = name, calls, at, act

    def _record(self, hook: str, value: Any) -> None:
        self.calls.append((self.name, hook, value))
        if f"{hook} {len([call for call in self.calls if call[:2] == (self.name, hook)])}" != self.at:
            return
        if self.act == "raise":
            raise LookupError("by the user")
        self.model.stop_training = True

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self._record("train_begin", None)

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        self._record("train_end", None)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._record("epoch_begin", epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._record("epoch_end", dict(logs))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._record("batch_begin", float(self.model.optimizer.learning_rate.numpy()))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._record("batch_end", logs["loss"])


@pytest.fixture(scope="module")
def watched(
    settings: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[tuple[str, str, Any]]]:
    """A run with two callbacks, and their calls."""
    calls: list[tuple[str, str, Any]] = []
    callbacks = [Recorder("first", calls), Recorder("second", calls)]
    return trainer.train(settings, tmp_path_factory.mktemp("runs"), "watched", callbacks=callbacks).folder, calls


def rates(settings: recipe.Recipe) -> list[float]:
    """The learning rate of each update, from the schedule."""
    done = (schedule.completed_share(settings.training, Progress(n), BATCHES) for n in range(1, 3 * BATCHES + 1))
    return [schedule.learning_rate(settings.training, share) for share in done]


def trained_batches(folder: Path) -> int:
    """The number of batches of the checkpoint of a run."""
    with zipfile.ZipFile(folder / run_directory.CHECKPOINT) as archive:
        return int(json.loads(archive.read("progress.json"))["windows"])


def test_callbacks_are_called_in_their_order_and_see_the_loss_the_rate_and_the_validation(
    watched: tuple[Path, list[tuple[str, str, Any]]], settings: recipe.Recipe
) -> None:
    folder, calls = watched
    epoch = ["epoch_begin", *["batch_begin", "batch_end"] * BATCHES, "epoch_end"]
    hooks = ["train_begin", *epoch * 3, "train_end"]
    assert [call[:2] for call in calls] == [(name, hook) for hook in hooks for name in ("first", "second")]
    seen = [value for name, hook, value in calls if (name, hook) == ("first", "batch_begin")]
    assert seen == pytest.approx(rates(settings), rel=1e-5)
    history = json.loads((folder / "history.json").read_text())
    logs = [value for name, hook, value in calls if (name, hook) == ("second", "epoch_end")]
    assert logs == [{"loss": row["loss"], "val_loss": row["val_loss"]} for row in history]


def test_the_logs_for_tensorboard_contain_the_loss_the_rate_and_the_speed_after_every_few_updates(
    watched: tuple[Path, list[tuple[str, str, Any]]], settings: recipe.Recipe
) -> None:
    folder, calls = watched
    events = EventAccumulator(str(folder / "logs" / step_logs.STEPS)).Reload()
    logged = {
        tag: {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}
        for tag in ("loss", "learning_rate", "tokens_per_second")
    }
    steps = [12, 20, 24, 36]  # every 20 updates and at the end of each epoch
    assert {tag: list(values) for tag, values in logged.items()} == dict.fromkeys(logged, steps)
    assert list(logged["learning_rate"].values()) == pytest.approx([rates(settings)[n - 1] for n in steps], rel=1e-5)
    means = [value for name, hook, value in calls if (name, hook) == ("first", "batch_end")]
    sums = [mean * (number % BATCHES + 1) for number, mean in enumerate(means)]
    expected = [sums[11] / 12, sums[19] / 8, (sums[23] - sums[19]) / 4, sums[35] / 12]
    assert list(logged["loss"].values()) == pytest.approx(expected, rel=1e-4)
    assert all(0 < speed < 1e9 for speed in logged["tokens_per_second"].values())


@pytest.mark.parametrize(("at", "batches"), [("batch_end 5", 5), ("batch_begin 15", 14), ("epoch_end 1", 12)])
def test_an_exception_of_a_callback_ends_the_training_unchanged_and_keeps_the_checkpoint(
    settings: recipe.Recipe, tmp_path: Path, at: str, batches: int
) -> None:
    with pytest.raises(LookupError, match="by the user"):
        trainer.train(settings, tmp_path, "failed", callbacks=[Recorder("only", [], at, "raise")])
    folder = tmp_path / "failed"
    assert trained_batches(folder) == batches
    calls: list[tuple[str, str, Any]] = []
    done = trainer.resume(folder, recipe.load(folder / run_directory.RECIPE), callbacks=[Recorder("only", calls)])
    assert done.summary is not None
    assert done.summary.metrics["epochs"] == 3
    assert len([hook for _, hook, _ in calls if hook == "batch_end"]) == 3 * BATCHES - batches


def test_a_callback_that_stops_the_training_within_an_epoch_leaves_a_validated_run_that_can_be_resumed(
    settings: recipe.Recipe, tmp_path: Path, watched: tuple[Path, list[tuple[str, str, Any]]]
) -> None:
    done = trainer.train(settings, tmp_path, "stopped", callbacks=[Recorder("only", [], "batch_end 17", "stop")])
    assert done.interrupted
    assert trained_batches(done.folder) == 17
    assert [row["windows"] for row in json.loads((done.folder / "history.json").read_text())] == [12, 17]
    trainer.resume(done.folder, recipe.load(done.folder / run_directory.RECIPE))
    models = [run_directory.load(folder).model.get_weights() for folder in (done.folder, watched[0])]
    for weights, expected in zip(*models, strict=True):
        assert (weights == expected).all()
