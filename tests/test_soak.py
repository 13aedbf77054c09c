"""The soak tells what is lost from what is not; that it trains and exports under faults is shown by running it."""

import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak

pytestmark = pytest.mark.slow

ROWS = [{"windows": 70.0 * n, "seconds": 3.0 * n, "loss": 3.0 / n, "val_loss": 2.5 / n} for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("rows", "whole"),
    [([], True), (ROWS[:2], True), (ROWS, True), (ROWS[1:], False), ([*ROWS, ROWS[0]], False), (None, False)],
)
def test_a_curve_is_a_beginning_of_the_undisturbed_one_or_it_is_not(rows: Any, whole: bool) -> None:
    assert soak.is_beginning(rows, ROWS) == whole
    if rows:
        assert not soak.is_beginning([{**rows[0], "loss": 1e-9}, *rows[1:]], ROWS)
        assert soak.is_beginning([{**row, "seconds": 99.0} for row in rows], ROWS) == whole


@pytest.fixture
def place(tmp_path: Path) -> soak.Place:
    """A run with two checkpoints that hold a curve, and nothing else."""
    place = soak.Place(tmp_path, tmp_path / "a.toml", ROWS, "", "", {"training": 1.0, "export": 1.0})
    place.disturbed.mkdir(parents=True)
    for name, rows in (("checkpoint.keras", ROWS[:2]), ("checkpoint.before.keras", ROWS[:1])):
        with zipfile.ZipFile(place.disturbed / name, "w") as archive:
            archive.writestr("model.weights.h5", bytes(range(256)) * 40)
            archive.writestr("progress.json", json.dumps({"history": rows}))
    return place


@pytest.mark.parametrize("name", ["checkpoint cut", "bit flipped in checkpoint"])
def test_harm_is_done_to_the_newest_checkpoint_alone_and_it_is_seen(place: soak.Place, name: str) -> None:
    assert soak.history_of(place.disturbed / "checkpoint.keras") == ROWS[:2]
    before = (place.disturbed / "checkpoint.keras").read_bytes()
    assert soak.harm(place, name, random.Random(1))
    assert (place.disturbed / "checkpoint.keras").read_bytes() != before
    assert soak.history_of(place.disturbed / "checkpoint.before.keras") == ROWS[:1]
    (place.disturbed / "checkpoint.before.keras").unlink()
    assert not soak.harm(place, name, random.Random(1))  # there is nothing to go back to


def test_a_file_that_is_gone_is_counted_and_one_that_took_another_s_place_is_not(place: soak.Place) -> None:
    (place.disturbed / "model.keras").write_bytes(b"12345")
    before = soak.contents(place.folder)
    assert {path.name for path in before} == {"model.keras", "checkpoint.keras"}
    (place.disturbed / "model.keras").unlink()
    assert soak.bytes_lost(place, before) == 5


@pytest.mark.parametrize(("later", "lost"), [(b"12345", 0), (b"123", 2), (b"", 5), (b"1x345", 1), (b"12345more", 0)])
def test_of_the_finished_run_each_byte_that_is_another_or_cut_off_is_counted(
    place: soak.Place, later: bytes, lost: int
) -> None:
    (place.finished / "tflite").mkdir(parents=True)
    for path in (place.finished / "tflite/model.tflite", place.finished / "export.json", place.disturbed / "a.json"):
        path.write_bytes(b"12345")
    before = soak.contents(place.folder)
    for path in (place.finished / "tflite/model.tflite", place.finished / "export.json", place.disturbed / "a.json"):
        path.write_bytes(later)  # the record of an export and the run that goes on may change
    assert soak.bytes_lost(place, before) == lost


@pytest.mark.parametrize(
    ("name", "status", "said", "found"),
    [
        ("SIGKILL in training", -9, "", []),
        ("SIGTERM in export", 143, "keras-lstmgen: stopped\n", []),
        ("full disk in training", 2, "keras-lstmgen: no room\n", []),
        ("full disk in training", 2, "two\nlines\n", ["not one line"]),
        ("cache removed", 1, "Traceback (most", ["status 1", "not one line"]),
        ("cache removed", -9, "", ["status -9"]),
    ],
)
def test_how_a_command_may_end_after_a_fault(name: str, status: int, said: str, found: list[str]) -> None:
    reasons = soak.unexpected(name, soak.Ended(status, said, 0))
    assert [reason.split(":")[0] for reason in reasons] == found


def test_a_refused_file_system_refuses_from_the_given_change_on_and_only_below_the_folder(tmp_path: Path) -> None:
    """In a child, since no hook can be taken back."""

    def work() -> int:
        for number in range(5):
            (tmp_path / f"{number}.txt").write_text("written")
        return 0

    ended = soak.child(lambda: soak.refusing(work, tmp_path, 3, 28))
    assert ended.status == 1
    assert "No space left on device" in ended.said
    assert {path.name for path in tmp_path.iterdir()} == {"0.txt", "1.txt"}
