"""The LSTM over a window on a CPU: the same numbers as Keras's loop, in a fraction of its time.

What makes it fast, against one small graph a time step and automatic differentiation:

- The input projection of the whole window is one matrix product, and so is every gradient of a weight; only the
  recurrent half is left in the loop.
- One tanh serves all four gates: sigmoid(z) = tanh(z / 2) / 2 + 1/2, with the halving folded into the weights.
- All factors of the backward pass that do not depend on it are computed for the whole window at once.
- The batch is cut into one part a core, each with a loop of its own, so that no operator waits for another thread.

Arrays inside are time-major, [T, B, ...]; gates are in Keras's order i, f, g, o.
"""

import os
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Part(NamedTuple):
    """What the forward pass of some rows leaves for the backward pass."""

    x: Any  # [T B, E], the inputs
    h0: Any  # [B, H]
    c0: Any  # [B, H]
    gates: Any  # [T, B, 4H], after their sigmoids and tanh
    c: Any  # [T, B, H]
    h: Any  # [T, B, H]


def parts_of(B: int | None) -> int:
    """Into how many parts a batch is cut: as many as cores, or the next smaller divisor of B."""
    return max((n for n in range(1, (os.cpu_count() or 1) + 1) if B is not None and B % n == 0), default=1)


@tf.custom_gradient
def lstm(x: Any, h0: Any, c0: Any, W: Any, U: Any, b: Any) -> Any:
    """Run a layer over a window.

    Args:
        x: float32 [B, T, E].
        h0: float32 [B, H].
        c0: float32 [B, H].
        W: float32 [E, 4H], the kernel.
        U: float32 [H, 4H], the recurrent kernel.
        b: float32 [4H].

    Returns:
        The outputs [B, T, H], and the last h and c, [B, H] each.
    """
    n = parts_of(x.shape[0])
    rows = zip(tf.split(x, n), tf.split(h0, n), tf.split(c0, n), strict=True)
    parts = [_forward(*row, weights=(W, U, b)) for row in rows]

    def gradient(dy: Any, dh: Any, dc: Any) -> Any:
        after = zip(parts, tf.split(dy, n), tf.split(dh, n), tf.split(dc, n), strict=True)
        by_row, by_weight = zip(*(_backward(*values, weights=(W, U)) for values in after), strict=True)
        joined = [tf.concat(values, axis=0) for values in zip(*by_row, strict=True)]
        return (*joined, *(tf.add_n(values) for values in zip(*by_weight, strict=True)))

    y = tf.concat([tf.transpose(part.h, [1, 0, 2]) for part in parts], axis=0)
    last = (
        tf.concat([values[-1] for values in pair], axis=0) for pair in zip(*((p.h, p.c) for p in parts), strict=True)
    )
    return (y, *last), gradient


def _forward(x: Any, h0: Any, c0: Any, weights: tuple[Any, Any, Any]) -> Part:
    W, U, b = weights
    H = U.shape[0]
    half, rest = _halves(H)
    T, B = tf.shape(x)[1], tf.shape(x)[0]
    flat = tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, x.shape[2]])
    projected = _elements(tf.reshape(tf.matmul(flat, W * half) + b * half, [T, B, 4 * H]))
    recurrent = U * half

    def advance(t: Any, h: Any, c: Any, gates: Any, cs: Any, hs: Any) -> tuple[Any, ...]:
        gate = tf.tanh(projected.read(t) + tf.matmul(h, recurrent)) * half + rest
        i, f, g, o = tf.split(gate, 4, axis=1)
        c = f * c + i * g
        h = o * tf.tanh(c)
        return t + 1, h, c, gates.write(t, gate), cs.write(t, c), hs.write(t, h)

    arrays = [_empty(T, h0.shape[0], width) for width in (4 * H, H, H)]
    _, _, _, gates, cs, hs = _loop(lambda t, *_: t < T, advance, (0, h0, c0, *arrays))
    return Part(flat, h0, c0, gates.stack(), cs.stack(), hs.stack())


def _backward(
    part: Part, dy: Any, dh: Any, dc: Any, weights: tuple[Any, Any]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Gradients of one part: of (x, h0, c0), and of (W, U, b).

    With z the gates before their sigmoids and tanh, the loop runs backward through::

        dc += dh o (1 - tanh(c)^2)        dz = [dc g i', dc c_before f', dc i g', dh tanh(c) o']
        dh_before = dz U^T                dc_before = dc f
    """
    W, U = weights
    T, B, H = tf.shape(part.c)[0], part.h0.shape[0], U.shape[0]
    i, f, g, o = tf.split(part.gates, 4, axis=2)
    before, tanh_c = _shifted(part.c0, part.c), tf.tanh(part.c)
    by_c = _elements(tf.concat([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], axis=2))
    by_h, through = _elements(tanh_c * o * (1 - o)), _elements(o * (1 - tanh_c * tanh_c))
    kept, dys, transposed = _elements(f), _elements(tf.transpose(dy, [1, 0, 2])), tf.transpose(U)

    def retreat(t: Any, dh: Any, dc: Any, dzs: Any) -> tuple[Any, ...]:
        dh += dys.read(t)
        dc += dh * through.read(t)
        dz = tf.concat([tf.tile(dc, [1, 3]) * by_c.read(t), dh * by_h.read(t)], axis=1)
        return t - 1, tf.matmul(dz, transposed), dc * kept.read(t), dzs.write(t, dz)

    _, dh, dc, dzs = _loop(lambda t, *_: t >= 0, retreat, (T - 1, dh, dc, _empty(T, B, 4 * H)))
    dz = tf.reshape(dzs.stack(), [-1, 4 * H])
    dx = tf.reshape(tf.matmul(dz, W, transpose_b=True), [T, -1, W.shape[0]])
    dW = tf.matmul(part.x, dz, transpose_a=True)
    dU = tf.matmul(tf.reshape(_shifted(part.h0, part.h), [-1, H]), dz, transpose_a=True)
    return (tf.transpose(dx, [1, 0, 2]), dh, dc), (dW, dU, tf.reduce_sum(dz, axis=0))


def _halves(H: int) -> tuple[Any, Any]:
    """What turns tanh into the gates: factors and summands [4H], 1/2 for the sigmoids, 1 and 0 for the candidate."""
    half = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), H)
    return half, 1 - half


def _shifted(first: Any, rest: Any) -> Any:
    """The values one step before: [B, H] and [T, B, H] give [T, B, H]."""
    return tf.concat([first[tf.newaxis], rest[:-1]], axis=0)


def _elements(values: Any) -> tf.TensorArray:
    """[T, B, width] as an array of T tensors, read without a copy."""
    return tf.TensorArray(tf.float32, tf.shape(values)[0], element_shape=values.shape[1:]).unstack(values)


def _empty(T: Any, B: int | None, width: int) -> tf.TensorArray:
    return tf.TensorArray(tf.float32, T, element_shape=[B, width])


def _loop(going: Any, body: Any, start: tuple[Any, ...]) -> Any:
    """A loop that waits for each step: with more in flight the steps only get in each other's way."""
    return tf.while_loop(going, body, start, parallel_iterations=1)
