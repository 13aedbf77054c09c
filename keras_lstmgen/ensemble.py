"""Several models in one, side by side: what one of them has learned by heart, the others have not.

Sources: Hansen and Salamon, "Neural Network Ensembles", 1990; Lakshminarayanan, Pritzel and Blundell, "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles", 2017. Members differ by their first weights and by the
dropout that each draws. Each learns for itself; what is written is drawn from the mean of their probabilities.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_lstmgen.pointer import Pointer


def mixed(logits: Sequence[Any]) -> Any:
    """The logarithm of the mean of K probabilities, float32 [..., V], from K times logits [..., V]."""
    logprobs = tf.stack([tf.nn.log_softmax(part) for part in logits])
    return tf.reduce_logsumexp(logprobs, axis=0) - math.log(len(logits))


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Ensemble(keras.layers.Layer):
    """K models of int32 [B, T] to logits [B, T, V]; together they give ``mixed`` logits.

    In training it gives those of each, [B, T, K, V], for ``loss.EachMember``.
    """

    def __init__(self, members: Sequence[keras.Sequential], **options: Any) -> None:
        """Take the members."""
        super().__init__(**options)
        self.members = list(members)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Ask all of them."""
        logits = [member(inputs, training=training) for member in self.members]
        return tf.stack(logits, axis=2) if training else mixed(logits)

    def get_config(self) -> dict[str, Any]:
        """Add the members."""
        return {**super().get_config(), "members": [keras.saving.serialize_keras_object(one) for one in self.members]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Ensemble":
        """Build the members again."""
        return cls([keras.saving.deserialize_keras_object(one) for one in config.pop("members")], **config)


def members_of(model: keras.Sequential) -> list[keras.Sequential]:
    """The members of a model; one that is no ensemble is its own, and one that copies what its pointer holds."""
    first = model.layers[0]
    if isinstance(first, Pointer):
        return [first.member]
    return list(first.members) if isinstance(first, Ensemble) else [model]


def layers_of(model: keras.Sequential) -> Iterator[keras.layers.Layer]:
    """The layers of all members."""
    for member in members_of(model):
        yield from member.layers
