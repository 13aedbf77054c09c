"""Regularization layers; they are active only during training.

Two other kinds of regularization are implemented elsewhere: ``layers.lstm.LSTM`` implements weight drop, and the
optimizer averages the weights.
"""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class DroppedEmbedding(keras.layers.Embedding):
    """Embedding layer with embedding dropout; the layer maps ids int32 [B, T] to float32 [B, T, E].

    For each batch, the layer selects random ids, and sets the embeddings of all their occurrences to zero. It
    multiplies all other embeddings by 1 / (1 - rate). The embedding matrix itself does not change, so an output layer
    can share it.

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
        """Return the shape and dtype of the output."""
        return super().compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class SharedDropout(keras.layers.SpatialDropout1D):
    """Dropout layer for several workers; all time steps of a window have the same mask.

    The layer maps float32 [rows, T, C] to the same shape. Each worker generates the mask of the whole batch, and
    applies only the rows of the mask that belong to this worker. If all workers have the same seed, they together apply
    the same mask as a single process.

    Args:
        rate: share of the features to drop, from 0 to below 1.
        rows: index of the first row of this worker, index after the last row of this worker, and batch size B, summed
            over all workers.
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
    """Layer that adds activation regularization (AR) and temporal activation regularization (TAR) to the loss.

    The layer returns its input h unchanged. It adds ``strength * mean(h_t^2) + strength / 2 * mean((h_t - h_{t-1})^2)``
    to the loss. AWD-LSTM uses the strength 2. Both terms use h after dropout. All steps of a window have the same
    dropout mask, so dropout only scales the differences between steps.

    Source: Merity, McCann and Socher, "Revisiting Activation Regularization for Language RNNs", 2017.

    Args:
        strength: factor of AR. The factor of TAR is ``strength / 2``.
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
            # Do not use the mean, because a window of one step has no changes, and the mean of an empty tensor is NaN.
            changes = keras.ops.sum(keras.ops.square(change)) / keras.ops.cast(keras.ops.size(inputs), "float32")
            penalty = self.strength * (keras.ops.mean(keras.ops.square(inputs)) + changes / 2)
            self.add_loss(penalty)
            self.penalty.update_state(penalty)
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "strength": self.strength}
