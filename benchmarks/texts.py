"""Shared code of the sides of ``generation``: texts of a fixed length, with the best number of threads.

Beside NumPy it imports the package's count of cores alone, so that no side loads what it does not use.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_lstmgen.system.cpu import available

LENGTH = 200  # characters of a text
TRIALS, TRIAL_SECONDS = 5, 0.6  # of each number of threads, before the rounds

Write = Callable[[int], Any]  # writes one text a row, so many characters long


def cores() -> list[int]:
    """Numbers of threads worth a try: one, and as many as there are cores."""
    return sorted({1, available()})


def writes(by_threads: dict[int, Write], B: int, length: int = LENGTH) -> Callable[[float], float]:
    """A side: writes whole texts for so many seconds, and gives characters a second.

    It has the number of threads that it is fastest with; asked for no second at all, it tells that.
    """
    threads = fastest(by_threads, B, length)
    return lambda seconds: rate(by_threads[threads], B, length, seconds) if seconds else float(threads)


def fastest(by_threads: dict[int, Write], B: int, length: int) -> int:
    """The number of threads with the best median of some short trials, in turns."""
    for write in by_threads.values():
        write(2)  # compiles
    if len(by_threads) == 1:
        return next(iter(by_threads))
    rates: dict[int, list[float]] = {threads: [] for threads in by_threads}
    for _ in range(TRIALS):
        for threads, write in by_threads.items():
            rates[threads].append(rate(write, B, length, TRIAL_SECONDS))
    return max(rates, key=lambda threads: statistics.median(rates[threads]))


def rate(write: Write, B: int, length: int, seconds: float) -> float:
    """Characters a second of whole texts, one after the other until the time is over."""
    texts, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds or not texts:
        write(length)
        texts += B
    return texts * length / (time.perf_counter() - began)


def weights(folder: str) -> dict[str, Any]:
    """The weights as Keras has them, by name; those of layer l end with ``_l``."""
    with np.load(Path(folder) / "weights.npz") as stored:
        return dict(stored)


def layers(names: Sequence[str]) -> int:
    """How many LSTM layers the weights are of."""
    return sum(name.startswith("kernel_") for name in names)
