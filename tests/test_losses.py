"""Losses that make few logits: estimated from a part of the vocabulary, right on average; of what counts, exact."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen import recipe, run, training
from keras_lstmgen.layers import Output, TiedOutput
from keras_lstmgen.loss import Counted, SampledSoftmax

B, T, H, V = 3, 5, 7, 40
COUNTS = np.arange(1, V + 1)[::-1] ** 2


def outputs(tied: bool) -> Output | TiedOutput:
    """A built output layer with weights and biases that are no zeros."""
    keras.utils.set_random_seed(1)
    embedding = keras.layers.Embedding(V, H)
    embedding.build()
    layer = TiedOutput(embedding, in_loss=True) if tied else Output(V, in_loss=True)
    layer.build((B, T, H))
    for weight in (*layer.weights, *embedding.weights):
        weight.assign(keras.random.normal(weight.shape, seed=len(weight.shape)))
    return layer


def a_batch(dice: np.random.Generator) -> tuple[Any, Any]:
    """Features [B, T, H], and targets [B, T] as frequent as ``COUNTS`` says."""
    features = tf.constant(dice.normal(size=(B, T, H)), tf.float32)
    return features, dice.choice(V, (B, T), p=COUNTS / COUNTS.sum())


@pytest.mark.parametrize("tied", [False, True])
def test_with_all_ids_among_the_candidates_loss_and_gradient_are_exact(tied: bool) -> None:
    layer = outputs(tied)
    (features, targets), loss = a_batch(np.random.default_rng(2)), SampledSoftmax(layer, COUNTS, draws=200_000)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features)
        estimated = loss(targets, layer(features, training=True))
        exact = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(targets, layer(features))
    assert float(estimated) == pytest.approx(float(exact), rel=1e-5)
    for what in (features, *layer.trainable_variables):
        what = getattr(what, "value", what)
        got, wanted = (tf.convert_to_tensor(tape.gradient(value, what)) for value in (estimated, exact))
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("counting", [0.0, 0.4, 1.0])
def test_the_loss_of_what_counts_alone_is_that_of_all_with_weights(tied: bool, counting: float) -> None:
    layer, dice = outputs(tied), np.random.default_rng(4)
    (features, targets), loss = a_batch(dice), Counted(layer)
    weights = tf.constant((dice.random((B, T)) < counting) * dice.uniform(0.1, 2, (B, T)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features)
        counted = loss(targets, layer(features, training=True), weights)
        exact = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(targets, layer(features), weights)
    assert float(counted) == pytest.approx(float(exact), rel=1e-5)
    for what in (features, *layer.trainable_variables):
        what = getattr(what, "value", what)
        got, wanted = (tf.convert_to_tensor(tape.gradient(value, what)) for value in (counted, exact))
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_the_estimated_sum_over_the_vocabulary_is_right_on_average() -> None:
    layer, dice = outputs(tied=False), np.random.default_rng(3)
    loss, ratios = SampledSoftmax(layer, COUNTS, draws=10), []
    features, _ = a_batch(dice)
    for _ in range(400):
        _, targets = a_batch(dice)
        exact = tf.nn.sparse_softmax_cross_entropy_with_logits(targets.ravel(), tf.reshape(layer(features), [-1, V]))
        ratios.append(np.mean(np.exp(loss.call(targets, features) - exact)))  # of the sums: the target's logit cancels
    assert np.std(ratios) > 0.05
    assert np.mean(ratios) == pytest.approx(1, abs=4 * float(np.std(ratios)) / len(ratios) ** 0.5)


def test_a_run_learns_by_it_and_is_measured_exactly(settings: recipe.Recipe, tmp_path: Path) -> None:
    values = {"training.learning_rate": 0.02, "training.epochs": 3, "model.units": 16, "tokenizer.type": "word"}
    settings = recipe.override(settings, {**values, "tokenizer.vocab_size": 300})
    losses = {}
    for draws in (0, 50):
        folder = training.train(recipe.override(settings, {"training.sampled_softmax": draws}), tmp_path, f"n{draws}")
        losses[draws] = run.load_metadata(folder).metrics["validation"]["nats_per_token"]
    assert losses[0] != losses[50]
    assert losses[0] == pytest.approx(losses[50], abs=0.1)
