"""Loss functions: exact and sampled cross entropy, and losses for pointer-generator networks and ensembles."""

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
    """Compute the negative log-likelihood of each id, in nats.

    The function uses the native kernel if it is available and no GPU is in use.

    Args:
        ids: int32 [N], the correct ids.
        products: float32 or bfloat16 [N, V], the logits without the bias of the output layer.
        bias: float32 [V], the bias of the output layer.

    Returns:
        The negative log-likelihoods, float32 [N].
    """
    if native_ops.library() is None or has_gpu():
        return tf.nn.sparse_softmax_cross_entropy_with_logits(ids, tf.cast(products, tf.float32) + bias)
    return native_ops.cross_entropy(ids, products, bias)


class SampledSoftmax(keras.losses.Loss):
    """Sampled softmax: a mean negative log-likelihood that computes logits only for a sample of the vocabulary.

    The softmax divides by a sum over all V ids. This loss estimates the sum from the candidates of a batch. The
    candidates are the targets of the batch and ``draws`` additional ids. The additional ids are drawn with replacement,
    with probabilities proportional to ``counts ** 0.75``. Each candidate is weighted by the inverse of the probability
    that it is a candidate, so the estimate is unbiased. In the sum for a target, the target itself has the weight 1.

    The argument ``y_true`` of the loss contains the target ids, int32 [B, T]. The argument ``y_pred`` contains the
    inputs of the output layer, float32 [B, T, H].

    Sources: Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation", 2015 (shared
    candidates); Horvitz and Thompson, "A Generalization of Sampling Without Replacement from a Finite Universe", 1952
    (inverse probability weighting).

    Args:
        output: output layer of the model.
        counts: int [V], number of occurrences of each id in the training text.
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
        rarity = tf.gather(self._rarity(targets.shape[0]), ids)  # one number per candidate
        weights, bias = self.output.part(ids)
        features = tf.reshape(y_pred, [-1, y_pred.shape[-1]])
        products = product(features, weights, self.output.precision, transposed=True)
        labels = places[: targets.shape[0]]
        loss = cross_entropy(labels, products, bias + rarity)
        own = tf.gather(rarity, labels)
        # In the estimated sum, the target of a row has the weight exp(own). This expression changes the weight to 1.
        return loss + own + tf.math.log1p(tf.exp(-loss) * tf.math.expm1(-own))

    def _draw(self) -> Any:
        """Draw the additional ids, int32 [draws]. The function inverts their cumulative distribution."""
        uniform = keras.random.uniform((self.draws,), seed=self.output.draws_seed)
        return tf.searchsorted(tf.constant(np.cumsum(self.others), tf.float32), uniform, side="right")

    def _rarity(self, N: int) -> Any:
        """For each id, return -log of the probability that it is a candidate in a batch of N targets, float32 [V]."""
        missed = N * np.log1p(-self.targets) + self.draws * np.log1p(-self.others)
        probability = np.maximum(-np.expm1(missed), np.finfo(np.float32).tiny)  # above 0 for ids that never occur
        return tf.constant(-np.log(probability), tf.float32)


class NegativeLogLikelihood(keras.losses.Loss):
    """Mean negative log-likelihood that computes logits only for positions with a sample weight above 0.

    If the vocabulary is large, the logits and their softmax take most of the time of a training step. In a batch of
    pairs, more than half of the positions usually have the weight 0, because they belong to sources or padding.

    Args:
        output: output layer of the model.
    """

    STEP = 128  # the number of positions is rounded up to a multiple of STEP, because a new number needs set-up time

    def __init__(self, output: Output | TiedOutput) -> None:
        """Create the loss."""
        super().__init__(name="negative_log_likelihood")
        self.output = output

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Compute the weighted mean loss.

        Args:
            y_true: int32 [B, T], the target ids.
            y_pred: float32 [B, T, H], the inputs of the output layer.
            sample_weight: float32 [B, T], the weight of each position. None for a weight of 1 at each position.

        Returns:
            The sum of the weighted losses divided by B * T, as a float32 scalar.
        """
        ids = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        features = tf.reshape(y_pred, [-1, y_pred.shape[-1] or tf.shape(y_pred)[-1]])
        if sample_weight is None:
            return tf.reduce_mean(self.call(ids, features))
        places = tf.where(tf.reshape(sample_weight, [-1]) > 0)[:, 0]
        padding = -tf.size(places) % self.STEP  # the padding is position 0 with a weight of 0
        at = tf.pad(places, [[0, padding]])
        weights = tf.gather(tf.reshape(sample_weight, [-1]), at)
        weights *= tf.sequence_mask(tf.size(places), tf.size(at), tf.float32)
        loss = self.call(tf.gather(ids, at), tf.gather(features, at))
        return tf.reduce_sum(loss * weights) / tf.cast(tf.size(sample_weight), tf.float32)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the negative log-likelihood of each id, float32 [N].

        Args:
            y_true: int32 [N], the target ids.
            y_pred: float32 [N, H], the inputs of the output layer.
        """
        return cross_entropy(y_true, *self.output.products(y_pred))


class PointerGeneratorLoss(NegativeLogLikelihood):
    """Mean negative log-likelihood of a pointer-generator network.

    Args:
        pointer: the ``Pointer`` layer of the model.
    """

    def __init__(self, pointer: Pointer) -> None:
        """Create the loss."""
        super().__init__(pointer.member.layers[-1])
        self.pointer = pointer

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the negative log-likelihood of each id.

        Args:
            y_true: int32 [N], the target ids.
            y_pred: float32 [N, H + 2 T], the outputs of ``Pointer`` during training. Each row contains the H inputs of
                the output layer, the attention weights of the T time steps, and the ids of these time steps.

        Returns:
            The negative log-likelihoods in nats, float32 [N].
        """
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
    """Mean of the negative log-likelihoods of the members of an ensemble.

    The argument ``y_true`` of the loss contains the target ids, int32 [B, T]. The argument ``y_pred`` contains the
    logits of all K members, float32 [B, T, K, V].
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """For each position, return the mean loss of the K members, float32 [B, T]."""
        K = y_pred.shape[2]
        ids = tf.repeat(tf.cast(y_true, tf.int32)[:, :, tf.newaxis], K, axis=2)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(ids, y_pred), axis=2)


def for_model(model: keras.Sequential, settings: Recipe, token_counts: np.ndarray[Any, Any]) -> keras.losses.Loss:
    """Create the loss for a model and its recipe. Every loss is a mean negative log-likelihood of the next ids.

    Args:
        model: the training model.
        settings: the recipe of the model.
        token_counts: int [V], number of occurrences of each id in the training text.
    """
    if settings.model.members > 1:
        return EnsembleLoss()
    if settings.training.sampled_softmax:
        return SampledSoftmax(model.layers[-1], token_counts, settings.training.sampled_softmax)
    if settings.model.copy:
        return PointerGeneratorLoss(model.layers[0])
    return NegativeLogLikelihood(model.layers[-1])
