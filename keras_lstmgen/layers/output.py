"""Output layers that compute the logits of the next token, with their own weights or with the embedding matrix."""

from typing import Any

import keras
import tensorflow as tf

from keras_lstmgen.layers.compute_dtype import check_precision, uses_bfloat16


class _Logits(keras.layers.Layer):
    """Base class of the output layers; it implements ``call``.

    A subclass must have the attribute ``bias`` and implement ``products`` and ``part``.
    """

    precision: str
    in_loss: bool

    def __init__(self, *arguments: Any, precision: str = "float32", in_loss: bool = False, **options: Any) -> None:
        """Create the layer."""
        super().__init__(*arguments, **options)
        self.precision, self.in_loss = check_precision(precision), in_loss
        # The loss uses this seed for the sampled softmax. The layer stores the seed, so that checkpoints contain it.
        self.draws_seed = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the logits; during training with ``in_loss``, return the inputs unchanged."""
        return inputs if training and self.in_loss else self.logits(inputs)

    def logits(self, inputs: Any) -> Any:
        """Map inputs, float32 [..., H], to logits, float32 [..., V]."""
        products, bias = self.products(tf.reshape(inputs, [-1, inputs.shape[-1]]))
        flat = tf.cast(products, tf.float32) + bias
        return tf.reshape(flat, tf.concat([tf.shape(inputs)[:-1], [bias.shape[0]]], axis=0))

    def products(self, rows: Any) -> tuple[Any, Any]:
        """Return the logits without the bias, and the bias.

        Args:
            rows: float32 [N, H], inputs of the layer.

        Returns:
            The logits without the bias, [N, V], float32 or bfloat16 like the result of ``product``, and the bias,
            float32 [V].
        """
        raise NotImplementedError

    def part(self, ids: Any) -> tuple[Any, Any]:
        """Return the weights, float32 [C, H], and the biases, float32 [C], of C ids, int32 [C]."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "precision": self.precision, "in_loss": self.in_loss}


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Output(_Logits, keras.layers.Dense):
    """Dense output layer that maps float32 [B, T, H] to logits float32 [B, T, V].

    Unlike ``keras.layers.Dense``, the layer can convert the operands of its product to bfloat16.

    Args:
        units: V, vocabulary size.
        precision: type of the operands of the product: "float32", "bfloat16" or "auto", see ``LSTM``.
        in_loss: whether the loss computes the logits. If true, the layer returns its inputs during training.
        **options: passed to ``keras.layers.Dense``.
    """

    def products(self, rows: Any) -> tuple[Any, Any]:
        """Return the logits without the bias, [N, V], and the bias, [V]; ``rows`` has the shape [N, H]."""
        return product(rows, self.kernel.value, self.precision), self.bias.value

    def part(self, ids: Any) -> tuple[Any, Any]:
        """Return the weights, float32 [C, H], and the biases, float32 [C], of C ids, int32 [C]."""
        return tf.transpose(tf.gather(self.kernel.value, ids, axis=1)), tf.gather(self.bias.value, ids)


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class TiedOutput(_Logits):
    """Output layer that uses the embedding matrix as its weights.

    The layer maps h, float32 [B, T, E], to logits, float32 [B, T, V]. The logits are
    ``h @ embeddings.T + bias``. A saved model contains the embedding matrix only once.

    Source: Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017.

    Args:
        embedding: the embedding layer of the same model.
        precision: type of the operands of the product: "float32", "bfloat16" or "auto", see ``LSTM``.
        in_loss: whether the loss computes the logits. If true, the layer returns its inputs during training.
        **options: passed to ``keras.layers.Layer``.
    """

    def __init__(self, embedding: keras.layers.Embedding, **options: Any) -> None:
        """Create the layer."""
        super().__init__(**options)
        self.embedding = embedding

    def build(self, input_shape: Any) -> None:  # noqa: ARG002 (Keras passes it)
        """Create the bias. This is the only weight of the layer itself."""
        self.bias = self.add_weight(shape=(self.embedding.input_dim,), initializer="zeros", name="bias")

    def products(self, rows: Any) -> tuple[Any, Any]:
        """Return the logits without the bias, [N, V], and the bias, [V]; ``rows`` has the shape [N, E]."""
        return product(rows, self.embedding.embeddings.value, self.precision, transposed=True), self.bias.value

    def part(self, ids: Any) -> tuple[Any, Any]:
        """Return the weights, float32 [C, E], and the biases, float32 [C], of C ids, int32 [C]."""
        return tf.gather(self.embedding.embeddings.value, ids), tf.gather(self.bias.value, ids)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer, including the configuration of the embedding."""
        return {**super().get_config(), "embedding": keras.saving.serialize_keras_object(self.embedding)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TiedOutput":
        """Create the layer from its configuration.

        Keras deserializes the embedding to the same object as the first layer of the model, so the weights are shared.
        """
        embedding = keras.saving.deserialize_keras_object(config.pop("embedding"))
        if not isinstance(embedding, keras.layers.Embedding):
            raise TypeError("TiedOutput: 'embedding' must be an Embedding layer")
        return cls(embedding, **config)


def product(x: Any, weights: Any, precision: str, transposed: bool = False) -> Any:
    """Multiply a matrix by weights with a given precision.

    Args:
        x: float32 [N, H].
        weights: float32 [H, V], or [V, H] if ``transposed``.
        precision: "float32", "bfloat16" or "auto". Both operands are converted to this type.
        transposed: whether to transpose the weights.

    Returns:
        [N, V] with the type of the converted operands, float32 or bfloat16.
    """
    dtype = tf.bfloat16 if uses_bfloat16(precision) else tf.float32
    return tf.matmul(tf.cast(x, dtype), tf.cast(weights, dtype), transpose_b=transposed)
