"""The two layers that Keras does not have: a fast LSTM for CPUs, and an output that shares the embedding's weights."""

from typing import Any

import keras
import tensorflow as tf

from keras_lstmgen import kernel


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class LSTM(keras.layers.LSTM):
    """``keras.layers.LSTM``, the same weights, arguments and results; on a CPU by a kernel of its own.

    On a GPU, or with arguments that the kernel does not know, it is the parent.
    """

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        """Outputs of a window: what Keras's own loop gives, (last output, outputs, states)."""
        if mask is not None or not self._is_plain() or tf.config.list_logical_devices("GPU"):
            return super().inner_loop(sequences, initial_state, mask, training)
        if training and self.dropout:
            sequences *= self.cell.get_dropout_mask(sequences[:, 0, :])[:, tf.newaxis, :]
        h, c = (tf.convert_to_tensor(state) for state in initial_state)
        weights = (self.cell.kernel.value, self.cell.recurrent_kernel.value, self.cell.bias.value)
        outputs, h, c = kernel.lstm(sequences, h, c, *weights)
        return h, outputs, [h, c]

    def _is_plain(self) -> bool:
        """Whether the layer is the textbook's, in float32."""
        activations = (self.activation, self.recurrent_activation) == (
            keras.activations.tanh,
            keras.activations.sigmoid,
        )
        unusual = self.recurrent_dropout or self.unroll or self.go_backwards or not self.use_bias
        return activations and not unusual and self.compute_dtype == "float32"


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class TiedOutput(keras.layers.Layer):
    """Logits from the embedding's own matrix: ``h @ embeddings.T + bias``.

    Source: Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017.

    In float32 [B, T, E], out float32 [B, T, V].
    """

    def __init__(self, embedding: keras.layers.Embedding, **options: Any) -> None:
        """Take the layer whose weights are shared; in a file both are stored once."""
        super().__init__(**options)
        self.embedding = embedding

    def build(self, input_shape: Any) -> None:  # noqa: ARG002 (Keras passes it)
        """Add the bias, the only weight of its own."""
        self.bias = self.add_weight(shape=(self.embedding.input_dim,), initializer="zeros", name="bias")

    def call(self, inputs: Any) -> Any:
        """Give the logits of the next token."""
        return keras.ops.matmul(inputs, keras.ops.transpose(self.embedding.embeddings)) + self.bias

    def get_config(self) -> dict[str, Any]:
        """Name the embedding; Keras stores a layer that stands twice in a file once."""
        return {**super().get_config(), "embedding": keras.saving.serialize_keras_object(self.embedding)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TiedOutput":
        """Find the embedding again."""
        embedding = keras.saving.deserialize_keras_object(config.pop("embedding"))
        if not isinstance(embedding, keras.layers.Embedding):
            raise TypeError("TiedOutput: its embedding is not an Embedding layer")
        return cls(embedding, **config)
