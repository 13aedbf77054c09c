"""The compiled code stays within its memory, has no data races, and takes any number of threads."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lstmgen.layers import native_ops
from keras_lstmgen.system import cpu

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "keras_lstmgen/native"
SANITIZERS = ("address,undefined", "thread")
# Without optimization: the compiler takes a third of the time, and removes no access that a sanitizer would check.
FLAGS = "-std=gnu11 -g -O0 -pthread -Wall -Wextra -Werror -Wno-psabi -Wno-unused-function -fno-sanitize-recover=all"
COUNTS = (1, 255, 256, 257, 1000)  # of threads


def compiled(program: Path, sanitizer: str, *sources: Path) -> subprocess.CompletedProcess[str]:
    """Compile a program with a sanitizer."""
    command: list[str | Path] = [
        "gcc",
        *FLAGS.split(),
        f"-fsanitize={sanitizer}",
        f"-I{SOURCES}",
        "-o",
        program,
        *sources,
        "-lm",
    ]
    return subprocess.run(command, capture_output=True, text=True)


def need(sanitizer: str, folder: Path) -> None:
    """Skip the test where gcc has no such sanitizer, or where a program with it cannot run."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, which is not installed")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    done = compiled(folder / "empty", sanitizer, folder / "empty.c")
    if done.returncode or subprocess.run([folder / "empty"], capture_output=True).returncode:
        pytest.skip(f"this system runs no program that gcc compiled with -fsanitize={sanitizer}")


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_a_sanitizer_finds_nothing_in_any_kind_of_kernel(sanitizer: str, tmp_path: Path) -> None:
    need(sanitizer, tmp_path)
    sources = (TESTS / "native/driver.c", SOURCES / "lstm.c", SOURCES / "softmax.c")
    done = compiled(tmp_path / "driver", sanitizer, *sources)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([tmp_path / "driver"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"plain", "softmax"} <= set(done.stdout.splitlines())


def lstm_results(monkeypatch: pytest.MonkeyPatch, count: int) -> list[Any]:
    """Give outputs and gradients of a window with more rows than a team has threads."""
    B, T, E, H = 300, 2, 3, 5
    dice = np.random.default_rng(1)
    shapes = ((B, T, E), (B, H), (B, H), (E, 4 * H), (H, 4 * H), (4 * H,))
    inputs = [dice.normal(size=shape).astype(np.float32) for shape in shapes]
    monkeypatch.setattr(cpu, "available", lambda: count)
    monkeypatch.setattr(native_ops, "ROWS_PER_THREAD", 1)
    y, h, c, *kept = native_ops._forward(False, *inputs)
    x, W, U = inputs[0], *inputs[3:5]
    return [y, h, c, *native_ops._backward(False, x, W, U, y, h, c, *kept)]


def softmax_results(monkeypatch: pytest.MonkeyPatch, count: int) -> list[Any]:
    """Give likelihoods and gradients of more rows than a team has threads."""
    N, V = 300, 7
    dice = np.random.default_rng(2)
    products, bias, by = (dice.normal(size=size).astype(np.float32) for size in ((N, V), V, N))
    labels = dice.integers(V, size=N, dtype=np.int32)
    monkeypatch.setattr(cpu, "available", lambda: count)
    monkeypatch.setattr(native_ops, "LOGITS_PER_THREAD", 1)
    nats, sums = native_ops._softmax_forward(products, bias, labels)
    return [nats, sums, *native_ops._softmax_backward(products, bias, labels, sums, by)]


@pytest.mark.parametrize("results", [lstm_results, softmax_results])
def test_any_number_of_threads_gives_the_results_of_one(results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, *others = (results(monkeypatch, count) for count in COUNTS)
    for found in others:
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)
