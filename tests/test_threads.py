"""As many threads as there are cores to use, and TensorFlow is told so."""

import math
import os
from pathlib import Path

import pytest

from keras_lstmgen import threads


@pytest.fixture
def groups(tmp_path: Path) -> tuple[Path, Path]:
    """A tree of control groups, a/b the own one, and the file that says so."""
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "own").write_text("1:name=systemd:/\n0::/a/b\n")
    return tmp_path / "tree", tmp_path / "own"


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, math.inf),
        ({"a/b": "max 100000"}, math.inf),
        ({"a/b": "150000 100000"}, 1.5),
        ({"a": "50000 100000", "a/b": "400000 100000"}, 0.5),
        ({".": "300000 100000"}, 3.0),
        ({"a/b": "nonsense"}, math.inf),
        ({"a/b": "much 100000"}, math.inf),
        ({"a/b": "100000 0"}, math.inf),
    ],
)
def test_a_quota_is_the_least_of_all_groups_around(
    limits: dict[str, str], cores: float, groups: tuple[Path, Path]
) -> None:
    for group, text in limits.items():
        (groups[0] / group / "cpu.max").write_text(text + "\n")
    assert threads.quota(*groups) == cores


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert threads.quota(tmp_path, tmp_path / "none") == math.inf


@pytest.mark.parametrize(("quota", "expected"), [(math.inf, 8), (1.5, 2), (0.1, 1), (100.0, 8)])
def test_a_container_gets_threads_for_its_quota_and_not_for_the_machine(
    quota: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "quota", lambda: quota)
    assert threads.available() == expected


def test_tensorflow_is_told_unless_the_user_has_told_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available", lambda: 7)
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "5")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    threads.configure()
    assert (os.environ["TF_NUM_INTRAOP_THREADS"], os.environ["TF_NUM_INTEROP_THREADS"]) == ("7", "5")
