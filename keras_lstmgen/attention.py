"""Attention to the earlier states of a text: what an LSTM has to squeeze into its cells, it can look up.

Sources: Luong, Pham and Manning, "Effective Approaches to Attention-based Neural Machine Translation", 2015 (an LSTM's
state is the query); Vaswani et al., "Attention Is All You Need", 2017 (scaled dot product); Cheng, Dong and Lapata,
"Long Short-Term Memory-Networks for Machine Reading", 2016 (over its own text)::

    q, k, v = h Q, h K, h V                  of each step
    p       = softmax over the last M steps, this one among them, of q . k / sqrt(D)
    h'      = h + (sum of p v) O

What a text carries is its memory, M slots of key, value and a 1 (for ``pointer`` 1 + the id that was read); a slot of
zeros is one that nothing was written to.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

SIZE = 128  # D, of keys and values
NOTHING = -1e9  # added to the logit of a slot that is not to be seen


class Heads(NamedTuple):
    """The weights."""

    query: Any  # float32 [H, D]
    key: Any  # float32 [H, D]
    value: Any  # float32 [H, D]
    output: Any  # float32 [D, H]


def attend(weights: Heads, h: Any, memory: Any, ids: Any = None) -> tuple[Any, Any, Any]:
    """Let T steps look back: float32 h [B, T, H] and memory [B, M, 2 D + 1] give h' and the memory after them.

    The third result is where they looked: float32 [B, T, M + T], over the slots of the memory before and the T steps.
    With ``ids``, int32 [B, T], what was read at the steps, the memory keeps these too.
    """
    T, M, D = h.shape[1], memory.shape[1], weights.query.shape[1]
    T = tf.shape(h)[1] if T is None else T
    q, k, v = (tf.matmul(h, matrix) for matrix in weights[:3])
    ends = tf.ones_like(k[..., :1]) if ids is None else tf.cast(ids, tf.float32)[..., tf.newaxis] + 1
    slots = tf.concat([memory, tf.concat([k, v, ends], axis=2)], axis=1)
    keys, values, written = slots[:, :, :D], slots[:, :, D : 2 * D], slots[:, :, 2 * D]
    written = written if ids is None else tf.minimum(written, 1)
    logits = tf.matmul(q, keys, transpose_b=True) / np.float32(np.sqrt(D)) + _band(T, M)
    looks = tf.nn.softmax(logits + (1 - tf.expand_dims(written, 1)) * NOTHING)
    after = slots[:, T:]
    after.set_shape(memory.shape)  # which is not seen where T is open
    return h + tf.matmul(tf.matmul(looks, values), weights.output), after, looks


def _band(T: Any, M: int) -> Any:
    """0 where step t of T may look, at the M slots that end with its own, and ``NOTHING`` elsewhere: [T, M + T]."""
    fixed = isinstance(T, int)  # what is known when a graph is made is a constant of it
    slot, step = (np.arange(M + T), np.arange(T)) if fixed else (tf.range(M + T), tf.range(T))
    ahead = slot[None, :] - step[:, None]
    return (np if fixed else tf).where((ahead > 0) & (ahead <= M), np.float32(0), np.float32(NOTHING))


def memory_size(M: int) -> int:
    """Numbers that a text carries."""
    return M * (2 * SIZE + 1)


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Attention(keras.layers.Layer):
    """The equations above as a layer, float32 [B, T, H] in and out.

    With ``batch_size`` it carries its memory from one batch to the next, as a stateful LSTM does; without, every call
    begins with an empty one.
    """

    def __init__(self, slots: int, batch_size: int | None = None, **options: Any) -> None:
        """Take M, and B where texts go on from batch to batch."""
        super().__init__(**options)
        self.slots, self.batch_size = slots, batch_size
        self.states: list[Any] = []

    def build(self, input_shape: Any) -> None:
        """Add the weights, and the memory, which is none of them."""
        H = int(input_shape[-1])
        shapes = {"query": (H, SIZE), "key": (H, SIZE), "value": (H, SIZE), "output": (SIZE, H)}
        self.heads = [self.add_weight(shape=shape, name=name) for name, shape in shapes.items()]
        if self.batch_size is not None:
            memory = tf.Variable(tf.zeros(self._memory_shape(self.batch_size)), trainable=False)
            object.__setattr__(self, "states", [memory])  # past Keras, which would take it for a weight

    def _memory_shape(self, B: Any) -> list[Any]:
        return [B, self.slots, 2 * SIZE + 1]

    def call(self, inputs: Any) -> Any:
        """Attend, and remember."""
        memory = self.states[0] if self.states else tf.zeros(self._memory_shape(tf.shape(inputs)[0]))
        outputs, after, _ = attend(self.weights_now(), inputs, memory)
        for state in self.states:
            state.assign(after)
        return outputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Give the shape of the inputs."""
        return input_shape

    def weights_now(self) -> Heads:
        """The weights, as ``tf.Variable`` s."""
        return Heads(*(weight.value for weight in self.heads))

    def reset_states(self) -> None:
        """Begin new texts."""
        for state in self.states:
            state.assign(tf.zeros_like(state))

    def get_config(self) -> dict[str, Any]:
        """Add M and B."""
        return {**super().get_config(), "slots": self.slots, "batch_size": self.batch_size}
