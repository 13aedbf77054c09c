"""Layers against learning a text by heart; they act in training alone. Each names its source.

Weight-drop is an argument of ``layers.LSTM``, averaged weights are the optimizer's.
"""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class DroppedEmbedding(keras.layers.Embedding):
    """An embedding that forgets whole ids: every occurrence in a window of an id that was drawn is zeros.

    Source: Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks", 2016.

    The mask is one number an id, [V, 1], drawn for each batch of windows and scaled by 1 / (1 - rate). The matrix
    itself stays whole, for an output that shares it. Int32 [B, T] in, float32 [B, T, E] out.
    """

    def __init__(self, *arguments: Any, rate: float, **options: Any) -> None:
        """Take what the parent takes, and the share of the ids that is dropped."""
        super().__init__(*arguments, **options)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Look the ids up; in training, without those that were drawn."""
        outputs = super().call(inputs)
        if not training:
            return outputs
        mask = keras.random.dropout(keras.ops.ones((self.input_dim, 1)), self.rate, seed=self.seed_generator)
        return outputs * keras.ops.take(mask, inputs, axis=0)

    def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:  # noqa: ARG002 (the parent knows none)
        """Give the parent's shape and dtype."""
        return super().compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        """Add the rate."""
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class SharedDropout(keras.layers.SpatialDropout1D):
    """``SpatialDropout1D`` for some rows of a batch: what it draws for the whole batch, it takes its rows of.

    So several workers, each with its rows and all with one seed, drop what one process would. Float32 [rows, T, C] in
    and out.
    """

    def __init__(self, rate: float, *, rows: tuple[int, int, int], **options: Any) -> None:
        """Take the rate, the first row and the one behind the last, and how many the batch has."""
        super().__init__(rate, **options)
        self.rows = tuple(rows)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drop, in training."""
        if not training or not self.rate:
            return inputs
        first, end, B = self.rows
        mask = keras.random.dropout(keras.ops.ones((B, 1, inputs.shape[-1])), self.rate, seed=self.seed_generator)
        return inputs * mask[first:end]

    def get_config(self) -> dict[str, Any]:
        """Add the rows."""
        return {**super().get_config(), "rows": self.rows}


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class ActivationRegularization(keras.layers.Layer):
    """Adds to the loss what large outputs and fast changes cost: AR and TAR. Float32 [B, T, H] in and out, unchanged.

    Source: Merity, McCann and Socher, "Revisiting Activation Regularization for Language RNNs", 2017.

    ``strength`` times mean(h_t^2), and half of it times mean((h_t - h_{t-1})^2): the 2 and 1 of AWD-LSTM. Both are
    taken of the outputs after dropout, whose one mask a window leaves differences what they are but for its scale.
    """

    METRIC = "activation_penalty"  # its share of the loss, in the logs of ``fit``

    def __init__(self, strength: float, **options: Any) -> None:
        """Take the factor of AR."""
        super().__init__(**options)
        self.strength = strength
        self.penalty = keras.metrics.Mean(name=self.METRIC)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Add the loss."""
        if training:
            change = inputs[:, 1:] - inputs[:, :-1]
            # As a sum: a window of one step has no change, and the mean of nothing is no number.
            changes = keras.ops.sum(keras.ops.square(change)) / keras.ops.cast(keras.ops.size(inputs), "float32")
            penalty = self.strength * (keras.ops.mean(keras.ops.square(inputs)) + changes / 2)
            self.add_loss(penalty)
            self.penalty.update_state(penalty)
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Add the factor."""
        return {**super().get_config(), "strength": self.strength}
