"""Copying: what the attention looks at can be written again, token for token, names and rare words above all.

Source: See, Liu and Manning, "Get To The Point: Summarization with Pointer-Generator Networks", 2017. With the h' and
the looks of ``attention``, at each step::

    g = sigmoid(h' w + b)
    p = g softmax(h' W + c) + (1 - g) (for each id, the sum of the looks at the steps that read it)

The memory of such a text has 1 + id at the end of a slot, where others have 1.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_lstmgen.attention import Attention, attend_anew

OPEN = 2.0  # b at the beginning: g = 0.88, so that the vocabulary learns first
NEVER = 1e-30  # a probability that is added where a logarithm is taken


class Gate(NamedTuple):
    """The weights."""

    weights: Any  # float32 [H, 1], w
    bias: Any  # float32 [1], b


def with_copies(gate: Gate, h: Any, logits: Any, looks: Any, read: Any) -> Any:
    """The logarithm of p: float32 h' [R, H], logits [R, V], looks [R, N] at ids read, int32 [R, N], give [R, V].

    It adds logarithms: of a sigmoid near 0 ONNX Runtime keeps nothing.
    """
    written, copied = shares(gate, h)
    written += tf.nn.log_softmax(logits)
    copied += tf.math.log(summed(looks, read, logits.shape[1]) + NEVER)
    return tf.maximum(written, copied) + _log_1p_exp_minus(tf.abs(written - copied))


def shares(gate: Gate, h: Any) -> tuple[Any, Any]:
    """The logarithms of g and of 1 - g, each [R, 1], for h' [R, H]."""
    z = tf.matmul(h, gate.weights) + gate.bias
    rest = _log_1p_exp_minus(tf.abs(z))
    return tf.minimum(z, 0) - rest, tf.minimum(-z, 0) - rest


def _log_1p_exp_minus(x: Any) -> Any:
    """log(1 + exp(-x)) for x of 0 or more, of operators that every runtime has."""
    return tf.math.log(1 + tf.exp(-x))


def in_windows(gate: Gate, h: Any, logits: Any, looks: Any, read: Any) -> Any:
    """``with_copies`` of T steps at once: [B, T, H], [B, T, V], [B, T, N] and ids of slots [B, N] give [B, T, V]."""
    read = tf.repeat(read[:, tf.newaxis], tf.shape(looks)[1], axis=1)
    rows = [tf.reshape(part, [-1, tf.shape(part)[2]]) for part in (looks, read)]
    flat = with_copies(gate, tf.reshape(h, [-1, h.shape[2]]), tf.reshape(logits, [-1, logits.shape[2]]), *rows)
    return tf.reshape(flat, tf.shape(logits))


def summed(looks: Any, read: Any, V: int) -> Any:
    """For each of V ids, the sum of the looks [R, N] at where it was read: [R, V]."""
    rows = tf.shape(read)[0]
    places = read + V * tf.expand_dims(tf.range(rows), 1)
    sums = tf.scatter_nd(tf.reshape(places, [-1, 1]), tf.reshape(looks, [-1]), tf.reshape(rows * V, [1]))
    return tf.reshape(sums, [-1, V])


def read_by(memory: Any, ids: Any) -> Any:
    """The ids of the slots that ``attend`` looks over: float32 [B, M, 2 D + 1] and int32 [B, T] give [B, M + T]."""
    before = tf.cast(tf.maximum(memory[:, :, -1] - 1, 0), tf.int32)  # nothing looks at a slot that has none
    return tf.concat([before, ids], axis=1)


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Pointer(keras.layers.Layer):
    """The layers of a model with attention and the gate, as one layer: int32 [B, T] to logits [B, T, V].

    Each call begins with empty texts. In training it gives ``loss.Copied`` what that needs: [B, T, H + 2 T], the h' of
    each step, where it looked among the T, and the ids of these, as float32.
    """

    def __init__(self, member: keras.Sequential, **options: Any) -> None:
        """Take the layers, the output among them."""
        super().__init__(**options)
        self.member = member
        bias = keras.initializers.Constant(OPEN)
        self.gate = keras.layers.Dense(1, bias_initializer=bias, name="gate")

    def build(self, input_shape: Any) -> None:  # noqa: ARG002 (Keras passes it)
        """Add w and b."""
        self.gate.build((None, self.member.layers[-1].input.shape[-1]))

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Give the logarithm of p."""
        h, looks = self._read(inputs, training)
        if not training:
            return in_windows(self.gate_now(), h, self.member.layers[-1](h), looks, inputs)
        read = tf.repeat(tf.cast(inputs, tf.float32)[:, tf.newaxis], tf.shape(inputs)[1], axis=1)
        return tf.concat([h, looks, read], axis=2)

    def _read(self, ids: Any, training: bool) -> tuple[Any, Any]:
        """What the output is given, [B, T, H], and where each step looked, [B, T, T]."""
        x: Any = ids
        looks: Any = None
        for layer in self.member.layers[:-1]:
            if isinstance(layer, Attention):
                x, looks = attend_anew(layer.weights_now(), x, layer.slots, ids)
            else:
                x = layer(x, training=training)
        return x, looks

    def gate_now(self) -> Gate:
        """The weights of the gate, as ``tf.Variable`` s."""
        return Gate(self.gate.kernel.value, self.gate.bias.value)

    def get_config(self) -> dict[str, Any]:
        """Add the layers."""
        return {**super().get_config(), "member": keras.saving.serialize_keras_object(self.member)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Pointer":
        """Build the layers again."""
        return cls(keras.saving.deserialize_keras_object(config.pop("member")), **config)
