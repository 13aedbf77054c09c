"""Pointer-generator layer: attention lets a model copy tokens of the preceding text, such as names and rare words.

Source: See, Liu and Manning, "Get To The Point: Summarization with Pointer-Generator Networks", 2017. At each step, h'
is the output of the attention (``attention``), and the probabilities p of the next token are::

    g = sigmoid(h' w + b)                    weight of the output layer
    p = g softmax(h' W + c) + (1 - g) a      a[id]: sum of the attention weights of all steps with the input id

The last number of each memory slot is 1 + id. Without a pointer-generator, this number is 1.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_lstmgen.layers.attention import Attention, attend_anew

OPEN = 2.0  # initial value of b: g starts at 0.88, so that the output layer learns first
NEVER = 1e-30  # added to a probability so that its logarithm is finite


class Gate(NamedTuple):
    """Weights of the gate g."""

    weights: Any  # w, float32 [H, 1]
    bias: Any  # b, float32 [1]


def with_copies(gate: Gate, h: Any, logits: Any, attention_weights: Any, read: Any) -> Any:
    """Compute the logarithm of p for R rows; each row is one time step of a text.

    The function computes with logarithms of probabilities, because a sigmoid close to 0 underflows in ONNX Runtime.

    Args:
        gate: weights of the gate.
        h: float32 [R, H], outputs h' of the attention.
        logits: float32 [R, V], outputs of the output layer.
        attention_weights: float32 [R, N], attention weights of each row over N steps.
        read: int32 [R, N], input ids of these N steps.

    Returns:
        float32 [R, V], log-probabilities of the next token.
    """
    written, copied = shares(gate, h)
    written += tf.nn.log_softmax(logits)
    copied += tf.math.log(sum_by_id(attention_weights, read, logits.shape[1]) + NEVER)
    return tf.maximum(written, copied) + _log_1p_exp_minus(tf.abs(written - copied))


def shares(gate: Gate, h: Any) -> tuple[Any, Any]:
    """Return log(g) and log(1 - g), each float32 [R, 1]; ``h`` is h', float32 [R, H]."""
    z = tf.matmul(h, gate.weights) + gate.bias
    rest = _log_1p_exp_minus(tf.abs(z))
    return tf.minimum(z, 0) - rest, tf.minimum(-z, 0) - rest


def _log_1p_exp_minus(x: Any) -> Any:
    """Compute log(1 + exp(-x)) for x >= 0, with operators that every runtime supports."""
    return tf.math.log(1 + tf.exp(-x))


def in_windows(gate: Gate, h: Any, logits: Any, attention_weights: Any, read: Any) -> Any:
    """Compute the logarithm of p for T time steps of B texts, like ``with_copies``.

    Args:
        gate: weights of the gate.
        h: float32 [B, T, H], outputs h' of the attention.
        logits: float32 [B, T, V], outputs of the output layer.
        attention_weights: float32 [B, T, N], attention weights over N steps.
        read: int32 [B, N], input ids of these N steps.

    Returns:
        float32 [B, T, V], log-probabilities of the next token.
    """
    read = tf.repeat(read[:, tf.newaxis], tf.shape(attention_weights)[1], axis=1)
    rows = [tf.reshape(part, [-1, tf.shape(part)[2]]) for part in (attention_weights, read)]
    flat = with_copies(gate, tf.reshape(h, [-1, h.shape[2]]), tf.reshape(logits, [-1, logits.shape[2]]), *rows)
    return tf.reshape(flat, tf.shape(logits))


def sum_by_id(attention_weights: Any, read: Any, V: int) -> Any:
    """For each id of the vocabulary, sum the attention weights of all steps with this input id.

    Args:
        attention_weights: float32 [R, N].
        read: int32 [R, N], input ids of the N steps.
        V: vocabulary size.

    Returns:
        float32 [R, V], the sum for each id.
    """
    rows = tf.shape(read)[0]
    places = read + V * tf.expand_dims(tf.range(rows), 1)
    sums = tf.scatter_nd(tf.reshape(places, [-1, 1]), tf.reshape(attention_weights, [-1]), tf.reshape(rows * V, [1]))
    return tf.reshape(sums, [-1, V])


def read_by(memory: Any, ids: Any) -> Any:
    """Return the input ids of the steps to which the attention weights of ``attend`` belong.

    Args:
        memory: float32 [B, M, 2 D + 1], the memory before the T steps.
        ids: int32 [B, T], input ids of the T steps.

    Returns:
        int32 [B, M + T], the ids of the M slots and then the ids of the T steps.
    """
    before = tf.cast(tf.maximum(memory[:, :, -1] - 1, 0), tf.int32)  # empty slots get id 0, but have weight 0
    return tf.concat([before, ids], axis=1)


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Pointer(keras.layers.Layer):
    """Pointer-generator layer that maps ids int32 [B, T] to log-probabilities float32 [B, T, V].

    The layer contains a model with attention. Each call begins with an empty memory. During training, the layer
    returns the inputs of the loss ``losses.PointerGeneratorLoss`` instead, float32 [B, T, H + 2 T]. For each step, the
    result contains h' (H numbers), the attention weights over the T steps (T numbers) and the ids of the T steps (T
    numbers).

    Args:
        member: the model with attention, including its output layer.
        **options: passed to ``keras.layers.Layer``.
    """

    def __init__(self, member: keras.Sequential, **options: Any) -> None:
        """Create the layer and its gate."""
        super().__init__(**options)
        self.member = member
        bias = keras.initializers.Constant(OPEN)
        self.gate = keras.layers.Dense(1, bias_initializer=bias, name="gate")

    def build(self, input_shape: Any) -> None:  # noqa: ARG002 (Keras passes it)
        """Create the weights of the gate."""
        self.gate.build((None, self.member.layers[-1].input.shape[-1]))

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the log-probabilities; during training, return the inputs of the loss."""
        h, attention_weights = self._read(inputs, training)
        if not training:
            return in_windows(self.gate_now(), h, self.member.layers[-1](h), attention_weights, inputs)
        read = tf.repeat(tf.cast(inputs, tf.float32)[:, tf.newaxis], tf.shape(inputs)[1], axis=1)
        return tf.concat([h, attention_weights, read], axis=2)

    def _read(self, ids: Any, training: bool) -> tuple[Any, Any]:
        """Return the inputs of the output layer, float32 [B, T, H], and the attention weights, float32 [B, T, T]."""
        x: Any = ids
        attention_weights: Any = None
        for layer in self.member.layers[:-1]:
            if isinstance(layer, Attention):
                x, attention_weights = attend_anew(layer.weights_now(), x, layer.slots, ids)
            else:
                x = layer(x, training=training)
        return x, attention_weights

    def gate_now(self) -> Gate:
        """Return the weights of the gate as ``tf.Variable`` objects."""
        return Gate(self.gate.kernel.value, self.gate.bias.value)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer, including the configuration of the model."""
        return {**super().get_config(), "member": keras.saving.serialize_keras_object(self.member)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Pointer":
        """Create the layer from its configuration."""
        return cls(keras.saving.deserialize_keras_object(config.pop("member")), **config)
