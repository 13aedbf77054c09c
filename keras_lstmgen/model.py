"""The model, twice: a ``keras.Sequential`` for ``fit``, and pure functions over the same weights for writing.

The equations of the cell (Hochreiter and Schmidhuber, 1997; forget gate: Gers, Schmidhuber and Cummins, 2000)::

    i, f, g, o = split(x W + h U + b)        input gate, forget gate, candidate, output gate
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

The state of a text is one opaque float32 [B, S], S = 2 L H: ``h`` and ``c`` of each layer in turn. Zeros begin a text.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_lstmgen import recipe
from keras_lstmgen.layers import LSTM, TiedOutput


def build(settings: recipe.Model, V: int, B: int | None = None, T: int | None = None) -> keras.Sequential:
    """Stack the layers of a recipe: int32 [B, T] in, float32 logits [B, T, V] out.

    With ``B`` given, the LSTM layers carry their state from one batch to the next, as training on contiguous
    streams wants it; without, every call begins with zeros. The layers meet cuDNN's conditions, and one dropout
    mask serves all steps of a window (Gal and Ghahramani, 2016).
    """
    # Inputs of unit size: from Keras's own ±0.05 training takes far longer to get going. A matrix
    # that is the output layer too has to begin small (Merity et al., "Regularizing and Optimizing LSTM", 2018).
    spread = (
        keras.initializers.RandomUniform(-0.1, 0.1) if settings.tied else keras.initializers.RandomNormal(stddev=1.0)
    )
    embedding = keras.layers.Embedding(V, settings.embedding_size, embeddings_initializer=spread, name="embedding")
    layers: list[keras.layers.Layer] = [keras.Input(batch_shape=(B, T), dtype="int32"), embedding]
    # What is saved for others holds Keras's own layer, which needs nothing of ours to be opened.
    lstm = keras.layers.LSTM if B is None else LSTM
    for number in range(1, settings.layers + 1):
        layers.append(keras.layers.SpatialDropout1D(settings.dropout, name=f"dropout_{number}"))
        layers.append(lstm(settings.units, return_sequences=True, stateful=B is not None, name=f"lstm_{number}"))
    layers.append(keras.layers.SpatialDropout1D(settings.dropout, name="dropout_output"))
    layers.append(TiedOutput(embedding, name="output") if settings.tied else keras.layers.Dense(V, name="output"))
    return keras.Sequential(layers, name="lstmgen")


def start_at(model: keras.Sequential, counts: np.ndarray[Any, Any]) -> None:
    """Let a new model begin by predicting each id as often as the training text has it: ``counts`` int [V].

    Otherwise it first learns, by saturating its units, which ids never come (of a character vocabulary that is most of
    them, the byte pieces), and from saturated units it learns slowly.
    """
    never = 1e-3  # of an occurrence: next to nothing, but a finite logit
    model.layers[-1].bias.assign(np.log(np.maximum(counts, never) / counts.sum()))


class Cell(NamedTuple):
    """The weights of one LSTM layer, gates in Keras's order i, f, g, o."""

    kernel: Any  # float32 [E or H, 4H], W
    recurrent: Any  # float32 [H, 4H], U
    bias: Any  # float32 [4H], b; the forget quarter begins at 1


class Weights(NamedTuple):
    """Everything a step needs, as the variables of a ``Sequential`` (so that export finds them)."""

    embedding: Any  # float32 [V, E]
    cells: tuple[Cell, ...]
    output: Any  # float32 [H, V]; or [V, H], the embedding, when tied
    output_bias: Any  # float32 [V]
    tied: bool


def weights_of(model: keras.Sequential) -> Weights:
    """Find the weights of a ``Sequential`` that ``build`` made, as ``tf.Variable`` s."""
    cells = [layer.cell for layer in model.layers if isinstance(layer, keras.layers.LSTM)]
    embedding, output = model.layers[0], model.layers[-1]
    tied = isinstance(output, TiedOutput)
    return Weights(
        embedding.embeddings.value,
        tuple(Cell(cell.kernel.value, cell.recurrent_kernel.value, cell.bias.value) for cell in cells),
        embedding.embeddings.value if tied else output.kernel.value,
        output.bias.value,
        tied,
    )


def state_size(weights: Weights) -> int:
    """S = 2 L H."""
    return sum(2 * int(cell.recurrent.shape[0]) for cell in weights.cells)


def step(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """Read one token a row: int32 [B] and float32 [B, S] give logits [B, V] of the next token and the state [B, S]."""
    x = tf.gather(weights.embedding, ids)
    parts = tf.split(state, 2 * len(weights.cells), axis=1)
    carried = []
    for cell, h, c in zip(weights.cells, parts[::2], parts[1::2], strict=True):
        x, c = _cell(cell, x, h, c)
        carried += [x, c]
    logits = tf.matmul(x, weights.output, transpose_b=weights.tied) + weights.output_bias
    return logits, tf.concat(carried, axis=1)


def _cell(cell: Cell, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """The gate equations above: the next h and c, each [B, H]."""
    z = tf.matmul(x, cell.kernel) + tf.matmul(h, cell.recurrent) + cell.bias
    i, f, g, o = tf.split(z, 4, axis=1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
    return tf.sigmoid(o) * tf.tanh(c), c


def score(weights: Weights, ids: Any, state: Any) -> tuple[Any, Any]:
    """Log-probability of each next token: int32 [B, P] and state [B, S] give float32 [B, P-1] and the state [B, S].

    All tokens but the last are read, so the next window of a long text begins with the last token of this one.
    """
    P = tf.shape(ids)[1]

    def read(t: Any, state: Any, logprobs: Any) -> tuple[Any, Any, Any]:
        logits, state = step(weights, ids[:, t], state)
        logprob = pick(tf.nn.log_softmax(logits), ids[:, t + 1])
        return t + 1, state, put(logprobs, t, logprob)

    nothing = tf.zeros_like(ids[:, 1:], tf.float32)
    _, state, logprobs = tf.while_loop(lambda t, *_: t < P - 1, read, (0, state, nothing))
    return logprobs, state


def pick(table: Any, ids: Any) -> Any:
    """One entry a row: [B, V] and int32 [B] give [B]."""
    return tf.gather(table, ids, batch_dims=1)


def put(table: Any, t: Any, column: Any) -> Any:
    """Write [B] into column ``t`` of [B, N], with operators that every runtime has."""
    return tf.where(tf.range(tf.shape(table)[1])[tf.newaxis, :] == t, column[:, tf.newaxis], table)
