"""Ensemble layer: several members are trained together, and their probabilities are averaged.

Sources: Hansen and Salamon, "Neural Network Ensembles", 1990; Lakshminarayanan, Pritzel and Blundell, "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles", 2017. The members differ in their initial weights and
in their dropout masks. Each member has its own loss. Generation samples from the mean probabilities of the members.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_lstmgen.layers.pointer_generator import Pointer


def mixed(logits: Sequence[Any]) -> Any:
    """Average the probabilities of K models.

    Args:
        logits: K arrays float32 [..., V], one per model.

    Returns:
        float32 [..., V], the logarithms of the mean probabilities.
    """
    logprobs = tf.stack([tf.nn.log_softmax(part) for part in logits])
    return tf.reduce_logsumexp(logprobs, axis=0) - math.log(len(logits))


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Ensemble(keras.layers.Layer):
    """Ensemble layer that maps ids int32 [B, T] to log-probabilities float32 [B, T, V].

    The probabilities are the means over the K members. During training, the layer returns the logits of every member
    instead, float32 [B, T, K, V], because the loss ``losses.EnsembleLoss`` needs them.

    Args:
        members: K models that map ids int32 [B, T] to logits float32 [B, T, V].
        **options: passed to ``keras.layers.Layer``.
    """

    def __init__(self, members: Sequence[keras.Sequential], **options: Any) -> None:
        """Create the layer."""
        super().__init__(**options)
        self.members = list(members)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the log-probabilities; during training, return the logits of every member."""
        logits = [member(inputs, training=training) for member in self.members]
        return tf.stack(logits, axis=2) if training else mixed(logits)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer, including the configurations of its members."""
        return {**super().get_config(), "members": [keras.saving.serialize_keras_object(one) for one in self.members]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Ensemble":
        """Create the layer from its configuration."""
        return cls([keras.saving.deserialize_keras_object(one) for one in config.pop("members")], **config)


def members_of(model: keras.Sequential) -> list[keras.Sequential]:
    """Return the members of a model.

    For an ensemble, the list contains all members. For a pointer-generator, it contains only the inner model. For any
    other model, it contains only the model itself.
    """
    first = model.layers[0]
    if isinstance(first, Pointer):
        return [first.member]
    return list(first.members) if isinstance(first, Ensemble) else [model]


def layers_of(model: keras.Sequential) -> Iterator[keras.layers.Layer]:
    """Iterate over the layers of all members of a model, one member after the other."""
    for member in members_of(model):
        yield from member.layers
