"""Regularization layers. They are active during training only.

Weight drop is an argument of ``layers.LSTM``; averaged weights belong to the optimizer.
"""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class DroppedEmbedding(keras.layers.Embedding):
    """Embedding with embedding dropout: sets the embedding of whole ids to zero; maps int32 [B, T] to [B, T, E].

    The mask has one number per id, [V, 1]. It is drawn once per batch and scaled by 1 / (1 - rate), so all occurrences
    of an id in a batch are dropped together. The embedding matrix itself is unchanged, so an output layer can share it.

    Source: Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks", 2016.

    Args:
        *arguments: passed to ``keras.layers.Embedding``.
        rate: share of the ids to drop, from 0 to below 1.
        **options: passed to ``keras.layers.Embedding``.
    """

    def __init__(self, *arguments: Any, rate: float, **options: Any) -> None:
        """Create the layer."""
        super().__init__(*arguments, **options)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the embeddings, with dropped ids set to zero during training."""
        outputs = super().call(inputs)
        if not training:
            return outputs
        mask = keras.random.dropout(keras.ops.ones((self.input_dim, 1)), self.rate, seed=self.seed_generator)
        return outputs * keras.ops.take(mask, inputs, axis=0)

    def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:  # noqa: ARG002 (unknown to the parent)
        """Return the shape and dtype of the parent's output."""
        return super().compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class SharedDropout(keras.layers.SpatialDropout1D):
    """``SpatialDropout1D`` for a part of a batch; maps float32 [rows, T, C] to float32 [rows, T, C].

    The layer draws the mask of the whole batch and applies its own rows of the mask. Several workers with the same seed
    therefore apply the same mask as a single process.

    Args:
        rate: share of the features to drop.
        rows: first row, end row (exclusive) and batch size B.
        **options: passed to ``keras.layers.SpatialDropout1D``.
    """

    def __init__(self, rate: float, *, rows: tuple[int, int, int], **options: Any) -> None:
        """Create the layer."""
        super().__init__(rate, **options)
        self.rows = tuple(rows)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Apply the mask during training."""
        if not training or not self.rate:
            return inputs
        first, end, B = self.rows
        mask = keras.random.dropout(keras.ops.ones((B, 1, inputs.shape[-1])), self.rate, seed=self.seed_generator)
        return inputs * mask[first:end]

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "rows": self.rows}


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class ActivationRegularization(keras.layers.Layer):
    """Activation regularization (AR) and temporal activation regularization (TAR); returns its input unchanged.

    The layer adds ``strength * mean(h_t^2) + strength / 2 * mean((h_t - h_{t-1})^2)`` to the loss. AWD-LSTM uses the
    strength 2. Both terms use the outputs after dropout. Dropout with one mask per window only scales the differences.

    Source: Merity, McCann and Socher, "Revisiting Activation Regularization for Language RNNs", 2017.

    Args:
        strength: factor of AR; TAR has half of it.
        **options: passed to ``keras.layers.Layer``.
    """

    METRIC = "activation_penalty"  # name of the added loss in the logs of ``fit``

    def __init__(self, strength: float, **options: Any) -> None:
        """Create the layer."""
        super().__init__(**options)
        self.strength = strength
        self.penalty = keras.metrics.Mean(name=self.METRIC)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Add the penalty to the loss during training."""
        if training:
            change = inputs[:, 1:] - inputs[:, :-1]
            # A sum instead of a mean: with one time step there is no change, and the mean of an empty tensor is NaN.
            changes = keras.ops.sum(keras.ops.square(change)) / keras.ops.cast(keras.ops.size(inputs), "float32")
            penalty = self.strength * (keras.ops.mean(keras.ops.square(inputs)) + changes / 2)
            self.add_loss(penalty)
            self.penalty.update_state(penalty)
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "strength": self.strength}
