"""The kernel keeps the digits of small numbers: relative errors near zero, against float64."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from keras_lstmgen.layers import native_ops

Array = NDArray[np.float64]

BOUND = 2e-6  # relative: a few roundings of float32, one after another
SMALL = np.concatenate([sign * 10.0 ** np.arange(-36, 0.1, 0.25) for sign in (1, -1)])
KINDS = ["plain", "avx2", "avx512"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kind of kernel that computes in float32 and can run here."""
    if not native_ops.select_kernel(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    native_ops.select_kernel("best")


def ran(z: Array, c0: Array, dh: Array, dc: Array) -> dict[str, Array]:
    """Run one step of the kernel from the sums of the gates, z [B, 4H]: c, h, and the gradients by z and c0."""
    (B, H), E = c0.shape, z.shape[1]
    inputs = (z.reshape(B, 1, E), np.zeros((B, H)), c0, np.eye(E), np.zeros((H, 4 * H)), np.zeros(4 * H))
    x, h0, c0_, W, U, b = (value.astype(np.float32) for value in inputs)
    y, h, c, *kept = native_ops._forward(False, x, h0, c0_, W, U, b)
    back = native_ops._backward(False, x, W, U, np.zeros_like(y), dh.astype(np.float32), dc.astype(np.float32), *kept)
    return {"c": c.astype(float), "h": h.astype(float), "dz": back[0][:, 0].astype(float), "dc0": back[2].astype(float)}


def oracle(z: Array, c0: Array, dh: Array, dc: Array) -> dict[str, Array]:
    """Compute the same in float64 by the equations, from the same float32 numbers."""
    z, c0, dh, dc = (value.astype(np.float32).astype(float) for value in (z, c0, dh, dc))
    zi, zf, zg, zo = np.split(z, 4, axis=1)
    (i, f, o), g = (1 / (1 + np.exp(-gate)) for gate in (zi, zf, zo)), np.tanh(zg)
    c = f * c0 + i * g
    d = dc + dh * o / np.cosh(c) ** 2
    dz = [d * g * i * (1 - i), d * c0 * f * (1 - f), d * i / np.cosh(zg) ** 2, dh * np.tanh(c) * o * (1 - o)]
    return {"c": c, "h": o * np.tanh(c), "dz": np.concatenate(dz, axis=1), "dc0": d * f}


def assert_near(z: Array, c0: Array, names: tuple[str, ...] = ("c", "h", "dz", "dc0")) -> None:
    """Check all relative errors of one step; the gradients by h and c are positive."""
    dice = np.random.default_rng(1)
    dh, dc = (dice.uniform(0.1, 1, c0.shape) for _ in range(2))
    found, wanted = ran(z, c0, dh, dc), oracle(z, c0, dh, dc)
    for name in names:
        np.testing.assert_allclose(found[name], wanted[name], rtol=BOUND, atol=0, err_msg=name)


def gates(H: int, **values: Any) -> Array:
    """Make the sums of the gates, [1, 4H]; gates without a value get 0."""
    return np.concatenate([np.broadcast_to(values.get(gate, 0.0), H) for gate in "ifgo"])[None]


@pytest.mark.usefixtures("kind")
def test_tanh_keeps_the_digits_of_small_numbers() -> None:
    """With c0 = 0 and open gates c is tanh(g) / 2 and h is tanh(c) / 2."""
    assert_near(gates(len(SMALL), g=SMALL), np.zeros((1, len(SMALL))))


@pytest.mark.usefixtures("kind")
def test_tanh_keeps_the_digits_of_a_small_cell() -> None:
    """With g = 0 c is c0 / 2."""
    assert_near(gates(len(SMALL)), SMALL[None])


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("gate", ["i", "f", "o"])
def test_sigmoid_keeps_the_digits_of_small_numbers(gate: str) -> None:
    assert_near(gates(len(SMALL), **{gate: SMALL, "g": 0.5}), np.full((1, len(SMALL)), 0.25))


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("scale", [1e-9, 1e-7, 1e-5, 1e-3, 0.1, 1.0])
def test_a_whole_cell_keeps_the_digits_of_small_numbers(scale: float) -> None:
    """With c0 of g's sign, so that no sum cancels."""
    B, H = 3, 37
    dice = np.random.default_rng(2)
    z = dice.uniform(-1, 1, (B, 4 * H)) * scale
    assert_near(z, np.abs(dice.uniform(0.1, 1, (B, H))) * scale * np.sign(z[:, 2 * H : 3 * H]))
