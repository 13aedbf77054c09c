"""Inference step of a model: pure functions of the weights, a token per row, and the state. Every export contains them.

Equations of an LSTM cell (Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; forget gate: Gers, Schmidhuber
and Cummins, "Learning to Forget: Continual Prediction with LSTM", 2000)::

    i, f, g, o = split(x W + h U + b)        input gate, forget gate, candidate, output gate
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

The state of a text is one float32 vector of S numbers: ``h`` and ``c`` of each layer in turn (2 L H numbers), followed
by the memory of the attention, if there is one. A text begins with zeros.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_lstmgen.layers.attention import Attention, Heads, attend, memory_size
from keras_lstmgen.layers.ensemble import members_of, mixed
from keras_lstmgen.layers.output import TiedOutput
from keras_lstmgen.layers.pointer_generator import Gate, Pointer, read_by, with_copies
from keras_lstmgen.models import structure

LARGE = 4096  # vocabulary size from which the last bits of the logits can change a sampled token
PARTS = 8  # number of parts of each matrix of a model with a large vocabulary


class Cell(NamedTuple):
    """Weights of one LSTM layer, with the gates in the order of Keras: i, f, g, o."""

    kernel: Any  # float32 [E or H, 4H], W; None if the input of the cell already contains x W + b
    recurrent: Any  # float32 [H, 4H], U; None if ``kernel`` is W stacked on U
    bias: Any  # float32 [4H], b; None if ``kernel`` is None


class Gates(NamedTuple):
    """Activations of the gates of one layer at one step, each float32 [B, H]."""

    input: Any  # sigmoid(i)
    forget: Any  # sigmoid(f)
    candidate: Any  # tanh(g)
    output: Any  # sigmoid(o)


class Weights(NamedTuple):
    """Weights of a model, as the variables of its layers. A matrix may be a tuple of its parts, see ``in_parts``."""

    embedding: Any  # float32 [V, E]; or [V, 4H] with the table x W + b of the first layer
    cells: tuple[Cell, ...]
    output: Any  # float32 [H, V]; or the embedding [V, H] if ``tied``
    output_bias: Any  # float32 [V]
    tied: bool
    heads: Heads | None  # of the attention
    slots: int  # M, size of the memory of the attention; 0 without attention
    gate: Gate | None = None  # of the pointer-generator
    others: tuple["Weights", ...] = ()  # further members of an ensemble


class StepTrace(NamedTuple):
    """Result of one step, with its intermediate values."""

    logits: Any  # float32 [B, V]
    state: Any  # float32 [B, S]
    gates: tuple[Gates, ...]  # of each layer
    attention_weights: Any  # float32 [B, 1, M + 1]; None without attention


def weights_of(model: keras.Sequential) -> Weights:
    """Return the weights of a model.

    Args:
        model: a model with the layers of ``builder.build``, or with the equivalent layers of Keras.

    Raises:
        UserError: if the inference step does not compute the same as the model; the message names the layer.
    """
    structure.check(model)
    first, *others = (_weights_of_member(member) for member in members_of(model))
    outer = model.layers[0]
    return first._replace(gate=outer.gate_now() if isinstance(outer, Pointer) else None, others=tuple(others))


def _weights_of_member(model: keras.Sequential) -> Weights:
    """Return the weights of one member of a model."""
    cells = [layer.cell for layer in model.layers if isinstance(layer, keras.layers.LSTM)]
    embedding, output = model.layers[0], model.layers[-1]
    tied = isinstance(output, TiedOutput)
    attention = next((layer for layer in model.layers if isinstance(layer, Attention)), None)
    return Weights(
        embedding.embeddings.value,
        tuple(Cell(cell.kernel.value, cell.recurrent_kernel.value, cell.bias.value) for cell in cells),
        embedding.embeddings.value if tied else output.kernel.value,
        output.bias.value,
        tied,
        attention and attention.weights_now(),
        attention.slots if attention else 0,
    )


def each_member(weights: Weights) -> list[Weights]:
    """Return the weights of each member of an ensemble; of another model, a list with its weights."""
    return [weights._replace(others=()), *weights.others]


def in_parts(weights: Weights) -> Weights:
    """Split the matrices of a model with a large vocabulary, so that runtimes compute more similar logits.

    A runtime adds up the H products of a matrix product in its own order. The rounding error grows with the length of
    the sum. With thousands of ids, it changes one sampled token in a few thousand. The sum of eight sums of H / 8
    products has a smaller error, but takes longer. With a small vocabulary, the weights are returned unchanged.
    """
    if int(weights.output_bias.shape[0]) < LARGE:
        return weights
    first, *others = (_split_member(member) for member in each_member(weights))
    return first._replace(others=tuple(others))


def _split_member(weights: Weights) -> Weights:
    """Split the matrices of one member."""
    output = _split_matrix(weights.output, int(weights.tied))
    cells = (Cell(_split_matrix(cell.kernel), _split_matrix(cell.recurrent), cell.bias) for cell in weights.cells)
    embedding = output if weights.tied else weights.embedding
    return weights._replace(embedding=embedding, cells=tuple(cells), output=output)


def _split_matrix(matrix: Any, axis: int = 0) -> Any:
    """Split a matrix into equal parts along the axis that a product sums over."""
    if matrix is None:
        return None
    parts = tf.split(matrix, math.gcd(PARTS, matrix.shape[axis]), axis)
    return tuple(tf.Variable(part, trainable=False) for part in parts)


def state_size(weights: Weights) -> int:
    """Return S: 2 L H plus the size of the attention's memory, times the number of members."""
    return (_cell_state_size(weights) + memory_size(weights.slots)) * (1 + len(weights.others))


def _cell_state_size(weights: Weights) -> int:
    """Return 2 L H."""
    kernels = (cell.kernel if cell.recurrent is None else cell.recurrent for cell in weights.cells)
    return sum(int(tf.nest.flatten(kernel)[0].shape[1]) // 2 for kernel in kernels)


def step(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """Read one token per row.

    Args:
        weights: weights of the model.
        ids: int32 [B], the tokens.
        state: float32 [B, S].

    Returns:
        The logits of the next token, float32 [B, V], and the next state, float32 [B, S].
    """
    return for_each_member(weights, lambda member, part: traced_step(member, ids, part)[:2], state)


def for_each_member(weights: Weights, run: Callable[[Weights, Any], tuple[Any, Any]], state: Any) -> tuple[Any, Any]:
    """Run a function for each member of an ensemble and average their probabilities.

    Args:
        weights: weights of the model.
        run: maps the weights of a member and its part of the state to logits [..., V] and its next state.
        state: float32 [B, S], the concatenated states of the members.

    Returns:
        The logits of the mean probabilities, and the next state [B, S].
    """
    if not weights.others:
        return run(weights, state)
    members = each_member(weights)
    parts = tf.split(state, len(members), axis=1)
    logits, states = zip(*(run(member, part) for member, part in zip(members, parts, strict=True)), strict=True)
    return mixed(logits), tf.concat(states, axis=1)


def traced_step(weights: Weights, ids: Any, state: Any) -> StepTrace:
    """Compute the step of one member, like ``step``, and return the intermediate values too.

    A graph that does not use the intermediate values contains no additional operators.
    """
    x = _embedded(weights, ids)
    parts, memory = split_state(weights, state)
    next_parts, gates, attention_weights = [], [], None
    for layer, h, c in zip(weights.cells, parts[::2], parts[1::2], strict=True):
        x, c, layer_gates = cell(layer, x, h, c)
        next_parts += [x, c]
        gates.append(layer_gates)
    old_memory, column_of_ids = memory, tf.expand_dims(ids, 1) if weights.gate else None
    if weights.heads:
        attended, memory, attention_weights = attend(weights.heads, tf.expand_dims(x, 1), old_memory, column_of_ids)
        x = tf.squeeze(attended, 1)
    logits = _product(x, weights.output, weights.tied) + weights.output_bias
    if weights.gate:
        read = read_by(old_memory, column_of_ids)
        logits = with_copies(weights.gate, x, logits, tf.squeeze(attention_weights, 1), read)
    return StepTrace(logits, join_state(next_parts, memory), tuple(gates), attention_weights)


def _embedded(weights: Weights, ids: Any) -> Any:
    """Return the embeddings float32 [B, E] of ids int32 [B]."""
    if not isinstance(weights.embedding, tuple):
        return tf.gather(weights.embedding, ids)
    return tf.concat([tf.gather(part, ids) for part in weights.embedding], axis=1)


def _product(x: Any, matrix: Any, transposed: bool = False) -> Any:
    """Multiply [B, n] by a matrix [n, m], or [m, n] if ``transposed``, or by its parts."""
    if not isinstance(matrix, tuple):
        return tf.matmul(x, matrix, transpose_b=transposed)
    pieces = zip(tf.split(x, len(matrix), axis=1), matrix, strict=True)
    return tf.add_n([tf.matmul(piece, part, transpose_b=transposed) for piece, part in pieces])


def split_state(weights: Weights, state: Any) -> tuple[list[Any], Any]:
    """Split the state of one member, float32 [B, S].

    Returns:
        h and c of each layer in turn, each float32 [B, H], and the memory float32 [B, M, 2 D + 1] or None.
    """
    if not weights.heads:
        return tf.split(state, 2 * len(weights.cells), axis=1), None
    cut = _cell_state_size(weights)  # slices, because TFLite computes a split into parts of different sizes wrongly
    memory = tf.reshape(state[:, cut:], [-1, weights.slots, memory_size(weights.slots) // weights.slots])
    return tf.split(state[:, :cut], 2 * len(weights.cells), axis=1), memory


def join_state(parts: list[Any], memory: Any) -> Any:
    """Join the result of ``split_state`` to a state [B, S]."""
    flat = [] if memory is None else [tf.reshape(memory, [-1, memory_size(memory.shape[1])])]
    return tf.concat([*parts, *flat], axis=1)


def cell(weights: Cell, x: Any, h: Any, c: Any) -> tuple[Any, Any, Gates]:
    """Compute one step of an LSTM layer by the equations at the top of this module.

    Args:
        weights: weights of the layer.
        x: float32 [B, E or H], input.
        h: float32 [B, H], hidden state.
        c: float32 [B, H], cell state.

    Returns:
        The next h and c, each float32 [B, H], and the gates.
    """
    i, f, g, o = tf.split(_gate_sums(weights, x, h), 4, axis=1)
    f, i, g, o = tf.sigmoid(f), tf.sigmoid(i), tf.tanh(g), tf.sigmoid(o)
    c = f * c + i * g
    return o * tf.tanh(c), c, Gates(i, f, g, o)


def _gate_sums(weights: Cell, x: Any, h: Any) -> Any:
    """Compute ``x W + h U + b``, float32 [B, 4H]."""
    if weights.recurrent is None:
        return _product(tf.concat([x, h], axis=1), weights.kernel) + weights.bias
    x = x if weights.kernel is None else _product(x, weights.kernel) + weights.bias
    return x + _product(h, weights.recurrent)


def score(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """Compute the log-probability of each next token of a window.

    All tokens except the last one are read. The next window of a long text therefore begins with the last token of this
    window.

    Args:
        weights: weights of the model.
        ids: int32 [B, P].
        state: float32 [B, S].

    Returns:
        The log-probabilities of ``ids[:, 1:]`` in nats, float32 [B, P - 1], and the next state, float32 [B, S]. For P
        below 2, the log-probabilities are empty.
    """
    P, nothing = tf.shape(ids)[1], tf.zeros_like(ids[:, 1:], tf.float32)
    columns = tf.expand_dims(tf.range(tf.shape(nothing)[1]), 0)

    def read(t: Any, state: Any, logprobs: Any) -> tuple[Any, Any, Any]:
        logits, state = step(weights, tf.squeeze(column(ids, t), 1), state)
        logprob = pick(tf.nn.log_softmax(logits), column(ids, t + 1))
        return t + 1, state, put(logprobs, columns == t, logprob)

    _, state, logprobs = tf.while_loop(lambda t, *_: t < P - 1, read, (0, state, nothing))
    return logprobs, state


# The following functions use gather and where, because slices and scatters become many operators in other runtimes.
def column(table: Any, t: Any) -> Any:
    """Return column ``t`` of [B, N], as [B, 1]."""
    return tf.gather(table, tf.expand_dims(t, 0), axis=1)


def pick(table: Any, ids: Any) -> Any:
    """Return the entry of each row of [B, V] at the position int32 [B, 1], as [B, 1]."""
    return tf.gather(table, ids, batch_dims=1)


def put(table: Any, here: Any, column: Any) -> Any:
    """Replace a column of [B, N] by [B, 1]; ``here``, bool [1, N], marks the column."""
    return tf.where(here, column, table)
