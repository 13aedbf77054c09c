"""The model, twice: a ``keras.Sequential`` for ``fit``, and pure functions over the same weights for writing.

The equations of the cell (Hochreiter and Schmidhuber, 1997; forget gate: Gers, Schmidhuber and Cummins, 2000)::

    i, f, g, o = split(x W + h U + b)        input gate, forget gate, candidate, output gate
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

The state of a text is one opaque float32 [B, S]: ``h`` and ``c`` of each layer in turn, 2 L H numbers, and after them
the memory of ``attention`` where there is one. Zeros begin a text.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.distribution import workers
from keras_lstmgen.layers.attention import SIZE, Attention, Heads, attend, memory_size
from keras_lstmgen.layers.compute_dtype import dtype_policy
from keras_lstmgen.layers.ensemble import Ensemble, members_of, mixed
from keras_lstmgen.layers.lstm import LSTM
from keras_lstmgen.layers.output import Output, TiedOutput
from keras_lstmgen.layers.pointer_generator import Gate, Pointer, read_by, with_copies
from keras_lstmgen.layers.regularization import ActivationRegularization, DroppedEmbedding, SharedDropout
from keras_lstmgen.models import structure

LARGE = 4096  # tokens, from which a draw is told by the last bits of the logits
PARTS = 8  # of a matrix of such a model


def build(
    settings: recipe.Model,
    V: int,
    B: int | None = None,
    T: int | None = None,
    *,
    precision: str = "float32",
    in_loss: bool = False,
    carries: bool = True,
) -> keras.Sequential:
    """Stack the layers of a recipe: int32 [B, T] in, float32 logits [B, T, V] out.

    With ``B`` given, the model is to be trained: the layers of ``regularization`` are in it, and the LSTM layers carry
    their state from one batch to the next, as contiguous streams want it, unless ``carries`` is false. Without, every
    call begins with zeros, and all layers but attention and a tied output are Keras's own, which need nothing of ours
    to be opened. Both have the same weights in the same order. The LSTM layers meet cuDNN's conditions, and one dropout
    mask serves all steps of a window (Gal and Ghahramani, 2016). ``precision`` is that of the operands of the LSTM's
    products in training (on a GPU, where it is bfloat16, of all else in these layers too); with ``in_loss`` the model
    gives in training what its output layer is given, for the losses that make the logits themselves. Where there are
    several members, or one that copies, the model is one layer that holds them. Of several workers each builds it for
    its rows of ``B``.
    """
    options: dict[str, Any] = {"precision": precision, "in_loss": in_loss, "carries": carries}
    if settings.members == 1 and not settings.copy:
        return _member(settings, V, B, T, name="lstmgen", **options)
    members = [_member(settings, V, B, T, name=f"member_{k}", **options) for k in range(1, settings.members + 1)]
    whole = Pointer(*members, name="pointer") if settings.copy else Ensemble(members, name="ensemble")
    return keras.Sequential([keras.Input(batch_shape=(_rows(B), T), dtype="int32"), whole], name="lstmgen")


def _member(
    settings: recipe.Model,
    V: int,
    B: int | None,
    T: int | None,
    *,
    precision: str,
    in_loss: bool,
    carries: bool,
    name: str,
) -> keras.Sequential:
    """One stack of layers, as ``build`` has it."""
    embedding = _embedding(settings, V, B is not None)
    layers: list[keras.layers.Layer] = [keras.Input(batch_shape=(_rows(B), T), dtype="int32"), embedding]
    for number in range(1, settings.layers + 1):
        rate = settings.dropout if number > 1 or settings.input_dropout == recipe.AUTO else settings.input_dropout
        layers.append(_dropout(rate, B, name=f"dropout_{number}"))
        layers.append(_lstm(settings, None if B is None else precision, carries, name=f"lstm_{number}"))
    if settings.attention:
        layers.append(Attention(settings.attention, _rows(B) if carries else None, name="attention"))
    layers.append(_dropout(settings.dropout, B, name="dropout_output"))
    if B is not None and settings.activation_regularization > 0:
        layers.append(ActivationRegularization(settings.activation_regularization, name="activation_regularization"))
    options: dict[str, Any] = {"precision": precision, "in_loss": in_loss, "name": "output"}
    if settings.tied:
        layers.append(TiedOutput(embedding, **options))
    else:
        layers.append(keras.layers.Dense(V, name="output") if B is None else Output(V, **options))
    return keras.Sequential(layers, name=name)


def _rows(B: int | None) -> int | None:
    """How many rows of a batch are this worker's."""
    return None if B is None else len(range(B)[workers.batch_rows(B)])


def _dropout(rate: float, B: int | None, name: str) -> keras.layers.Layer:
    """One mask a window: of several workers each has its rows of the same. What writes drops nothing."""
    if B is None:
        return keras.layers.SpatialDropout1D(rate, name=name)
    rows = workers.batch_rows(B)
    return SharedDropout(rate, rows=(rows.start, rows.stop, B), name=name)


def _embedding(settings: recipe.Model, V: int, trains: bool) -> keras.layers.Embedding:
    """The first layer, with its beginning."""
    # Inputs of unit size: from Keras's own ±0.05 training takes far longer to get going. A matrix
    # that is the output layer too has to begin small (Merity et al., "Regularizing and Optimizing LSTM", 2018).
    spread = (
        keras.initializers.RandomUniform(-0.1, 0.1) if settings.tied else keras.initializers.RandomNormal(stddev=1.0)
    )
    options = {"embeddings_initializer": spread, "name": "embedding"}
    if trains and settings.embedding_dropout > 0:
        return DroppedEmbedding(V, settings.embedding_size, rate=settings.embedding_dropout, **options)
    return keras.layers.Embedding(V, settings.embedding_size, **options)


def _lstm(settings: recipe.Model, precision: str | None, carries: bool, name: str) -> keras.layers.LSTM:
    """One LSTM layer: with a precision ours, which trains; without, Keras's own."""
    if precision is None:
        return keras.layers.LSTM(settings.units, return_sequences=True, name=name)
    options: dict[str, Any] = {"precision": precision, "weight_drop": settings.weight_drop, "name": name}
    return LSTM(settings.units, return_sequences=True, stateful=carries, dtype=dtype_policy(precision), **options)


def parameters(settings: recipe.Model, V: int) -> int:
    """How many numbers ``build(settings, V)`` has to learn, without building it."""
    E, H = settings.embedding_size, settings.units
    cells = 4 * H * (E + H + 1) + (settings.layers - 1) * 4 * H * (2 * H + 1)
    heads = 4 * H * SIZE if settings.attention else 0
    output = V if settings.tied else H * V + V
    gate = H + 1 if settings.copy else 0
    return settings.members * (V * E + cells + heads + output + gate)


def start_at(model: keras.Sequential, counts: np.ndarray[Any, Any]) -> None:
    """Let a new model begin by predicting each id as often as the training text has it: ``counts`` int [V].

    Otherwise it first learns, by saturating its units, which ids never come (of a character vocabulary that is most of
    them, the byte pieces), and from saturated units it learns slowly.
    """
    never = 1e-3  # of an occurrence: next to nothing, but a finite logit
    for member in members_of(model):
        member.layers[-1].bias.assign(np.log(np.maximum(counts, never) / counts.sum()))


class Cell(NamedTuple):
    """The weights of one LSTM layer, gates in Keras's order i, f, g, o."""

    kernel: Any  # float32 [E or H, 4H], W; None where what the cell is given holds W and b already
    recurrent: Any  # float32 [H, 4H], U; None where ``kernel`` has it below W: ``joined``
    bias: Any  # float32 [4H], b; the forget quarter begins at 1


class Gates(NamedTuple):
    """What a layer lets in, keeps, proposes and lets out at a step, each float32 [B, H]."""

    input: Any  # sigmoid(i)
    forget: Any  # sigmoid(f)
    candidate: Any  # tanh(g)
    output: Any  # sigmoid(o)


class Weights(NamedTuple):
    """Everything a step needs, as the variables of a ``Sequential`` (so that export finds them).

    A matrix may be a tuple of its parts: see ``in_parts``.
    """

    embedding: Any  # float32 [V, E]; or [V, 4H], the table of ``folded``
    cells: tuple[Cell, ...]
    output: Any  # float32 [H, V]; or [V, H], the embedding, when tied
    output_bias: Any  # float32 [V]
    tied: bool
    heads: Heads | None  # of the attention
    slots: int  # M, of its memory
    gate: Gate | None = None  # of the pointer
    others: tuple["Weights", ...] = ()  # the further members of an ensemble


def weights_of(model: keras.Sequential) -> Weights:
    """Find the weights of a ``Sequential``, as ``tf.Variable`` s.

    It has the layers that ``build`` makes, or Keras's own in their place. UserError names a layer or an argument with
    which ``step`` would compute something else.
    """
    structure.check(model)
    first, *others = (_weights_of(member) for member in members_of(model))
    outer = model.layers[0]
    return first._replace(gate=outer.gate_now() if isinstance(outer, Pointer) else None, others=tuple(others))


def each_member(weights: Weights) -> list[Weights]:
    """The weights of each member by itself."""
    return [weights._replace(others=()), *weights.others]


def _weights_of(model: keras.Sequential) -> Weights:
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


def in_parts(weights: Weights) -> Weights:
    """A copy of the weights, the matrices of products in parts; of a small vocabulary the weights themselves.

    A runtime adds up the H numbers of a product one after another, in an order of its own, and loses the more the
    longer the sum is. Of thousands of words that is enough to draw another one every few thousand tokens. The sum of
    eight sums of H / 8 loses less, and takes longer: a draw of a large vocabulary is worth that, and no other.
    """
    if int(weights.output_bias.shape[0]) < LARGE:
        return weights
    first, *others = (_in_parts(member) for member in each_member(weights))
    return first._replace(others=tuple(others))


def _in_parts(weights: Weights) -> Weights:
    output = _cut(weights.output, int(weights.tied))
    cells = (Cell(_cut(one.kernel), _cut(one.recurrent), one.bias) for one in weights.cells)
    embedding = output if weights.tied else weights.embedding
    return weights._replace(embedding=embedding, cells=tuple(cells), output=output)


def _cut(matrix: Any, axis: int = 0) -> Any:
    """Cut it into parts of one size, where a product adds up."""
    if matrix is None:
        return None
    parts = tf.split(matrix, math.gcd(PARTS, matrix.shape[axis]), axis)
    return tuple(tf.Variable(part, trainable=False) for part in parts)


def _product(x: Any, matrix: Any, transposed: bool = False) -> Any:
    """Multiply [B, n] by [n, m], by [m, n] transposed, or by the parts of either."""
    if not isinstance(matrix, tuple):
        return tf.matmul(x, matrix, transpose_b=transposed)
    pieces = zip(tf.split(x, len(matrix), axis=1), matrix, strict=True)
    return tf.add_n([tf.matmul(piece, part, transpose_b=transposed) for piece, part in pieces])


def _embedded(weights: Weights, ids: Any) -> Any:
    """Int32 [B] gives float32 [B, E]."""
    if not isinstance(weights.embedding, tuple):
        return tf.gather(weights.embedding, ids)
    return tf.concat([tf.gather(part, ids) for part in weights.embedding], axis=1)


def state_size(weights: Weights) -> int:
    """S = 2 L H, and the numbers of the attention's memory; members' states stand one behind the other."""
    return (_carried_by_cells(weights) + memory_size(weights.slots)) * (1 + len(weights.others))


def _carried_by_cells(weights: Weights) -> int:
    kernels = (cell.kernel if cell.recurrent is None else cell.recurrent for cell in weights.cells)
    return sum(int(tf.nest.flatten(kernel)[0].shape[1]) // 2 for kernel in kernels)


class Watched(NamedTuple):
    """What a step gives, and how it came to it."""

    logits: Any  # float32 [B, V]
    state: Any  # float32 [B, S]
    gates: tuple[Gates, ...]  # of each layer
    looks: Any  # where the attention looked, float32 [B, 1, M + 1]; None without


def step(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """Read one token a row: int32 [B] and float32 [B, S] give logits [B, V] of the next token and the state [B, S]."""
    return together(weights, lambda member, part: watched_step(member, ids, part)[:2], state)


def together(weights: Weights, ask: Callable[[Weights, Any], tuple[Any, Any]], state: Any) -> tuple[Any, Any]:
    """Ask each member, with its part of the state [B, S]: ``ask`` gives its logits and its next state."""
    if not weights.others:
        return ask(weights, state)
    members = each_member(weights)
    parts = tf.split(state, len(members), axis=1)
    logits, states = zip(*(ask(member, part) for member, part in zip(members, parts, strict=True)), strict=True)
    return mixed(logits), tf.concat(states, axis=1)


def watched_step(weights: Weights, ids: Any, state: Any) -> Watched:
    """The step of one member, with what it does on the way; a graph that leaves that out has no operator for it."""
    x = _embedded(weights, ids)
    parts, memory = split_state(weights, state)
    carried, gates, looks = [], [], None
    for weights_of_layer, h, c in zip(weights.cells, parts[::2], parts[1::2], strict=True):
        x, c, of_layer = cell(weights_of_layer, x, h, c)
        carried += [x, c]
        gates.append(of_layer)
    before, column_of_ids = memory, tf.expand_dims(ids, 1) if weights.gate else None
    if weights.heads:
        looked, memory, looks = attend(weights.heads, tf.expand_dims(x, 1), before, column_of_ids)
        x = tf.squeeze(looked, 1)
    logits = _product(x, weights.output, weights.tied) + weights.output_bias
    if weights.gate:
        logits = with_copies(weights.gate, x, logits, tf.squeeze(looks, 1), read_by(before, column_of_ids))
    return Watched(logits, join_state(carried, memory), tuple(gates), looks)


def split_state(weights: Weights, state: Any) -> tuple[list[Any], Any]:
    """The h and c [B, H] of each layer, and the memory [B, M, 2 D + 1] or None, in a state [B, S]."""
    if not weights.heads:
        return tf.split(state, 2 * len(weights.cells), axis=1), None
    cut = _carried_by_cells(weights)  # no split into parts of several sizes: TFLite gets that wrong
    memory = tf.reshape(state[:, cut:], [-1, weights.slots, memory_size(weights.slots) // weights.slots])
    return tf.split(state[:, :cut], 2 * len(weights.cells), axis=1), memory


def join_state(parts: list[Any], memory: Any) -> Any:
    """The state [B, S] of what ``split_state`` gives."""
    flat = [] if memory is None else [tf.reshape(memory, [-1, memory_size(memory.shape[1])])]
    return tf.concat([*parts, *flat], axis=1)


def cell(weights: Cell, x: Any, h: Any, c: Any) -> tuple[Any, Any, Gates]:
    """The gate equations above: the next h and c, each [B, H], and the gates that made them."""
    i, f, g, o = tf.split(_sums(weights, x, h), 4, axis=1)
    f, i, g, o = tf.sigmoid(f), tf.sigmoid(i), tf.tanh(g), tf.sigmoid(o)
    c = f * c + i * g
    return o * tf.tanh(c), c, Gates(i, f, g, o)


def _sums(weights: Cell, x: Any, h: Any) -> Any:
    """``x W + h U + b``, float32 [B, 4H]."""
    if weights.recurrent is None:
        return _product(tf.concat([x, h], axis=1), weights.kernel) + weights.bias
    x = x if weights.kernel is None else _product(x, weights.kernel) + weights.bias
    return x + _product(h, weights.recurrent)


def score(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """Log-probability of each next token: int32 [B, P] and state [B, S] give float32 [B, P-1] and the state [B, S].

    All tokens but the last are read, so the next window of a long text begins with the last token of this one. With P
    below 2 there is nothing to score.
    """
    P, nothing = tf.shape(ids)[1], tf.zeros_like(ids[:, 1:], tf.float32)
    columns = tf.expand_dims(tf.range(tf.shape(nothing)[1]), 0)

    def read(t: Any, state: Any, logprobs: Any) -> tuple[Any, Any, Any]:
        logits, state = step(weights, tf.squeeze(column(ids, t), 1), state)
        logprob = pick(tf.nn.log_softmax(logits), column(ids, t + 1))
        return t + 1, state, put(logprobs, columns == t, logprob)

    _, state, logprobs = tf.while_loop(lambda t, *_: t < P - 1, read, (0, state, nothing))
    return logprobs, state


# These three are written for few operators in every runtime: what a slice or a scatter becomes is many.
def column(table: Any, t: Any) -> Any:
    """Column ``t`` of [B, N], as [B, 1]."""
    return tf.gather(table, tf.expand_dims(t, 0), axis=1)


def pick(table: Any, ids: Any) -> Any:
    """One entry a row: [B, V] and int32 [B, 1] give [B, 1]."""
    return tf.gather(table, ids, batch_dims=1)


def put(table: Any, here: Any, column: Any) -> Any:
    """Write [B, 1] into the column of [B, N] that ``here``, bool [1, N], marks."""
    return tf.where(here, column, table)
