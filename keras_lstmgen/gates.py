"""A layer seen at work: its gates and cells at each token of a text, by the very step that writes.

Of an ensemble the layer is one of its first member; the logits are those of all together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.model import Watched, Weights, split_state, state_size, step, together, watched_step

WINDOW = 256  # tokens read in one call
Array = NDArray[np.float32]
Reader = Callable[[Any, Any], tuple[Array, Array]]


class Trace(NamedTuple):
    """What a layer did at each of N tokens, and what the model thought after it."""

    input: Array  # [N, H]
    forget: Array  # [N, H]
    candidate: Array  # [N, H]
    output: Array  # [N, H]
    cells: Array  # [N, H], c after the token
    logits: Array  # [N, V]
    looks: Array | None  # [N, N], the share of each token's state in what the attention saw at a token


def begin(weights: Weights) -> Array:
    """The state [1, S] that begins a text."""
    return np.zeros((1, state_size(weights)), np.float32)


def reader(weights: Weights, layer: int) -> Reader:
    """What reads a text for the cells of a layer (from 0): ids [N] and a state [1, S] give c [N, H] and the state."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([1, state_size(weights)])])
    def window(ids: Any, state: Any) -> tuple[Any, Any]:
        def advance(t: Any, state: Any, cells: Any) -> tuple[Any, Any, Any]:
            _, state = step(weights, tf.expand_dims(ids[t], 0), state)
            return t + 1, state, cells.write(t, _cells(weights, layer, state)[0])

        N = tf.shape(ids)[0]
        start = (0, state, tf.TensorArray(tf.float32, N))
        _, state, cells = tf.while_loop(lambda t, *_: t < N, advance, start)
        return tf.ensure_shape(cells.stack(), [None, weights.cells[layer].recurrent.shape[0]]), state

    def read(ids: Any, state: Any) -> tuple[Array, Array]:
        found = [np.zeros((0, int(weights.cells[layer].recurrent.shape[0])), np.float32)]
        for start in range(0, len(ids), WINDOW):
            cells, state = window(np.asarray(ids[start : start + WINDOW], np.int32), state)
            found.append(cells.numpy())
        return np.concatenate(found), np.asarray(state)

    return read


def trace(weights: Weights, ids: Any, layer: int, state: Any) -> Trace:
    """Watch a layer (from 0) read ids [N], N ≥ 1, from a state [1, S]."""

    @tf.function(input_signature=[tf.TensorSpec([1], tf.int32), tf.TensorSpec([1, state_size(weights)])])
    def watch(token: Any, state: Any) -> tuple[Any, Any, Any]:
        seen: list[Watched] = []  # of each member

        def ask(member: Weights, part: Any) -> tuple[Any, Any]:
            seen.append(watched_step(member, token, part))
            return seen[-1].logits, seen[-1].state

        logits, state = together(weights, ask, state)
        return [*seen[0].gates[layer], _cells(weights, layer, state), logits], seen[0].looks, state

    rows, looks = [], []
    for token in ids:
        told, looked, state = watch(tf.constant([token], tf.int32), state)
        rows.append([values[0].numpy() for values in told])
        looks.append(None if looked is None else looked[0, 0].numpy())
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    return Trace._make([*columns, _by_token(looks)])


def _cells(weights: Weights, layer: int, state: Any) -> Any:
    """The c [B, H] of a layer, of the first member, in a state [B, S]."""
    first = tf.split(state, 1 + len(weights.others), axis=1)[0]
    return split_state(weights, first)[0][2 * layer + 1]


def _by_token(looks: list[Any]) -> Array | None:
    """[N, N] from where each step looked, [M + 1] with its own slot last; what lies before the N tokens is left out."""
    if looks[0] is None:
        return None
    shares = np.zeros((len(looks), len(looks)), np.float32)
    for t, row in enumerate(looks):
        reach = min(len(row) - 1, t + 1)
        shares[t, t + 1 - reach : t + 1] = row[-reach:]
    return shares
