"""The compiled code stays within its memory, has no data races, and computes the same results on all processors."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lstmgen.layers import native_ops
from keras_lstmgen.system import cpu

TESTS = Path(__file__).parent
ROOT = TESTS.parent
SOURCES = ROOT / "keras_lstmgen/native"
SETS = tomllib.loads((SOURCES / "instruction_sets.toml").read_text(encoding="utf-8"))
COMMON = ("lstm.c", "softmax.c", "plain.c", "softmax_plain.c")
SANITIZERS = ("address,undefined", "thread")
WARNINGS = ["-std=gnu11", "-pthread", "-Wall", "-Wextra", "-Wno-psabi", "-Wno-unused-function"]
# Without optimization: the compiler takes a third of the time, and removes no access that a sanitizer would check.
SANITIZED = ["-Werror", "-g", "-O0", "-fno-sanitize-recover=all"]
COUNTS = (1, 255, 256, 257, 1000)  # of threads


@dataclass(frozen=True)
class Compiler:
    """A compiler for a processor, and the command that runs its programs."""

    command: tuple[str, ...]
    machine: str
    emulator: tuple[str, ...] = ()
    architecture: str = "-march=armv8.2-a"  # how the compiler names the architecture that ``+bf16`` extends


ZIG = (sys.executable, "-m", "ziglang") if importlib.util.find_spec("ziglang") else ("zig",)
LIBRARIES = ("-L", "/usr/aarch64-linux-gnu")
GCC = Compiler(("gcc",), "x86_64")
COMPILERS = {
    "x86-64, gcc": GCC,
    "x86-64, clang": Compiler(("clang",), "x86_64"),
    "aarch64, gcc": Compiler(("aarch64-linux-gnu-gcc",), "aarch64", ("qemu-aarch64", *LIBRARIES)),
    "aarch64, clang": Compiler(("clang", "--target=aarch64-linux-gnu"), "aarch64", ("qemu-aarch64", *LIBRARIES)),
    "aarch64, musl": Compiler(
        (*ZIG, "cc", "-target", "aarch64-linux-musl"), "aarch64", ("qemu-aarch64",), "-mcpu=generic"
    ),
}


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def need(compiler: Compiler, folder: Path, *flags: str) -> None:
    """Skip the test where the compiler or the emulator is missing, or where a program with the flags cannot run."""
    for program in (compiler.command[0], *compiler.emulator[:1]):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}, which is not installed")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    done = call(*compiler.command, *flags, "-o", folder / "empty", folder / "empty.c")
    if done.returncode or call(*compiler.emulator, folder / "empty").returncode:
        pytest.skip(f"this system runs no program of {' '.join([*compiler.command, *flags])}")


def driver(compiler: Compiler, folder: Path, *flags: str) -> Path:
    """Compile the driver with one object file per instruction set, as setup.py does, and return the program."""
    objects = []
    for name, options in SETS[compiler.machine].items():
        own = [option.replace(Compiler.architecture, compiler.architecture) for option in options]
        objects.append(folder / f"{name}.o")
        done = call(*compiler.command, *WARNINGS, *flags, *own, "-c", SOURCES / f"{name}.c", "-o", objects[-1])
        assert done.returncode == 0, done.stderr
    macros = [f"-DHAS_{name.upper()}" for name in SETS[compiler.machine]]
    sources = [TESTS / "native/driver.c", *(SOURCES / name for name in COMMON)]
    words: list[str | Path] = [
        *WARNINGS,
        *flags,
        *macros,
        f"-I{SOURCES}",
        *sources,
        *objects,
        "-o",
        folder / "driver",
        "-lm",
    ]
    done = call(*compiler.command, *words)
    assert done.returncode == 0, done.stderr
    return folder / "driver"


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_a_sanitizer_finds_nothing_in_any_kind_of_kernel(sanitizer: str, tmp_path: Path) -> None:
    flags = (*SANITIZED, f"-fsanitize={sanitizer}")
    need(GCC, tmp_path, *flags)
    done = call(driver(GCC, tmp_path, *flags))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"plain", "emulated", "softmax"} <= set(done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILERS)
def test_every_compiler_and_processor_gives_the_same_results_in_all_kinds_of_kernels(name: str, tmp_path: Path) -> None:
    compiler = COMPILERS[name]
    need(compiler, tmp_path)
    program = driver(compiler, tmp_path, "-O2")
    done = call(*compiler.emulator, *(["-cpu", "max"] if compiler.emulator else []), program, "quick")
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {"plain", "emulated", "emulated amx", "softmax"}
    assert set(done.stdout.splitlines()) >= expected | ({"neon", "neon_bf16"} if compiler.emulator else set())


@pytest.mark.slow
def test_a_processor_without_bfloat16_products_does_not_run_them(tmp_path: Path) -> None:
    compiler = COMPILERS["aarch64, gcc"]
    need(compiler, tmp_path)
    done = call(*compiler.emulator, "-cpu", "cortex-a53", driver(compiler, tmp_path, "-O2"), "quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["plain", "neon", "emulated", "emulated amx", "softmax"]


@pytest.mark.slow
def test_gcc_and_clang_build_a_library_with_the_same_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for compiler in (COMPILERS["x86-64, gcc"], COMPILERS["x86-64, clang"]):
        need(compiler, tmp_path)
    found = []
    for name in ("gcc", "clang"):
        done = build(tmp_path / name, name)
        (library,) = (tmp_path / name).rglob("lstm*.so")
        assert "without" not in done.stdout
        monkeypatch.setattr(native_ops, "library", lambda path=library: ctypes.CDLL(str(path)))
        found.append([*lstm_results(monkeypatch, 2), *softmax_results(monkeypatch, 2)])
    for value, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


def build(folder: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    """Build the extension with setup.py and a compiler in a folder."""
    command = [sys.executable, "setup.py", "build_ext", "--force", "--build-lib", folder / "lib"]
    environment = os.environ | {"CC": compiler, "LDSHARED": f"{compiler} -shared"}
    return subprocess.run(
        [*map(str, command), "--build-temp", str(folder / "temp")],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "no C compiler was found during installation"),
        ("false", "the C compiler 'false' failed during installation"),
    ],
)
def test_without_a_working_compiler_the_installation_records_the_reason(
    compiler: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, compiler)
    folder = tmp_path / "lib/keras_lstmgen/native"
    monkeypatch.setattr(native_ops, "FOLDER", folder)
    native_ops.library.cache_clear()
    try:
        assert native_ops.library() is None
        assert native_ops.missing_reason() == reason
    finally:
        monkeypatch.undo()
        native_ops.library.cache_clear()


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


@pytest.mark.slow
@pytest.mark.parametrize("results", [lstm_results, softmax_results])
def test_any_number_of_threads_gives_the_results_of_one(results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, *others = (results(monkeypatch, count) for count in COUNTS)
    for found in others:
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)
