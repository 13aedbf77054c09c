"""Logits for tests that draw: such as a model gives, and such in which many are equal."""

from typing import Any

import numpy as np
from hypothesis import strategies as st


def logits(V: int) -> st.SearchStrategy[list[float]]:
    """V numbers of float32: normal ones, multiples of a quarter, or some of each."""

    def mixed(seed: int, quarters: list[int | None]) -> list[float]:
        normal = np.random.default_rng(seed).normal(0.0, 2.0, V).astype(np.float32).tolist()
        return [x if n is None else n / 4 for x, n in zip(normal, quarters, strict=True)]

    def places(quarter: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(quarter, min_size=V, max_size=V)

    quarter, none = st.integers(-10, 10), st.none()
    return st.builds(mixed, st.integers(0, 2**32 - 1), places(none) | places(quarter) | places(none | quarter))
