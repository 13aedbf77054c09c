"""Losses that make the logits: exact, of what counts alone, or estimated from a part of them, right on average."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.layers import native_ops
from keras_lstmgen.layers.output import Output, TiedOutput
from keras_lstmgen.models import run_directory
from keras_lstmgen.system import cpu
from keras_lstmgen.training import trainer
from keras_lstmgen.training.losses import NegativeLogLikelihood, SampledSoftmax, cross_entropy

B, T, H, V = 3, 5, 7, 40
COUNTS = np.arange(1, V + 1)[::-1] ** 2
HALF_A_UNIT = 2.0**-8  # of a bfloat16: most that rounding to it is off, relatively


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("kind", [tf.float32, tf.bfloat16], ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 65), (6, 1_000), (9, 4_099), (0, 4)], ids=str)
def test_likelihoods_and_gradients_are_those_of_the_equations(
    shape: tuple[int, int], kind: tf.DType, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64; with logits so far apart that many have no part in the sum."""
    monkeypatch.setattr(cpu, "available", lambda: cores)
    dice = np.random.default_rng(shape[1])
    products = tf.cast(dice.normal(size=shape) * 30, kind)
    bias, by = (tf.constant(dice.normal(size=size), tf.float32) for size in (shape[1], shape[0]))
    ids = dice.integers(shape[1], size=shape[0])
    with tf.GradientTape() as tape:
        tape.watch([products, bias])
        nats = cross_entropy(tf.constant(ids, tf.int32), products, bias)
        total = tf.reduce_sum(nats * by)
    logits = tf.cast(products, tf.float64).numpy() + bias.numpy()
    log_sum = np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    np.testing.assert_allclose(nats, (log_sum - logits[np.arange(len(ids)), ids][:, None])[:, 0], rtol=1e-6, atol=1e-5)
    wanted = by.numpy()[:, None] * (np.exp(logits - log_sum) - (np.arange(shape[1]) == ids[:, None]))
    of_products, of_bias = tape.gradient(total, [products, bias])
    assert of_products.dtype == kind
    bound = 1e-5 if kind == tf.float32 else HALF_A_UNIT + 1e-5
    np.testing.assert_allclose(tf.cast(of_products, tf.float64), wanted, rtol=bound, atol=1e-6)
    np.testing.assert_allclose(of_bias, wanted.sum(axis=0), rtol=1e-5, atol=1e-5)


def test_a_likelihood_of_no_number_is_none_and_an_id_that_is_no_id_is_refused() -> None:
    none, far = float("nan"), float("inf")
    logits, bias = tf.constant([[1.0, none], [far, 2.0], [-far, 3.0]]), tf.zeros(2)
    for kind in (tf.float32, tf.bfloat16):
        np.testing.assert_array_equal(
            cross_entropy(tf.constant([0, 1, 1]), tf.cast(logits, kind), bias), [none, none, 0.0]
        )
    for wrong in (-1, 2):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=f"labels from {wrong} .* from 0 to 1"):
            cross_entropy(tf.constant([wrong]), logits[:1], bias)


@pytest.mark.parametrize("kind", [tf.float32, tf.bfloat16], ids=lambda kind: kind.name)
def test_without_compiled_code_likelihoods_are_tensorflow_s(kind: tf.DType, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, bias = tf.constant([2, 0]), tf.constant([0.5, -1.0, 2.0])
    products = tf.cast(tf.random.stateless_normal((2, 3), (1, 2)), kind)
    expected = cross_entropy(ids, products, bias)
    monkeypatch.setattr(native_ops, "library", lambda: None)
    monkeypatch.setattr(native_ops, "cross_entropy", lambda *_: pytest.fail("the code was called"))
    np.testing.assert_allclose(cross_entropy(ids, products, bias), expected, rtol=1e-6)


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
    (features, targets), loss = a_batch(dice), NegativeLogLikelihood(layer)
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
    for _ in range(200):
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
        sampled = recipe.override(settings, {"training.sampled_softmax": draws})
        folder = trainer.train(sampled, tmp_path, f"n{draws}").folder
        losses[draws] = run_directory.load_metadata(folder).metrics["validation"]["nats_per_token"]
    assert losses[0] != losses[50]
    assert losses[0] == pytest.approx(losses[50], abs=0.1)
