"""Measure the peak speed of the machine: the product of two large matrices in TensorFlow and PyTorch."""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from importlib.util import find_spec
from typing import Any

from benchmarks.measure import Figures, instructions, interleaved
from benchmarks.workers import Worker

PRECISIONS = ("float32", "bfloat16")
SIZES = {"cpu": 4096, "gpu": 8192}  # rows and columns of the matrices
SLOW = 1024  # of those in bfloat16 on a processor that does not multiply it, and would take minutes
COUNTS = {"cpu": 2, "gpu": 50}  # products in a turn


def product(library: str, precision: str, n: int) -> Callable[[int], float]:
    """A side that computes so many products of two ``n`` by ``n`` matrices and gives FLOP/s."""
    multiply = {"tensorflow": _tensorflow, "torch": _torch}[library](precision, n)

    def side(count: int) -> float:
        began = time.perf_counter()
        multiply(count)
        return 2 * n**3 * count / (time.perf_counter() - began)

    side(2)
    return side


def _tensorflow(precision: str, n: int) -> Callable[[int], None]:
    import tensorflow as tf

    a, b = (tf.cast(tf.random.normal((n, n)), precision) for _ in range(2))

    def multiply(count: int) -> None:
        for _ in range(count):
            c = tf.matmul(a, b)
        float(c[0, 0])  # waits for a GPU

    return multiply


def _torch(precision: str, n: int) -> Callable[[int], None]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(n, n, device=device).to(getattr(torch, precision)) for _ in range(2))

    def multiply(count: int) -> None:
        for _ in range(count):
            c = a @ b
        c[0, 0].item()

    return multiply


def sides(stack: ExitStack, device: str = "cpu", n: int | None = None) -> dict[str, Callable[[], float]]:
    """Workers that measure the peak once each time they are called, "peak float32 tensorflow" and so on."""
    found: dict[str, Callable[[], float]] = {}
    for library in ("tensorflow", "torch"):
        for precision in PRECISIONS if find_spec(library) else ():
            size = n or _size(device, precision)
            arguments: dict[str, Any] = {"library": library, "precision": precision, "n": size}
            worker = Worker("benchmarks.peak:product", environment(device), **arguments)
            stack.enter_context(closing(worker))
            found[f"peak {precision} {library}"] = lambda worker=worker: worker.ask(COUNTS[device])  # type: ignore[misc]
    return found


def _size(device: str, precision: str) -> int:
    lacking = device == "cpu" and precision == "bfloat16" and not {"avx512_bf16", "amx_bf16"} & {*instructions()}
    return SLOW if lacking else SIZES[device]


def environment(device: str) -> dict[str, str]:
    """Hides the GPU from a worker; or shows it, of which TensorFlow then takes only what it needs, without TF32."""
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": "-1"}
    return {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "NVIDIA_TF32_OVERRIDE": "0"}


def by_precision(figures: Figures) -> dict[str, list[float]]:
    """The larger of the libraries in each round: FLOP/s, a list a precision."""
    return {
        precision: [
            max(row)
            for row in zip(
                *(rates for side, rates in figures.items() if side.startswith(f"peak {precision} ")), strict=True
            )
        ]
        for precision in PRECISIONS
    }


def gflops(peaks: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of the rounds, in GFLOP/s."""
    return {precision: round(statistics.median(values) / 1e9, 1) for precision, values in peaks.items()}


def measured(rounds: int = 3) -> dict[str, float]:
    """The peak of the processor in GFLOP/s, a precision each."""
    with ExitStack() as stack:
        return gflops(by_precision(interleaved(sides(stack), rounds)))
