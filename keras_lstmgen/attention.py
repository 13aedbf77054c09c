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
    M = memory.shape[1]
    slots = tf.concat([memory, _slots(weights, h, ids)], axis=1)
    outputs, looks = _looked(weights, h, slots, M, ids is not None)
    after = slots[:, tf.shape(h)[1] if h.shape[1] is None else h.shape[1] :]
    after.set_shape(memory.shape)  # which is not seen where T is open
    return outputs, after, looks


def attend_anew(weights: Heads, h: Any, M: int, ids: Any = None) -> tuple[Any, Any]:
    """``attend`` in texts that begin, whose memory of M slots is empty: h' and where they looked, [B, T, T]."""
    return _looked(weights, h, _slots(weights, h, ids), M, ids is not None)


def _slots(weights: Heads, h: Any, ids: Any) -> Any:
    """What T steps leave behind: key, value and 1, or 1 + id, [B, T, 2 D + 1]."""
    k, v = tf.matmul(h, weights.key), tf.matmul(h, weights.value)
    return tf.concat([k, v, tf.ones_like(k[..., :1]) if ids is None else tf.cast(ids, k.dtype)[..., None] + 1], axis=2)


def _looked(weights: Heads, h: Any, slots: Any, M: int, with_ids: bool) -> tuple[Any, Any]:
    """H' [B, T, H] and the looks [B, T, N] of the steps whose own slots are the last T of N."""
    T, N, D = (tf.shape(x)[1] if x.shape[1] is None else x.shape[1] for x in (h, slots, weights.query))
    keys, values, written = slots[:, :, :D], slots[:, :, D : 2 * D], slots[:, :, 2 * D]
    written = tf.minimum(written, 1) if with_ids else written
    logits = tf.matmul(tf.matmul(h, weights.query), keys, transpose_b=True) / np.float32(np.sqrt(D)) + _band(T, N, M)
    looks = tf.nn.softmax(logits + (1 - tf.expand_dims(written, 1)) * NOTHING)
    return h + tf.matmul(tf.matmul(looks, values), weights.output), looks


def _band(T: Any, N: Any, M: int) -> Any:
    """0 where a step may look, at the M slots that end with its own, and ``NOTHING`` elsewhere: [T, N]."""
    fixed = isinstance(T, int) and isinstance(N, int)  # what is known when a graph is made is a constant of it
    slot, own = (np.arange(N), np.arange(N - T, N)) if fixed else (tf.range(N), tf.range(N - T, N))
    behind = own[:, None] - slot[None, :]
    return (np if fixed else tf).where((behind >= 0) & (behind < M), np.float32(0), np.float32(NOTHING))


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
            memory = tf.Variable(tf.zeros([self.batch_size, self.slots, 2 * SIZE + 1]), trainable=False)
            object.__setattr__(self, "states", [memory])  # past Keras, which would take it for a weight

    def call(self, inputs: Any) -> Any:
        """Attend, and remember."""
        if not self.states:
            return attend_anew(self.weights_now(), inputs, self.slots)[0]
        outputs, after, _ = attend(self.weights_now(), inputs, self.states[0])
        self.states[0].assign(after)
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
