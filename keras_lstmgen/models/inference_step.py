"""Compute one inference step: take one token per row and a state, and return the next logits and the next state.

All functions are pure. Every exported artifact contains graphs of these functions.

Equations of an LSTM cell (Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; forget gate: Gers, Schmidhuber
and Cummins, "Learning to Forget: Continual Prediction with LSTM", 2000)::

    i, f, g, o = split(x W + h U + b)        input gate, forget gate, candidate, output gate
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

The state of a text is one float32 vector of S numbers. It contains ``h`` and ``c`` of each layer in turn (2 L H
numbers, if all layers have H units). With attention, the memory of the attention follows. The state of an ensemble is
the concatenation of the states of its members. The state of a new text is zero.
"""

import itertools
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

LARGE = 4096  # with at least this vocabulary size, rounding errors of the logits can change a sampled token
PARTS = 8  # number of parts of each matrix of a model with a large vocabulary


class Cell(NamedTuple):
    """Weights of one LSTM layer, with the gates in the order of Keras: i, f, g, o."""

    kernel: Any  # W, float32 [E or H, 4H]; None if the input of the cell is already x W + b
    recurrent: Any  # U, float32 [H, 4H]; None if ``kernel`` contains W and U, stacked along the first axis
    bias: Any  # b, float32 [4H]; None if ``kernel`` is None


class Gates(NamedTuple):
    """Activations of the gates of one layer at one step, each float32 [B, H]."""

    input: Any  # sigmoid(i)
    forget: Any  # sigmoid(f)
    candidate: Any  # tanh(g)
    output: Any  # sigmoid(o)


class Weights(NamedTuple):
    """Weights of a model as TensorFlow variables. In the result of ``in_parts``, a matrix can be a tuple of parts."""

    embedding: Any  # float32 [V, E]; or a table [V, 4H] that contains x W + b of the first LSTM layer for each id
    cells: tuple[Cell, ...]  # one per LSTM layer
    output: Any  # float32 [H, V]; if ``tied``, the embedding [V, H]
    output_bias: Any  # float32 [V]
    tied: bool  # whether the output layer uses the embedding matrix
    heads: Heads | None  # weights of the attention; None without attention
    slots: int  # M, number of slots in the memory of the attention; 0 without attention
    gate: Gate | None = None  # weights of the gate of a pointer-generator; None for other models
    others: tuple["Weights", ...] = ()  # weights of the second and further members of an ensemble


class StepTrace(NamedTuple):
    """Result of one step with its intermediate values."""

    logits: Any  # float32 [B, V], of the next token
    state: Any  # float32 [B, S], after the step
    gates: tuple[Gates, ...]  # one per LSTM layer
    attention_weights: Any  # float32 [B, 1, M + 1]; None without attention


def weights_of(model: keras.Sequential) -> Weights:
    """Return the weights of a model.

    Args:
        model: a model with the layers of ``builder.build``, or with the equivalent Keras layers.

    Raises:
        UserError: if the inference step cannot reproduce the results of the model; the message names the layer.
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
    """Return a list with the weights of each member; the list has one entry if the model is not an ensemble."""
    return [weights._replace(others=()), *weights.others]


def in_parts(weights: Weights) -> Weights:
    """Split the matrices of a model with a large vocabulary, so that runtimes compute more similar logits.

    Each number of a matrix product is a sum of H terms. Each runtime adds the terms in its own order, so the rounding
    errors differ between runtimes. The errors grow with the number of terms in a sum. With a vocabulary of several
    thousand ids, the errors change about one sampled token in several thousand.

    The function therefore splits each matrix into eight parts. The inference step multiplies each part separately and
    adds the eight results. Each partial sum has only H / 8 terms, so the rounding errors are smaller. Eight products
    take longer than one product. Therefore the function returns the weights of a model with fewer than ``LARGE`` ids
    unchanged.
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
    """Split a matrix into equal parts along ``axis``; this is the axis over which the matrix product sums."""
    if matrix is None:
        return None
    parts = tf.split(matrix, math.gcd(PARTS, matrix.shape[axis]), axis)
    return tuple(tf.Variable(part, trainable=False) for part in parts)


def state_size(weights: Weights) -> int:
    """Return S: the number of members times the sum of 2 L H and the size of the attention memory."""
    return (_cell_state_size(weights) + memory_size(weights.slots)) * (1 + len(weights.others))


def _cell_state_size(weights: Weights) -> int:
    """Return 2 L H, the number of values in h and c of all layers of one member."""
    return 2 * sum(_units(weights))


def _units(weights: Weights) -> list[int]:
    """Return H of each layer of one member."""
    kernels = (cell.kernel if cell.recurrent is None else cell.recurrent for cell in weights.cells)
    return [int(tf.nest.flatten(kernel)[0].shape[1]) // 4 for kernel in kernels]


def step(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """Compute one inference step.

    Args:
        weights: weights of the model.
        ids: int32 [B], the input token of each row.
        state: float32 [B, S], the state before the step.

    Returns:
        The logits of the next token, float32 [B, V], and the next state, float32 [B, S].
    """
    return for_each_member(weights, lambda member, part: traced_step(member, ids, part)[:2], state)


def for_each_member(weights: Weights, run: Callable[[Weights, Any], tuple[Any, Any]], state: Any) -> tuple[Any, Any]:
    """Run a function for each member of an ensemble and average the probabilities of the members.

    Args:
        weights: weights of the model.
        run: function that takes the weights and the state of one member, and returns the logits [..., V] and the next
            state of this member.
        state: float32 [B, S], the concatenated states of all members.

    Returns:
        The logarithms of the mean probabilities, float32 [..., V], and the next state, float32 [B, S]. A model with
        one member returns the results of ``run`` unchanged.
    """
    if not weights.others:
        return run(weights, state)
    members = each_member(weights)
    parts = tf.split(state, len(members), axis=1)
    logits, states = zip(*(run(member, part) for member, part in zip(members, parts, strict=True)), strict=True)
    return mixed(logits), tf.concat(states, axis=1)


def traced_step(weights: Weights, ids: Any, state: Any) -> StepTrace:
    """Compute ``step`` for one member, and return the intermediate values too.

    The intermediate values do not make exported graphs larger, because TensorFlow removes unused values from a graph.
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
    """Return the embeddings, float32 [B, E], of the ids, int32 [B]."""
    if not isinstance(weights.embedding, tuple):
        return tf.gather(weights.embedding, ids)
    return tf.concat([tf.gather(part, ids) for part in weights.embedding], axis=1)


def _product(x: Any, matrix: Any, transposed: bool = False) -> Any:
    """Multiply x [B, n] by a matrix [n, m], or [m, n] if ``transposed``; the matrix may be a tuple of its parts."""
    if not isinstance(matrix, tuple):
        return tf.matmul(x, matrix, transpose_b=transposed)
    pieces = zip(tf.split(x, len(matrix), axis=1), matrix, strict=True)
    return tf.add_n([tf.matmul(piece, part, transpose_b=transposed) for piece, part in pieces])


def split_state(weights: Weights, state: Any) -> tuple[list[Any], Any]:
    """Split the state of one member, float32 [B, S].

    Returns:
        A list with h and c of each layer in turn, each float32 [B, H], and the memory of the attention, float32
        [B, M, 2 D + 1], or None without attention.
    """
    if not weights.heads:
        return _split_cells(weights, state), None
    cut = _cell_state_size(weights)  # a slice, because TFLite returns wrong results for tf.split with unequal parts
    memory = tf.reshape(state[:, cut:], [-1, weights.slots, memory_size(weights.slots) // weights.slots])
    return _split_cells(weights, state[:, :cut]), memory


def _split_cells(weights: Weights, state: Any) -> list[Any]:
    """Return h and c of each layer in turn, each float32 [B, H]; layers may have different H."""
    units = _units(weights)
    if len(set(units)) == 1:
        return list(tf.split(state, 2 * len(units), axis=1))
    ends = list(itertools.accumulate(H for H in units for _ in range(2)))
    return [state[:, start:end] for start, end in itertools.pairwise([0, *ends])]


def join_state(parts: list[Any], memory: Any) -> Any:
    """Concatenate the two results of ``split_state`` to one state, float32 [B, S]."""
    flat = [] if memory is None else [tf.reshape(memory, [-1, memory_size(memory.shape[1])])]
    return tf.concat([*parts, *flat], axis=1)


def cell(weights: Cell, x: Any, h: Any, c: Any) -> tuple[Any, Any, Gates]:
    """Compute one step of an LSTM layer by the equations at the top of this module.

    Args:
        weights: weights of the layer.
        x: float32 [B, E or H], input of the layer.
        h: float32 [B, H], hidden state before the step.
        c: float32 [B, H], cell state before the step.

    Returns:
        The hidden state and the cell state after the step, each float32 [B, H], and the gates.
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
    """Compute the log-probability of every token of a window except the first.

    The inputs of the model are all tokens except the last. To score a long text in several windows, begin
    each window with the last token of the previous window.

    Args:
        weights: weights of the model.
        ids: int32 [B, P], the window.
        state: float32 [B, S], state before the window.

    Returns:
        The log-probabilities of ``ids[:, 1:]`` in nats, float32 [B, P - 1], and the state after the last input token,
        float32 [B, S]. If P is 0 or 1, the log-probabilities are empty.
    """
    P, nothing = tf.shape(ids)[1], tf.zeros_like(ids[:, 1:], tf.float32)
    columns = tf.expand_dims(tf.range(tf.shape(nothing)[1]), 0)

    def read(t: Any, state: Any, logprobs: Any) -> tuple[Any, Any, Any]:
        logits, state = step(weights, tf.squeeze(column(ids, t), 1), state)
        logprob = pick(tf.nn.log_softmax(logits), column(ids, t + 1))
        return t + 1, state, put(logprobs, columns == t, logprob)

    _, state, logprobs = tf.while_loop(lambda t, *_: t < P - 1, read, (0, state, nothing))
    return logprobs, state


# The following functions use gather and where, because converters translate slices and scatters into more operators.
def column(table: Any, t: Any) -> Any:
    """Return column number ``t`` of a table [B, N]; the result has the shape [B, 1]."""
    return tf.gather(table, tf.expand_dims(t, 0), axis=1)


def pick(table: Any, ids: Any) -> Any:
    """For each row of a table [B, V], return the entry at the index in ``ids``, int32 [B, 1].

    The result has the shape [B, 1].
    """
    return tf.gather(table, ids, batch_dims=1)


def put(table: Any, here: Any, column: Any) -> Any:
    """Return a table [B, N] with one column replaced by ``column`` [B, 1].

    The mask ``here``, bool [1, N], is true at the position of this column.
    """
    return tf.where(here, column, table)
