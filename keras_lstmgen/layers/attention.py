"""Attention layer: each time step attends to itself and to the M - 1 time steps before it in the same text.

Sources: Luong, Pham and Manning, "Effective Approaches to Attention-based Neural Machine Translation", 2015 (the hidden
state of the LSTM is the query); Vaswani et al., "Attention Is All You Need", 2017 (scaled dot product); Cheng, Dong and
Lapata, "Long Short-Term Memory-Networks for Machine Reading", 2016 (self-attention over the preceding text)::

    q, k, v = h Q, h K, h V                  for each step
    p       = softmax of q . k / sqrt(D) over the last M steps, including the current step
    h'      = h + (sum of p v) O

The memory of a text has M slots, one for each of the last M steps. A slot consists of a key, a value and the number 1.
With a pointer-generator (``pointer_generator``), the number is 1 + id, where id is the input token of the step. An
empty slot contains only zeros.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

SIZE = 128  # D, of keys and values
NOTHING = -1e9  # added to the logit of a masked or empty slot, so that the attention weight of the slot is 0


class Heads(NamedTuple):
    """Weights of the attention layer; D is the size of a key and of a value."""

    query: Any  # float32 [H, D]
    key: Any  # float32 [H, D]
    value: Any  # float32 [H, D]
    output: Any  # float32 [D, H]


def attend(weights: Heads, h: Any, memory: Any, ids: Any = None) -> tuple[Any, Any, Any]:
    """Apply attention to T time steps that continue a text.

    Args:
        weights: weights of the layer.
        h: float32 [B, T, H], hidden states of the last LSTM layer.
        memory: float32 [B, M, 2 D + 1], slots of the preceding steps.
        ids: int32 [B, T], input tokens of the T steps. The function stores these tokens in the memory. None without a
            pointer-generator.

    Returns:
        The outputs h', float32 [B, T, H], the updated memory, and the attention weights, float32 [B, T, M + T]. The
        first M attention weights belong to the slots of ``memory``, the others to the T steps.
    """
    M = memory.shape[1]
    slots = tf.concat([memory, _slots(weights, h, ids)], axis=1)
    outputs, attention_weights = _attended(weights, h, slots, M, ids is not None)
    after = slots[:, tf.shape(h)[1] if h.shape[1] is None else h.shape[1] :]
    after.set_shape(memory.shape)  # TensorFlow does not infer the shape if T is unknown
    return outputs, after, attention_weights


def attend_anew(weights: Heads, h: Any, M: int, ids: Any = None) -> tuple[Any, Any]:
    """Apply attention to the first T time steps of a text, for which the memory is empty.

    Args:
        weights: weights of the layer.
        h: float32 [B, T, H], hidden states of the last LSTM layer.
        M: number of steps that each step attends to, including itself.
        ids: int32 [B, T], input tokens of the T steps; None without a pointer-generator.

    Returns:
        The outputs h', float32 [B, T, H], and the attention weights over the T steps, float32 [B, T, T].
    """
    return _attended(weights, h, _slots(weights, h, ids), M, ids is not None)


def _slots(weights: Heads, h: Any, ids: Any) -> Any:
    """Return the slots of T steps, float32 [B, T, 2 D + 1].

    Each slot contains a key, a value, and the number 1 + id. If ``ids`` is None, the number is 1.
    """
    k, v = tf.matmul(h, weights.key), tf.matmul(h, weights.value)
    return tf.concat([k, v, tf.ones_like(k[..., :1]) if ids is None else tf.cast(ids, k.dtype)[..., None] + 1], axis=2)


def _attended(weights: Heads, h: Any, slots: Any, M: int, with_ids: bool) -> tuple[Any, Any]:
    """Return h', float32 [B, T, H], and the attention weights over N slots, float32 [B, T, N].

    The last T slots belong to the T steps themselves.
    """
    T, N, D = (tf.shape(x)[1] if x.shape[1] is None else x.shape[1] for x in (h, slots, weights.query))
    keys, values, written = slots[:, :, :D], slots[:, :, D : 2 * D], slots[:, :, 2 * D]
    written = tf.minimum(written, 1) if with_ids else written
    logits = tf.matmul(tf.matmul(h, weights.query), keys, transpose_b=True) / np.float32(np.sqrt(D)) + _band(T, N, M)
    attention_weights = tf.nn.softmax(logits + (1 - tf.expand_dims(written, 1)) * NOTHING)
    return h + tf.matmul(tf.matmul(attention_weights, values), weights.output), attention_weights


def _band(T: Any, N: Any, M: int) -> Any:
    """Return the attention mask, float32 [T, N].

    For each step, the mask is 0 at the slot of this step and at the M - 1 preceding slots. At all other slots, the mask
    is ``NOTHING``.
    """
    fixed = isinstance(T, int) and isinstance(N, int)  # the mask is a constant of the graph if T and N are known
    slot, own = (np.arange(N), np.arange(N - T, N)) if fixed else (tf.range(N), tf.range(N - T, N))
    behind = own[:, None] - slot[None, :]
    return (np if fixed else tf).where((behind >= 0) & (behind < M), np.float32(0), np.float32(NOTHING))


def memory_size(M: int) -> int:
    """Return the number of float32 values in a memory with M slots."""
    return M * (2 * SIZE + 1)


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Attention(keras.layers.Layer):
    """Attention layer that maps float32 [B, T, H] to float32 [B, T, H].

    Args:
        slots: M, number of time steps that each step attends to, including itself.
        batch_size: B. If given, the layer keeps its memory from batch to batch, like a stateful LSTM. If None, every
            call begins with an empty memory.
        **options: passed to ``keras.layers.Layer``.
    """

    def __init__(self, slots: int, batch_size: int | None = None, **options: Any) -> None:
        """Create the layer."""
        super().__init__(**options)
        self.slots, self.batch_size = slots, batch_size
        self.states: list[Any] = []

    def build(self, input_shape: Any) -> None:
        """Create the weights and, if ``batch_size`` is given, the memory."""
        H = int(input_shape[-1])
        shapes = {"query": (H, SIZE), "key": (H, SIZE), "value": (H, SIZE), "output": (SIZE, H)}
        self.heads = [self.add_weight(shape=shape, name=name) for name, shape in shapes.items()]
        if self.batch_size is not None:
            memory = tf.Variable(tf.zeros([self.batch_size, self.slots, 2 * SIZE + 1]), trainable=False)
            object.__setattr__(self, "states", [memory])  # keeps Keras from tracking the memory as a weight

    def call(self, inputs: Any) -> Any:
        """Apply attention and update the memory."""
        if not self.states:
            return attend_anew(self.weights_now(), inputs, self.slots)[0]
        outputs, after, _ = attend(self.weights_now(), inputs, self.states[0])
        self.states[0].assign(after)
        return outputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape

    def weights_now(self) -> Heads:
        """Return the weights as ``tf.Variable`` objects."""
        return Heads(*(weight.value for weight in self.heads))

    def reset_states(self) -> None:
        """Set the memory to zeros."""
        for state in self.states:
            state.assign(tf.zeros_like(state))

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "slots": self.slots, "batch_size": self.batch_size}
