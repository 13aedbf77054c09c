"""Losses: the negative log-likelihood, from a part of a large vocabulary, of what counts, of copies, of members."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lstmgen import kernel
from keras_lstmgen.layers import Output, TiedOutput, has_gpu, product
from keras_lstmgen.pointer import NEVER, Pointer, shares


def nats_of(ids: Any, products: Any, bias: Any) -> Any:
    """The negative log-likelihood [N] of ids int32 [N] by the logits ``products + bias``, [N, V] and float32 [V].

    In compiled code, where it is here and no GPU does it.
    """
    if kernel.library() is None or has_gpu():
        return tf.nn.sparse_softmax_cross_entropy_with_logits(ids, tf.cast(products, tf.float32) + bias)
    return kernel.nats(ids, products, bias)


class SampledSoftmax(keras.losses.Loss):
    """The mean negative log-likelihood of the targets, its sum over all V ids estimated from the candidates of a batch.

    Sources: Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation", 2015, for the shared
    candidates; Horvitz and Thompson, 1952, for the estimate of a sum from a part of its terms.

    Candidates are all targets of the batch and ``draws`` ids more, drawn with replacement, each as often as the power
    0.75 of its count in the training text. A candidate stands for as many ids as its probability of being one has in
    1, so that the estimated sum is right on average; a target, which is always a candidate of its own row, for itself.

    ``y_true`` are ids [B, T], ``y_pred`` what the output layer is given: float32 [B, T, H].
    """

    FLATTENED = 0.75  # as the negative samples of Mikolov et al., "Distributed Representations of Words", 2013

    def __init__(self, output: Output | TiedOutput, counts: np.ndarray[Any, Any], draws: int) -> None:
        """Take the layer that has the weights, and how often the training text has each id: int [V]."""
        super().__init__(name="sampled_softmax")
        self.output, self.draws = output, draws
        self.targets = counts / counts.sum()
        flattened = counts**self.FLATTENED
        self.others = flattened / flattened.sum()

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Give the negative log-likelihood of each target, [B * T]."""
        targets = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        ids, places = tf.unique(tf.concat([targets, self._draw()], axis=0))
        rarity = tf.gather(self._rarity(targets.shape[0]), ids)  # of each candidate
        weights, bias = self.output.part(ids)
        features = tf.reshape(y_pred, [-1, y_pred.shape[-1]])
        products = product(features, weights, self.output.precision, turned=True)
        labels = places[: targets.shape[0]]
        nats = nats_of(labels, products, bias + rarity)
        own = tf.gather(rarity, labels)
        # In the sum of this row the target has counted exp(own) times; it is to count once.
        return nats + own + tf.math.log1p(tf.exp(-nats) * tf.math.expm1(-own))

    def _draw(self) -> Any:
        """Ids int32 [draws]: where uniform numbers fall among the cumulative probabilities."""
        uniform = keras.random.uniform((self.draws,), seed=self.output.draws_seed)
        return tf.searchsorted(tf.constant(np.cumsum(self.others), tf.float32), uniform, side="right")

    def _rarity(self, N: int) -> Any:
        """-log of the probability of each id to be among the targets of N rows or the draws: float32 [V], 0: sure."""
        missed = N * np.log1p(-self.targets) + self.draws * np.log1p(-self.others)
        found = np.maximum(-np.expm1(missed), np.finfo(np.float32).tiny)  # an id that is never met is never asked for
        return tf.constant(-np.log(found), tf.float32)


class NegativeLogLikelihood(keras.losses.Loss):
    """The mean negative log-likelihood, whose logits are made here, and only where a target counts.

    Logits of a large vocabulary and their softmax are most of the work there is. Of a batch of pairs less than half of
    the places count: neither sources nor padding.
    """

    STEP = 128  # places are counted in these, so that products come in few sizes: each is prepared for at first

    def __init__(self, output: Output | TiedOutput) -> None:
        """Take the layer that has the weights."""
        super().__init__(name="negative_log_likelihood")
        self.output = output

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Ids [B, T], what the output layer is given [B, T, H], and the weights of the losses [B, T], or none."""
        ids = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        features = tf.reshape(y_pred, [-1, y_pred.shape[-1] or tf.shape(y_pred)[-1]])
        if sample_weight is None:
            return tf.reduce_mean(self.call(ids, features))
        places = tf.where(tf.reshape(sample_weight, [-1]) > 0)[:, 0]
        blank = -tf.size(places) % self.STEP  # they ask for the first place again, with no weight
        at = tf.pad(places, [[0, blank]])
        weights = tf.gather(tf.reshape(sample_weight, [-1]), at)
        weights *= tf.sequence_mask(tf.size(places), tf.size(at), tf.float32)
        nats = self.call(tf.gather(ids, at), tf.gather(features, at))
        return tf.reduce_sum(nats * weights) / tf.cast(tf.size(sample_weight), tf.float32)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Give the negative log-likelihood [N] of ids int32 [N], from [N, H]."""
        return nats_of(y_true, *self.output.products(y_pred))


class Copied(NegativeLogLikelihood):
    """That of a ``Pointer``: the mean negative log-likelihood of the targets by what it writes and copies."""

    def __init__(self, pointer: Pointer) -> None:
        """Take the layer that has the weights."""
        super().__init__(pointer.member.layers[-1])
        self.pointer = pointer

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Give the negative log-likelihood [N] of ids [N], from what the pointer gives in training, [N, H + 2 T]."""
        gate = self.pointer.gate_now()
        H = int(gate.weights.shape[0])
        h = tf.ensure_shape(y_pred[:, :H], [None, H])
        looks, read = tf.split(y_pred[:, H:], 2, axis=1)
        mass = tf.reduce_sum(tf.where(read == tf.cast(y_true, tf.float32)[:, tf.newaxis], looks, 0.0), axis=1)
        written, copied = (tf.squeeze(share, 1) for share in shares(gate, h))
        parts = [written - super().call(y_true, h), copied + tf.math.log(mass + NEVER)]
        return -tf.reduce_logsumexp(tf.stack(parts), axis=0)


class EachMember(keras.losses.Loss):
    """The negative log-likelihood that each member has by itself, in the mean: [B, T].

    ``y_true`` are ids [B, T], ``y_pred`` the logits of the members, float32 [B, T, K, V].
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Give the mean over the members."""
        K = y_pred.shape[2]
        ids = tf.repeat(tf.cast(y_true, tf.int32)[:, :, tf.newaxis], K, axis=2)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(ids, y_pred), axis=2)
