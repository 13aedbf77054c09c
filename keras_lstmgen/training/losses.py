"""Loss functions: exact and sampled cross entropy, and the losses of pointer-generators and ensembles."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lstmgen.config.recipe import Recipe
from keras_lstmgen.layers import native_ops
from keras_lstmgen.layers.compute_dtype import has_gpu
from keras_lstmgen.layers.output import Output, TiedOutput, product
from keras_lstmgen.layers.pointer_generator import NEVER, Pointer, shares


def cross_entropy(ids: Any, products: Any, bias: Any) -> Any:
    """Compute the negative log-likelihood of ids, in nats.

    Uses the native kernel if it is available and no GPU is in use.

    Args:
        ids: int32 [N], the correct tokens.
        products: float32 or bfloat16 [N, V], logits without the bias.
        bias: float32 [V].

    Returns:
        float32 [N].
    """
    if native_ops.library() is None or has_gpu():
        return tf.nn.sparse_softmax_cross_entropy_with_logits(ids, tf.cast(products, tf.float32) + bias)
    return native_ops.cross_entropy(ids, products, bias)


class SampledSoftmax(keras.losses.Loss):
    """Sampled softmax: mean negative log-likelihood with the sum over all V ids estimated from a sample.

    The candidates of a batch are its targets and ``draws`` additional ids. The additional ids are drawn with
    replacement, with probabilities proportional to count ** 0.75. Each candidate is weighted by the inverse of the
    probability that it is a candidate, so the estimated sum is unbiased. The target of a row always has weight 1 in its
    own row.

    ``y_true`` contains ids, int32 [B, T]. ``y_pred`` contains the inputs of the output layer, float32 [B, T, H].

    Sources: Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation", 2015 (shared
    candidates); Horvitz and Thompson, "A Generalization of Sampling Without Replacement from a Finite Universe", 1952
    (inverse probability weighting).

    Args:
        output: output layer of the model.
        counts: int [V], occurrences of each id in the training text.
        draws: number of additional ids per batch.
    """

    FLATTENED = 0.75  # exponent of the counts, as in Mikolov et al., "Distributed Representations of Words", 2013

    def __init__(self, output: Output | TiedOutput, counts: np.ndarray[Any, Any], draws: int) -> None:
        """Create the loss."""
        super().__init__(name="sampled_softmax")
        self.output, self.draws = output, draws
        self.targets = counts / counts.sum()
        flattened = counts**self.FLATTENED
        self.others = flattened / flattened.sum()

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the negative log-likelihood of each target, float32 [B * T]."""
        targets = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        ids, places = tf.unique(tf.concat([targets, self._draw()], axis=0))
        rarity = tf.gather(self._rarity(targets.shape[0]), ids)  # of each candidate
        weights, bias = self.output.part(ids)
        features = tf.reshape(y_pred, [-1, y_pred.shape[-1]])
        products = product(features, weights, self.output.precision, transposed=True)
        labels = places[: targets.shape[0]]
        loss = cross_entropy(labels, products, bias + rarity)
        own = tf.gather(rarity, labels)
        # The sum of this row contains the target with weight exp(own); correct the weight to 1.
        return loss + own + tf.math.log1p(tf.exp(-loss) * tf.math.expm1(-own))

    def _draw(self) -> Any:
        """Draw ids, int32 [draws], by inverting the cumulative distribution."""
        uniform = keras.random.uniform((self.draws,), seed=self.output.draws_seed)
        return tf.searchsorted(tf.constant(np.cumsum(self.others), tf.float32), uniform, side="right")

    def _rarity(self, N: int) -> Any:
        """Return -log of the probability that an id is a candidate, float32 [V], for N targets and all draws."""
        missed = N * np.log1p(-self.targets) + self.draws * np.log1p(-self.others)
        probability = np.maximum(-np.expm1(missed), np.finfo(np.float32).tiny)  # ids with count 0 are never looked up
        return tf.constant(-np.log(probability), tf.float32)


class NegativeLogLikelihood(keras.losses.Loss):
    """Mean negative log-likelihood that computes logits only at positions with a weight above 0.

    With a large vocabulary, the logits and their softmax dominate the cost of an update. In a batch of pairs, fewer
    than half of the positions have a weight, because sources and padding have none.

    Args:
        output: output layer of the model.
    """

    STEP = 128  # the number of positions is rounded up to a multiple, because each new size costs set-up time

    def __init__(self, output: Output | TiedOutput) -> None:
        """Create the loss."""
        super().__init__(name="negative_log_likelihood")
        self.output = output

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Compute the weighted mean loss.

        Args:
            y_true: int32 [B, T], ids.
            y_pred: float32 [B, T, H], inputs of the output layer.
            sample_weight: float32 [B, T], weights of the positions; None for 1 everywhere.

        Returns:
            float32 [], the sum of the weighted losses divided by B * T.
        """
        ids = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        features = tf.reshape(y_pred, [-1, y_pred.shape[-1] or tf.shape(y_pred)[-1]])
        if sample_weight is None:
            return tf.reduce_mean(self.call(ids, features))
        places = tf.where(tf.reshape(sample_weight, [-1]) > 0)[:, 0]
        padding = -tf.size(places) % self.STEP  # padding repeats the first position with weight 0
        at = tf.pad(places, [[0, padding]])
        weights = tf.gather(tf.reshape(sample_weight, [-1]), at)
        weights *= tf.sequence_mask(tf.size(places), tf.size(at), tf.float32)
        loss = self.call(tf.gather(ids, at), tf.gather(features, at))
        return tf.reduce_sum(loss * weights) / tf.cast(tf.size(sample_weight), tf.float32)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the negative log-likelihood, float32 [N], for ids int32 [N] and inputs [N, H]."""
        return cross_entropy(y_true, *self.output.products(y_pred))


class PointerGeneratorLoss(NegativeLogLikelihood):
    """Mean negative log-likelihood of a pointer-generator.

    Args:
        pointer: the layer ``Pointer`` of the model.
    """

    def __init__(self, pointer: Pointer) -> None:
        """Create the loss."""
        super().__init__(pointer.member.layers[-1])
        self.pointer = pointer

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the negative log-likelihood, float32 [N], for ids [N] and training outputs [N, H + 2 T]."""
        gate = self.pointer.gate_now()
        H = int(gate.weights.shape[0])
        h = tf.ensure_shape(y_pred[:, :H], [None, H])
        attention_weights, read = tf.split(y_pred[:, H:], 2, axis=1)
        mass = tf.reduce_sum(
            tf.where(read == tf.cast(y_true, tf.float32)[:, tf.newaxis], attention_weights, 0.0), axis=1
        )
        generated, copied = (tf.squeeze(share, 1) for share in shares(gate, h))
        parts = [generated - super().call(y_true, h), copied + tf.math.log(mass + NEVER)]
        return -tf.reduce_logsumexp(tf.stack(parts), axis=0)


class EnsembleLoss(keras.losses.Loss):
    """Mean over the members of an ensemble of each member's own negative log-likelihood.

    ``y_true`` contains ids, int32 [B, T]. ``y_pred`` contains the logits of all members, float32 [B, T, K, V].
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the mean over the members, float32 [B, T]."""
        K = y_pred.shape[2]
        ids = tf.repeat(tf.cast(y_true, tf.int32)[:, :, tf.newaxis], K, axis=2)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(ids, y_pred), axis=2)


def for_model(model: keras.Sequential, settings: Recipe, token_counts: np.ndarray[Any, Any]) -> keras.losses.Loss:
    """Create the negative log-likelihood of the next ids that fits a model and its recipe.

    Args:
        model: the training model.
        settings: the recipe.
        token_counts: int [V], occurrences of each id in the training text.
    """
    if settings.model.members > 1:
        return EnsembleLoss()
    if settings.training.sampled_softmax:
        return SampledSoftmax(model.layers[-1], token_counts, settings.training.sampled_softmax)
    if settings.model.copy:
        return PointerGeneratorLoss(model.layers[0])
    return NegativeLogLikelihood(model.layers[-1])
