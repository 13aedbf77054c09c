"""Build the Keras model of a recipe, for training or for inference."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_lstmgen.config import recipe
from keras_lstmgen.distribution import workers
from keras_lstmgen.layers.attention import SIZE, Attention
from keras_lstmgen.layers.compute_dtype import dtype_policy
from keras_lstmgen.layers.ensemble import Ensemble, members_of
from keras_lstmgen.layers.lstm import LSTM
from keras_lstmgen.layers.output import Output, TiedOutput
from keras_lstmgen.layers.pointer_generator import Pointer
from keras_lstmgen.layers.regularization import ActivationRegularization, DroppedEmbedding, SharedDropout


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a model for training.

    Attributes:
        precision: type of the operands of the matrix products: "float32", "bfloat16" or "auto", see
            ``layers.lstm.LSTM``.
        in_loss: whether the loss computes the logits. If true, the model returns the inputs of its output layer during
            training.
        carries: whether the LSTM layers keep their state from batch to batch. True if each row of a batch continues
            the text of the same row in the previous batch.
    """

    precision: str = "float32"
    in_loss: bool = False
    carries: bool = True


@dataclass(frozen=True)
class _Sizes:
    """Sizes of a model: vocabulary size V, batch size B (None for inference) and window length T (None for any).

    ``layer_units`` are the units of each LSTM layer.
    """

    V: int
    B: int | None
    T: int | None
    layer_units: tuple[int, ...]

    @property
    def trains(self) -> bool:
        """Whether the model is for training."""
        return self.B is not None

    @property
    def rows(self) -> int | None:
        """Number of batch rows on which this worker trains; None for inference."""
        return None if self.B is None else len(range(self.B)[workers.batch_rows(self.B)])

    def input(self) -> keras.KerasTensor:
        """Create the input of the model."""
        return keras.Input(batch_shape=(self.rows, self.T), dtype="int32")


def build(
    settings: recipe.Model,
    V: int,
    B: int | None = None,
    T: int | None = None,
    training: TrainingOptions | None = None,
    layer_units: tuple[int, ...] = (),
) -> keras.Sequential:
    """Build the model of a recipe; the model maps ids int32 [B, T] to logits float32 [B, T, V].

    If ``B`` is given, the model is for training. It contains the regularization layers, and its LSTM layers can carry
    their state from batch to batch. If ``B`` is None, the model is for inference, and each call begins with a zero
    state. An inference model contains only standard Keras layers, except for attention, a tied output, an ensemble and
    a pointer-generator. The training model and the inference model have the same weights in the same order.

    The arguments of the LSTM layers allow Keras to use cuDNN on a GPU. All steps of a window share one dropout mask
    (Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks", 2016). An
    ensemble or a pointer-generator is a single layer that contains its members.

    Args:
        settings: the recipe of the model.
        V: vocabulary size.
        B: batch size, summed over all workers; None for inference. Each worker builds the model for its own rows.
        T: window length in time steps; None for any length.
        training: options of a model for training; None for the defaults.
        layer_units: H of each LSTM layer; empty if all layers have the H of the recipe.

    Returns:
        The model, with new random weights.
    """
    sizes = _Sizes(V, B, T, layer_units or (settings.units,) * settings.layers)
    training = training or TrainingOptions()
    if settings.members == 1 and not settings.copy:
        return _member(settings, sizes, training, name="lstmgen")
    members = [_member(settings, sizes, training, name=f"member_{k}") for k in range(1, settings.members + 1)]
    outer = Pointer(*members, name="pointer") if settings.copy else Ensemble(members, name="ensemble")
    return keras.Sequential([sizes.input(), outer], name="lstmgen")


def _member(settings: recipe.Model, sizes: _Sizes, training: TrainingOptions, name: str) -> keras.Sequential:
    """Build one member of an ensemble or the inner model of a pointer-generator; for other recipes, the whole model."""
    embedding = _embedding(settings, sizes)
    layers: list[keras.layers.Layer] = [sizes.input(), embedding]
    for number, units in enumerate(sizes.layer_units, 1):
        rate = settings.dropout if number > 1 or settings.input_dropout == recipe.AUTO else settings.input_dropout
        layers.append(_dropout(rate, sizes.B, name=f"dropout_{number}"))
        layers.append(_lstm(replace(settings, units=units), training if sizes.trains else None, name=f"lstm_{number}"))
    if settings.attention:
        layers.append(Attention(settings.attention, sizes.rows if training.carries else None, name="attention"))
    layers.append(_dropout(settings.dropout, sizes.B, name="dropout_output"))
    if sizes.trains and settings.activation_regularization > 0:
        layers.append(ActivationRegularization(settings.activation_regularization, name="activation_regularization"))
    layers.append(_output(embedding if settings.tied else None, sizes, training))
    return keras.Sequential(layers, name=name)


def _embedding(settings: recipe.Model, sizes: _Sizes) -> keras.layers.Embedding:
    """Create the embedding layer with its initializer."""
    # Embeddings start with unit variance, because training starts far more slowly with the default range of Keras,
    # ±0.05. A matrix that is shared with the output layer must start with smaller values (Merity et al., "Regularizing
    # and Optimizing LSTM Language Models", 2018).
    initializer = (
        keras.initializers.RandomUniform(-0.1, 0.1) if settings.tied else keras.initializers.RandomNormal(stddev=1.0)
    )
    options = {"embeddings_initializer": initializer, "name": "embedding"}
    if sizes.trains and settings.embedding_dropout > 0:
        return DroppedEmbedding(sizes.V, settings.embedding_size, rate=settings.embedding_dropout, **options)
    return keras.layers.Embedding(sizes.V, settings.embedding_size, **options)


def _dropout(rate: float, B: int | None, name: str) -> keras.layers.Layer:
    """Create a dropout layer in which all time steps of a window have the same mask.

    For training, the layer supports several workers.
    """
    if B is None:
        return keras.layers.SpatialDropout1D(rate, name=name)
    rows = workers.batch_rows(B)
    return SharedDropout(rate, rows=(rows.start, rows.stop, B), name=name)


def _lstm(settings: recipe.Model, training: TrainingOptions | None, name: str) -> keras.layers.LSTM:
    """Create the LSTM layer with the native kernel for training, or ``keras.layers.LSTM`` for inference."""
    if training is None:
        return keras.layers.LSTM(settings.units, return_sequences=True, name=name)
    return LSTM(
        settings.units,
        return_sequences=True,
        stateful=training.carries,
        dtype=dtype_policy(training.precision),
        precision=training.precision,
        weight_drop=settings.weight_drop,
        name=name,
    )


def _output(tied: keras.layers.Embedding | None, sizes: _Sizes, training: TrainingOptions) -> keras.layers.Layer:
    """Create the output layer; if ``tied`` is not None, the output layer uses the weights of this embedding."""
    options: dict[str, Any] = {"precision": training.precision, "in_loss": training.in_loss, "name": "output"}
    if tied is not None:
        return TiedOutput(tied, **options)
    return Output(sizes.V, **options) if sizes.trains else keras.layers.Dense(sizes.V, name="output")


def parameters(settings: recipe.Model, V: int, layer_units: tuple[int, ...] = ()) -> int:
    """Return the number of parameters of ``build(settings, V)`` without building the model.

    Args:
        settings: the recipe of the model.
        V: vocabulary size.
        layer_units: H of each LSTM layer; empty if all layers have the H of the recipe.

    >>> from keras_lstmgen.config import recipe
    >>> from keras_lstmgen.models.builder import parameters
    >>> parameters(recipe.Model(embedding_size=2, units=3, layers=1), V=5)
    102
    """
    E, units = settings.embedding_size, layer_units or (settings.units,) * settings.layers
    H = units[-1]
    cells = sum(4 * own * (below + own + 1) for below, own in itertools.pairwise([E, *units]))
    heads = 4 * H * SIZE if settings.attention else 0
    output = V if settings.tied else H * V + V
    gate = H + 1 if settings.copy else 0
    return settings.members * (V * E + cells + heads + output + gate)


def start_at(model: keras.Sequential, counts: np.ndarray[Any, Any]) -> None:
    """Initialize the output bias of a new model to the logarithms of the token frequencies.

    Without this initialization, the model first learns which ids never occur. In a character vocabulary, for example,
    most byte pieces never occur. The model avoids these ids by saturating its units, and saturated units learn slowly.

    Args:
        model: the model.
        counts: int [V], number of occurrences of each id in the training text.
    """
    minimum = 1e-3  # instead of a count of 0, so that the logit is finite
    for member in members_of(model):
        member.layers[-1].bias.assign(np.log(np.maximum(counts, minimum) / counts.sum()))


def raise_bias_of(model: keras.Sequential, ids: Sequence[int], counts: np.ndarray[Any, Any]) -> None:
    """Raise the output bias of ids that earlier texts never contained to the logarithms of their frequencies.

    The bias of such an id is very low (``start_at``), and a training with a low learning rate would need many updates
    to raise it.

    Args:
        model: the model, with trained weights.
        ids: ids that the weights have never been trained to generate.
        counts: int [V], number of occurrences of each id in the new training text.
    """
    found = np.array([token for token in ids if counts[token] > 0], np.int64)
    for member in members_of(model):
        bias = member.layers[-1].bias.numpy()
        bias[found] = np.maximum(bias[found], np.log(counts[found] / counts.sum()))
        member.layers[-1].bias.assign(bias)
