"""As many threads as there are cores to use, and TensorFlow is told so."""

import math
import os
import re
import sys
from pathlib import Path

import pytest

from keras_lstmgen.config import recipe
from keras_lstmgen.system import containers, cpu, malloc
from keras_lstmgen.training import input_pipeline
from keras_lstmgen.utils.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kits are no package: they travel as folders
from export import client


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
    assert containers.cores(*groups) == cores


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({}, math.inf),
        ({"a/b": "max"}, math.inf),
        ({"a/b": "536870912"}, 2**29),
        ({"a": "1000", "a/b": "2000"}, 1000),
        ({".": "3000"}, 3000),
        ({"a/b": "nonsense"}, math.inf),
    ],
)
def test_a_limit_of_memory_is_the_least_of_all_groups_around(
    limits: dict[str, str], most: float, groups: tuple[Path, Path]
) -> None:
    for group, text in limits.items():
        (groups[0] / group / "memory.max").write_text(text + "\n")
    assert containers.memory(*groups) == most


@pytest.mark.parametrize("path", ["/docker/1234", "/"])
def test_limits_of_version_1_are_read_also_where_the_path_is_that_outside_of_the_container(
    path: str, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text(f"5:cpu,cpuacct:{path}\n4:memory:{path}\n1:name=systemd:{path}\n")
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": 150_000, "cpu,cpuacct/cpu.cfs_period_us": 100_000,
        "memory/memory.limit_in_bytes": 2**29,
    }  # fmt: skip
    for name, value in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    assert containers.cores(tmp_path, tmp_path / "own") == 1.5
    assert containers.memory(tmp_path, tmp_path / "own") == 2**29


def test_no_quota_in_version_1_is_none(groups: tuple[Path, Path]) -> None:
    groups[1].write_text("5:cpu:/a\n")
    (groups[0] / "cpu/a").mkdir(parents=True)
    (groups[0] / "cpu/a/cpu.cfs_quota_us").write_text("-1\n")
    (groups[0] / "cpu/a/cpu.cfs_period_us").write_text("100000\n")
    assert containers.cores(*groups) == math.inf


def test_memory_is_the_container_s_where_that_is_less_than_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, expected in ((2**29, 2**29), (2.0**63, machine), (math.inf, machine)):
        monkeypatch.setattr(containers, "memory", lambda limit=limit: limit)
        assert malloc.available() == expected


def test_a_model_larger_than_the_memory_of_the_container_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "memory", lambda: 2**20)
    settings = recipe.override(recipe.Recipe(), {"model.units": 200, "model.layers": 1, "model.embedding_size": 16})
    with pytest.raises(UserError, match=r"more than the 0\.0 GB that this process may use"):
        input_pipeline._check_memory(settings, 100)


def test_no_memory_is_set_aside_beyond_that_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(containers, "memory", lambda: malloc.MINIMUM)  # half of it is too little
    monkeypatch.setattr(malloc, "_reserve", lambda *_: pytest.fail("memory was set aside"))
    malloc.configure()


COUNTED = re.compile(r"cpu_count\(|len\(os\.sched_getaffinity|SC_PHYS_PAGES|SC_NPROCESSORS|MemTotal")
COUNTING = {
    "keras_lstmgen/system/cpu.py",
    "keras_lstmgen/system/malloc.py",
    "export/client.py",
    "tests/test_threads.py",
}


def test_cores_and_memory_are_counted_in_one_place() -> None:
    root = Path(__file__).parents[1]
    folders = ("keras_lstmgen", "benchmarks", "tests", "export")
    files = [path for folder in folders for path in (root / folder).rglob("*.py") if "node_modules" not in path.parts]
    counting = {str(path.relative_to(root)) for path in files if COUNTED.search(path.read_text(encoding="utf-8"))}
    assert counting == COUNTING


@pytest.mark.parametrize(("text", "most"), [("max 100000", 8), ("150000 100000", 2), ("nonsense", 8), ("1 100000", 1)])
def test_a_client_has_threads_for_the_quota_of_its_container(
    text: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(text)
    assert client.cores(tmp_path / "cpu.max") == most
    assert client.cores(tmp_path / "none") == 8


def test_where_there_are_no_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert containers.cores(tmp_path, tmp_path / "none") == containers.memory(tmp_path, tmp_path / "none") == math.inf


@pytest.mark.parametrize(("quota", "expected"), [(math.inf, 8), (1.5, 2), (0.1, 1), (100.0, 8)])
def test_a_container_gets_threads_for_its_quota_and_not_for_the_machine(
    quota: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(containers, "cores", lambda: quota)
    assert cpu.available() == expected


def test_tensorflow_is_told_unless_the_user_has_told_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "available", lambda: 7)
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "5")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    cpu.configure()
    assert (os.environ["TF_NUM_INTRAOP_THREADS"], os.environ["TF_NUM_INTEROP_THREADS"]) == ("7", "5")
