"""Record the gate activations and cell states of an LSTM layer while the model reads a text.

In an ensemble, the activations are those of the first member, but the logits are those of the whole ensemble.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.models.inference_step import (
    StepTrace,
    Weights,
    for_each_member,
    split_state,
    state_size,
    step,
    traced_step,
)

WINDOW = 256  # maximum number of tokens that one call processes
Array = NDArray[np.float32]
Reader = Callable[[Any, Any], tuple[Array, Array]]


class Trace(NamedTuple):
    """Activations of a layer and logits of the model after each of N tokens. All arrays are float32.

    Attributes:
        input: input gate, shape [N, H].
        forget: forget gate, shape [N, H].
        candidate: candidate values of the cell state, shape [N, H].
        output: output gate, shape [N, H].
        cells: cell state after the token, shape [N, H].
        logits: logits of the next token, shape [N, V].
        attention_weights: attention weights, shape [N, N], or None if the model has no attention. Entry [t, s] is the
            weight of token s in the step of token t.
    """

    input: Array
    forget: Array
    candidate: Array
    output: Array
    cells: Array
    logits: Array
    attention_weights: Array | None


def initial_state(weights: Weights) -> Array:
    """Return the state of the model before the first token of a text: zeros, float32 of shape [1, S]."""
    return np.zeros((1, state_size(weights)), np.float32)


def cell_reader(weights: Weights, layer: int) -> Reader:
    """Create a function that computes the cell states of a layer.

    Args:
        weights: weights of the model.
        layer: index of the layer, from 0.

    Returns:
        A function that takes integer ids of shape [N] and a float32 state of shape [1, S]. It returns the cell states
        after each token (float32, shape [N, H]) and the state of the model after the last token (shape [1, S]).
    """

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([1, state_size(weights)])], autograph=False
    )
    def window(ids: Any, state: Any) -> tuple[Any, Any]:
        def read_token(t: Any, state: Any, cells: Any) -> tuple[Any, Any, Any]:
            _, state = step(weights, tf.expand_dims(ids[t], 0), state)
            return t + 1, state, cells.write(t, _cells(weights, layer, state)[0])

        N = tf.shape(ids)[0]
        start = (0, state, tf.TensorArray(tf.float32, N))
        _, state, cells = tf.while_loop(lambda t, *_: t < N, read_token, start)
        return tf.ensure_shape(cells.stack(), [None, weights.cells[layer].recurrent.shape[0]]), state

    def read(ids: Any, state: Any) -> tuple[Array, Array]:
        windows = [np.zeros((0, int(weights.cells[layer].recurrent.shape[0])), np.float32)]
        for start in range(0, len(ids), WINDOW):
            cells, state = window(np.asarray(ids[start : start + WINDOW], np.int32), state)
            windows.append(cells.numpy())
        return np.concatenate(windows), np.asarray(state)

    return read


def trace(weights: Weights, ids: Any, layer: int, state: Any) -> Trace:
    """Record the activations of a layer while the model reads a text.

    Args:
        weights: weights of the model.
        ids: integer array of shape [N] with the ids of the text. N must be at least 1.
        layer: index of the layer, from 0.
        state: float32 array of shape [1, S] with the state before the text.
    """

    @tf.function(
        input_signature=[tf.TensorSpec([1], tf.int32), tf.TensorSpec([1, state_size(weights)])], autograph=False
    )
    def watched_token(token: Any, state: Any) -> tuple[Any, Any, Any]:
        members: list[StepTrace] = []

        def step_member(member: Weights, part: Any) -> tuple[Any, Any]:
            members.append(traced_step(member, token, part))
            return members[-1].logits, members[-1].state

        logits, state = for_each_member(weights, step_member, state)
        return [*members[0].gates[layer], _cells(weights, layer, state), logits], members[0].attention_weights, state

    rows, attention_rows = [], []
    for token in ids:
        activations, attention_weights, state = watched_token(tf.constant([token], tf.int32), state)
        rows.append([values[0].numpy() for values in activations])
        attention_rows.append(None if attention_weights is None else attention_weights[0, 0].numpy())
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    return Trace._make([*columns, _by_token(attention_rows)])


def _cells(weights: Weights, layer: int, state: Any) -> Any:
    """Extract the cell state of a layer from the state of the model.

    In an ensemble, the layer of the first member is used.

    Args:
        weights: weights of the model.
        layer: index of the layer, from 0.
        state: state of the model, float32 of shape [B, S].

    Returns:
        The cell state, float32 of shape [B, H].
    """
    first = tf.split(state, 1 + len(weights.others), axis=1)[0]
    return split_state(weights, first)[0][2 * layer + 1]


def _by_token(rows: list[Any]) -> Array | None:
    """Convert the attention weights of N steps to an array of shape [N, N].

    Args:
        rows: an array of shape [M + 1] for each step. Its last entry is the attention weight of the current token. The
            other entries are the weights of the previous M tokens in order. If the model has no attention, each row is
            None.

    Returns:
        An array in which entry [t, s] is the weight of token s in step t, or None if the model has no attention. The
        array does not contain weights of tokens before the first step.
    """
    if rows[0] is None:
        return None
    weights = np.zeros((len(rows), len(rows)), np.float32)
    for t, row in enumerate(rows):
        reach = min(len(row) - 1, t + 1)
        weights[t, t + 1 - reach : t + 1] = row[-reach:]
    return weights
