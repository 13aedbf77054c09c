"""A training that is killed, at whatever moment, goes on as if nothing had happened."""

import errno
import fcntl
import io
import json
import os
import pydoc_data.topics
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray

from keras_lstmgen.config import recipe
from keras_lstmgen.distribution.stop_votes import StopRequest
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.files import atomic
from keras_lstmgen.models import run_directory
from keras_lstmgen.system import signals
from keras_lstmgen.training import checkpoint, trainer
from keras_lstmgen.training.callbacks import saving
from keras_lstmgen.training.callbacks.controller import TrainingController
from keras_lstmgen.training.callbacks.saving import CheckpointSaver
from keras_lstmgen.utils.errors import Terminated, UserError
from tests.shown import shown

ROOT = Path(__file__).parents[1]
KILLS = 20
EVERYTHING = {  # that draws, averages, carries or remembers something
    "model.embedding_size": 5, "model.units": 12, "model.layers": 1, "model.dropout": 0.1,
    "model.embedding_dropout": 0.1, "model.weight_drop": 0.2, "model.activation_regularization": 0.5,
    "model.attention": 4, "training.batch_size": 3, "training.window": 17, "training.epochs": 9,
    "training.patience": 3, "training.average": 7, "training.sampled_softmax": 9, "training.learning_rate": 0.01,
    "training.precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> recipe.Recipe:
    """A recipe of everything, validated on a random order of letters, which soon gets no better."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "train.txt").write_text("".join(pydoc_data.topics.topics.values())[:1500], encoding="utf-8")
    (folder / "validation.txt").write_text("".join(np.random.default_rng(0).choice(list("abc def"), 300)))
    texts = {"corpus.source": str(folder / "train.txt"), "corpus.validation": str(folder / "validation.txt")}
    return recipe.override(recipe.Recipe(), {**texts, **EVERYTHING})


def numbers(path: Path) -> dict[str, NDArray[Any]]:
    """All numbers of a ``.keras`` file: weights and, in a checkpoint, the optimizer's, averages and carried states."""
    found: dict[str, NDArray[Any]] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.array(item)

    with zipfile.ZipFile(path) as archive:
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            file.visititems(note)
        if "carried.npz" in archive.namelist():
            found.update(np.load(io.BytesIO(archive.read("carried.npz"))))
    return found


def assert_same_numbers(one: Path, other: Path) -> None:
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys()
    assert len(first) >= 6
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def curve(folder: Path) -> list[dict[str, float]]:
    rows = json.loads((folder / "history.json").read_text())
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.slow
def test_a_training_killed_twenty_times_ends_with_the_weights_and_the_curve_of_one_that_was_not(
    settings: recipe.Recipe, tmp_path: Path
) -> None:
    """Half of the kills come after a random time, half right before a random change of the file system."""
    atomic.write_text(tmp_path / "recipe.toml", recipe.to_toml(settings))
    command = [sys.executable, "-m", "tests.killing", str(tmp_path / "recipe.toml"), str(tmp_path), str(KILLS), "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    assert {attempt["status"] for attempt in attempts} == {-9, 0}
    assert sum(attempt["status"] == -9 for attempt in attempts) == KILLS
    assert sum(bool(attempt["halves"]) for attempt in attempts) >= 3  # they died in the midst of a write

    straight = tmp_path / "straight/run"
    assert len(curve(straight)) < 9  # patience has ended it
    for killed in tmp_path.glob("killed-*/run"):
        assert curve(killed) == curve(straight)
        for name in (run_directory.CHECKPOINT, run_directory.MODEL):
            assert_same_numbers(killed / name, straight / name)
        assert {path.name for path in killed.iterdir()} == {path.name for path in straight.iterdir()}
        assert not list(killed.parent.rglob(".writing-*"))


# One stop at a time, in a training of two epochs of 26 windows


@pytest.fixture(scope="module")
def plain(settings: recipe.Recipe) -> recipe.Recipe:
    """A recipe that trains in a second."""
    part = recipe.Training(batch_size=3, window=17, epochs=2, precision="float32")
    model = recipe.Model(embedding_size=5, units=12, layers=1, dropout=0.1)
    return recipe.Recipe(recipe.Corpus(source=settings.corpus.source), settings.tokenizer, model, part)


@pytest.fixture(scope="module")
def straight(plain: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = trainer.train(plain, tmp_path_factory.mktemp("runs"), "straight").folder
    assert [row["windows"] for row in curve(folder)] == [26, 52]
    return folder


def assert_same_run(one: Path, other: Path) -> None:
    assert curve(one) == curve(other)
    assert_same_numbers(one / run_directory.CHECKPOINT, other / run_directory.CHECKPOINT)
    assert_same_numbers(one / run_directory.MODEL, other / run_directory.MODEL)
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


def at_window(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[TrainingController], None]) -> None:
    """Do something once, in the midst of a training, before the end of so many windows is seen to."""
    after = TrainingController.on_train_batch_end
    todo = [act]

    def wrapped(pace: TrainingController, batch: int, logs: Any = None) -> None:
        if pace.progress.windows + 1 == number and todo:
            todo.pop()(pace)
        after(pace, batch, logs)

    monkeypatch.setattr(TrainingController, "on_train_batch_end", wrapped)


def ask_to_end(_: object) -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("window", [1, 40])
def test_sigterm_saves_within_an_epoch_without_a_validation_and_what_follows_is_as_if_nothing_had_happened(
    plain: recipe.Recipe, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    with monkeypatch.context() as patch:
        at_window(patch, window, ask_to_end)
        said = r"^stopped by SIGTERM, checkpoint saved; to continue: .* --resume /"
        with pytest.raises(Terminated, match=said), signals.raise_terminated():
            shown(trainer.train, plain, tmp_path, "run")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert len(curve(tmp_path / "run")) == window // 26 if window > 26 else not (tmp_path / "run/history.json").exists()
    trainer.resume(tmp_path / "run", plain)
    assert_same_run(tmp_path / "run", straight)


def test_sigterm_does_not_wait_for_the_validation_which_is_made_up_for(
    plain: recipe.Recipe, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = likelihood.stream_nll

    def wrapped(*given: Any) -> float:
        signal.raise_signal(signal.SIGTERM)
        return measure(*given)

    with monkeypatch.context() as patch:
        patch.setattr(likelihood, "stream_nll", wrapped)
        with pytest.raises(Terminated, match="stopped by SIGTERM, checkpoint saved"), signals.raise_terminated():
            shown(trainer.train, plain, tmp_path, "run")
    assert not (tmp_path / "run" / run_directory.MODEL).exists()
    trainer.resume(tmp_path / "run", plain)
    assert_same_run(tmp_path / "run", straight)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    plain: recipe.Recipe, straight: Path, tmp_path: Path
) -> None:
    atomic.write_text(tmp_path / "run" / run_directory.RECIPE, recipe.to_toml(plain))
    trainer.resume(tmp_path / "run", plain)
    assert_same_run(tmp_path / "run", straight)


def test_weights_without_a_checkpoint_are_never_trained_over(
    plain: recipe.Recipe, straight: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(straight, tmp_path / "run"))
    for name in (run_directory.CHECKPOINT, run_directory.PREVIOUS):
        (copy / name).unlink()
    before = (copy / run_directory.MODEL).read_bytes()
    with pytest.raises(UserError, match=r"run: has no checkpoint to resume from; train it again$"):
        trainer.resume(copy, plain)
    assert (copy / run_directory.MODEL).read_bytes() == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, one_bit, Path.unlink])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(
    plain: recipe.Recipe,
    straight: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    copy = Path(shutil.copytree(straight, tmp_path / "run"))
    damage(copy / run_directory.CHECKPOINT)
    shown(trainer.resume, copy, plain)
    told = [line for line in capsys.readouterr().out.splitlines() if "is damaged" in line]
    assert len(told) == 1
    assert told[0].startswith(f"{copy / run_directory.CHECKPOINT}: is damaged (")
    assert told[0].endswith("); using the previous checkpoint instead")
    assert_same_run(copy, straight)


@pytest.mark.parametrize("what", ["files", "disk", "memory"])
def test_what_cannot_be_read_at_this_moment_is_not_taken_for_damaged(
    plain: recipe.Recipe, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Too many open files, really; a disk that does not answer and a memory that is full as Python tells of them."""
    copy = Path(shutil.copytree(straight, tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in copy.glob("*.keras")}
    with monkeypatch.context() as patch:
        load = checkpoint.load

        def loading(*given: Any) -> Any:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            if what == "files":
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                return load(*given)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        def failing(*_: Any) -> None:
            raise OSError(errno.EIO, "Input/output error") if what == "disk" else MemoryError

        patch.setattr(checkpoint, "load", loading)
        if what != "files":
            patch.setattr(zipfile.ZipFile, "testzip", failing)
        said = {"files": "Too many open files", "disk": "Input/output error", "memory": "MemoryError"}[what]
        with pytest.raises(
            UserError, match=rf"checkpoint\.keras: cannot be read now \(.*{said}.*\), but may be undamaged"
        ):
            trainer.resume(copy, plain)
    assert {path.name: path.read_bytes() for path in copy.glob("*.keras")} == before
    trainer.resume(copy, plain)
    assert_same_run(copy, straight)


def test_where_both_checkpoints_are_damaged_it_is_told_in_one_line_and_nothing_is_changed(
    plain: recipe.Recipe, straight: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(straight, tmp_path / "run"))
    for name in (run_directory.CHECKPOINT, run_directory.PREVIOUS):
        one_bit(copy / name)
    before = {path.name: path.read_bytes() for path in copy.glob("*.keras")}
    with pytest.raises(UserError, match=r"checkpoint\.keras: is damaged \(.*\); start the training again$"):
        trainer.resume(copy, plain)
    assert {path.name: path.read_bytes() for path in copy.glob("*.keras")} == before


def test_two_trainings_of_one_run_at_once_are_refused(plain: recipe.Recipe, straight: Path) -> None:
    lock = os.open(straight, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(UserError, match=r"straight: is being trained by another process"):
        trainer.resume(straight, plain)
    os.close(lock)
    trainer.resume(straight, plain)


def test_a_run_that_patience_ended_stays_as_it_is_until_patience_is_raised(
    plain: recipe.Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = recipe.override(plain, {"training.learning_rate": 0.0, "training.patience": 1, "training.epochs": 5})
    folder = trainer.train(still, tmp_path, "still").folder
    rows = curve(folder)
    assert len(rows) == 2
    shown(trainer.resume, folder, still)
    out = capsys.readouterr().out
    assert "The validation loss has not improved for 1 epochs: raise training.patience to continue." in out
    assert curve(folder) == rows
    trainer.resume(folder, recipe.override(still, {"training.patience": 2}))
    assert len(curve(folder)) == 3


@pytest.mark.parametrize(("took", "expected"), [(0.0, [60, 120, 180]), (2.0, [100, 200]), (9.0, [])])
def test_within_an_epoch_it_saves_every_minute_or_so_seldom_that_saving_takes_a_fiftieth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, took: float, expected: list[int]
) -> None:
    """An update a second; an epoch has more of them than are made."""
    saved: list[float] = []
    progress = checkpoint.Progress()
    keep = CheckpointSaver(tmp_path, TrainingController(recipe.Training(epochs=1), progress, 1000, StopRequest()), None)

    def save(keep: CheckpointSaver) -> None:
        saved.append(progress.seconds)
        keep.record_save(took)

    monkeypatch.setattr(CheckpointSaver, "save", save)
    keep.record_save(took)
    for _ in range(200):
        progress.windows, progress.seconds = progress.windows + 1, progress.seconds + 1
        keep.on_train_batch_end(0)
    assert saved == expected


# A loss that is lost


def poison(pace: TrainingController) -> None:
    weight = pace.model.trainable_variables[1]
    weight.assign(weight * float("nan"))


@pytest.mark.parametrize("window", [5, 26, 40])
def test_where_the_loss_is_no_number_any_more_it_goes_back_and_on_at_half_the_rate(
    plain: recipe.Recipe,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    window: int,
) -> None:
    at_window(monkeypatch, window, poison)
    folder = shown(trainer.train, plain, tmp_path, "run")
    epochs = window // 27
    assert (
        f"the loss is no longer a finite number in epoch {epochs + 1}: going back to the checkpoint after {epochs}.00 "
        "epochs, with half the learning rate (1 of 3 times)" in capsys.readouterr().out.replace("\n", " ")
    )
    assert [row["windows"] for row in curve(folder)] == [26, 52]
    assert curve(folder)[:epochs] == curve(straight)[:epochs]
    assert curve(folder)[epochs]["loss"] != curve(straight)[epochs]["loss"]
    rates = [numbers(path / run_directory.CHECKPOINT)["optimizer/vars/1"] for path in (folder, straight)]
    assert rates[0] == pytest.approx(rates[1] / 2)


def test_a_rate_that_is_far_too_high_makes_it_go_back_three_times_and_then_give_up(
    plain: recipe.Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss stays a number: it explodes."""
    part = replace(plain.training, learning_rate=1000.0, warmup=0.0, clip_norm=0.0)  # a hundred times what is allowed
    wild = replace(plain, training=part)
    with pytest.raises(
        UserError, match=r"the loss has risen .* after halving the learning rate 3 times; train again with"
    ):
        shown(trainer.train, wild, tmp_path, "wild")
    assert capsys.readouterr().out.count("with half the learning rate") == 3
    assert not (tmp_path / "wild").exists()


def test_times_of_going_back_are_counted_anew_after_a_whole_epoch(
    plain: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice in each of two epochs, four times in all."""
    for window in (5, 7, 30, 33):
        at_window(monkeypatch, window, poison)
    folder = shown(trainer.train, plain, tmp_path, "run")
    told = " ".join(capsys.readouterr().out.split())
    assert re.findall(r"half the learning rate \((\d) of 3 times\)", told) == ["1", "2", "1", "2"]
    assert [row["windows"] for row in curve(folder)] == [26, 52]
    with zipfile.ZipFile(folder / run_directory.CHECKPOINT) as archive:
        progress = json.loads(archive.read("progress.json"))
    assert (progress["setbacks"], progress["lately"]) == (4, 0)  # the rate stays lowered


def test_weights_that_are_no_numbers_are_never_saved(
    plain: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update after which it would save is the one that spoils the weights: its loss is from before that."""

    def poison_and_save(pace: TrainingController) -> None:
        poison(pace)
        monkeypatch.setattr(saving, "SAVE_INTERVAL", 0.0)
        monkeypatch.setattr(saving, "MAX_SAVING_SHARE", float("inf"))

    at_window(monkeypatch, 40, poison_and_save)
    folder = trainer.train(plain, tmp_path, "run").folder
    with zipfile.ZipFile(folder / run_directory.CHECKPOINT) as archive:
        assert json.loads(archive.read("progress.json"))["setbacks"] == 1
    for name in (run_directory.CHECKPOINT, run_directory.PREVIOUS, run_directory.MODEL):
        assert all(np.isfinite(values).all() for values in numbers(folder / name).values())
