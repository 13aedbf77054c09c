"""Pointer-generator: copies tokens of the text that the attention selects, such as names and rare words.

Source: See, Liu and Manning, "Get To The Point: Summarization with Pointer-Generator Networks", 2017. With the h' and
the attention weights of ``attention``, at each step::

    g = sigmoid(h' w + b)
    p = g softmax(h' W + c) + (1 - g) (for each id, the sum of the attention weights of the steps that read it)

The last number of a memory slot is 1 + id; without a pointer-generator it is 1.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_lstmgen.layers.attention import Attention, attend_anew

OPEN = 2.0  # initial value of b: g = 0.88, so that the output layer learns first
NEVER = 1e-30  # added to a probability before its logarithm is taken


class Gate(NamedTuple):
    """Weights of the gate."""

    weights: Any  # float32 [H, 1], w
    bias: Any  # float32 [1], b


def with_copies(gate: Gate, h: Any, logits: Any, attention_weights: Any, read: Any) -> Any:
    """Compute the logarithm of p.

    The function adds log-probabilities, because a sigmoid close to 0 underflows in ONNX Runtime.

    Args:
        gate: weights of the gate.
        h: float32 [R, H], outputs h' of the attention.
        logits: float32 [R, V], outputs of the output layer.
        attention_weights: float32 [R, N], attention weights.
        read: int32 [R, N], the token of each attended step.

    Returns:
        float32 [R, V], log-probabilities.
    """
    written, copied = shares(gate, h)
    written += tf.nn.log_softmax(logits)
    copied += tf.math.log(sum_by_id(attention_weights, read, logits.shape[1]) + NEVER)
    return tf.maximum(written, copied) + _log_1p_exp_minus(tf.abs(written - copied))


def shares(gate: Gate, h: Any) -> tuple[Any, Any]:
    """Compute the logarithms of g and of 1 - g, each [R, 1], for h' [R, H]."""
    z = tf.matmul(h, gate.weights) + gate.bias
    rest = _log_1p_exp_minus(tf.abs(z))
    return tf.minimum(z, 0) - rest, tf.minimum(-z, 0) - rest


def _log_1p_exp_minus(x: Any) -> Any:
    """Compute log(1 + exp(-x)) for x >= 0, with operators that every runtime supports."""
    return tf.math.log(1 + tf.exp(-x))


def in_windows(gate: Gate, h: Any, logits: Any, attention_weights: Any, read: Any) -> Any:
    """Apply ``with_copies`` to T steps: [B, T, H], [B, T, V], [B, T, N] and the ids of slots [B, N] to [B, T, V]."""
    read = tf.repeat(read[:, tf.newaxis], tf.shape(attention_weights)[1], axis=1)
    rows = [tf.reshape(part, [-1, tf.shape(part)[2]]) for part in (attention_weights, read)]
    flat = with_copies(gate, tf.reshape(h, [-1, h.shape[2]]), tf.reshape(logits, [-1, logits.shape[2]]), *rows)
    return tf.reshape(flat, tf.shape(logits))


def sum_by_id(attention_weights: Any, read: Any, V: int) -> Any:
    """Sum the attention weights [R, N] by the id that was read at each step: [R, V]."""
    rows = tf.shape(read)[0]
    places = read + V * tf.expand_dims(tf.range(rows), 1)
    sums = tf.scatter_nd(tf.reshape(places, [-1, 1]), tf.reshape(attention_weights, [-1]), tf.reshape(rows * V, [1]))
    return tf.reshape(sums, [-1, V])


def read_by(memory: Any, ids: Any) -> Any:
    """Return the ids of the slots that ``attend`` uses: float32 [B, M, 2 D + 1] and int32 [B, T] to [B, M + T]."""
    before = tf.cast(tf.maximum(memory[:, :, -1] - 1, 0), tf.int32)  # empty slots get id 0 and attention weight 0
    return tf.concat([before, ids], axis=1)


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Pointer(keras.layers.Layer):
    """Pointer-generator around a model with attention; maps int32 [B, T] to log-probabilities [B, T, V].

    Each call begins with an empty memory. During training, the layer returns the inputs of
    ``losses.PointerGeneratorLoss`` instead, float32 [B, T, H + 2 T]: h' of each step, its attention weights over the
    T steps, and the ids of these steps.

    Args:
        member: the model, including its output layer.
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
        """Return the log-probabilities, or the inputs of the loss during training."""
        h, attention_weights = self._read(inputs, training)
        if not training:
            return in_windows(self.gate_now(), h, self.member.layers[-1](h), attention_weights, inputs)
        read = tf.repeat(tf.cast(inputs, tf.float32)[:, tf.newaxis], tf.shape(inputs)[1], axis=1)
        return tf.concat([h, attention_weights, read], axis=2)

    def _read(self, ids: Any, training: bool) -> tuple[Any, Any]:
        """Return the input of the output layer, [B, T, H], and the attention weights, [B, T, T]."""
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
        """Return the configuration of the layer, including that of the model."""
        return {**super().get_config(), "member": keras.saving.serialize_keras_object(self.member)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Pointer":
        """Create the layer from its configuration."""
        return cls(keras.saving.deserialize_keras_object(config.pop("member")), **config)
