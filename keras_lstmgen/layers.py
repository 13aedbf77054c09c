"""The one layer that Keras does not have: an output that shares the embedding's weights."""

from typing import Any

import keras


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
