"""The cell is the textbook's: values, states and gradients of a NumPy LSTM written from the gate equations."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.models import builder, inference_step

B, T, E, H, V = 2, 4, 3, 5, 7
Array = np.ndarray[Any, Any]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm(x: Array, h: Array, c: Array, W: Array, U: Array, b: Array) -> tuple[Array, Array, Array]:
    """Inputs [B, T, E] and a state [B, H] twice; outputs [B, T, H] and the last state. All float64."""
    outputs = []
    for t in range(x.shape[1]):
        z = x[:, t] @ W + h @ U + b
        input_gate, forget_gate, output_gate = (
            sigmoid(z[:, :H]),
            sigmoid(z[:, H : 2 * H]),
            sigmoid(z[:, 3 * H :]),
        )
        candidate = np.tanh(z[:, 2 * H : 3 * H])
        c = forget_gate * c + input_gate * candidate
        h = output_gate * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1), h, c


def loss(parameters: list[Array], ids: Array, targets: Array) -> float:
    """The mean negative log-likelihood, from equations alone."""
    embedding, W, U, b, output, output_bias = parameters
    h, _, _ = lstm(embedding[ids], np.zeros((B, H)), np.zeros((B, H)), W, U, b)
    logits = h @ output + output_bias
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return float(-np.take_along_axis(logprobs, targets[..., None], axis=-1).mean())


@pytest.fixture(scope="module")
def built() -> keras.Sequential:
    keras.utils.set_random_seed(1)
    settings = recipe.Model(embedding_size=E, units=H, layers=1, dropout=0.0)
    built = builder.build(settings, V)
    random = np.random.default_rng(2)
    built.set_weights([random.normal(0, 0.5, weight.shape) for weight in built.get_weights()])
    return built


def parameters_of(built: keras.Sequential) -> list[Array]:
    return [np.asarray(weight, np.float64) for weight in built.get_weights()]


def test_values_and_states_of_the_step_are_those_of_the_equations(built: keras.Sequential) -> None:
    random = np.random.default_rng(3)
    embedding, W, U, b, output, output_bias = parameters_of(built)
    ids, h, c = random.integers(0, V, (B, T)), random.normal(size=(B, H)), random.normal(size=(B, H))
    expected, last_h, last_c = lstm(embedding[ids], h, c, W, U, b)
    weights, state = inference_step.weights_of(built), tf.constant(np.concatenate([h, c], axis=1), tf.float32)
    for t in range(T):
        logits, state = inference_step.step(weights, ids[:, t], state)
        np.testing.assert_allclose(logits, expected[:, t] @ output + output_bias, atol=1e-5)
    np.testing.assert_allclose(state, np.concatenate([last_h, last_c], axis=1), atol=1e-5)


def test_gradients_of_the_model_are_the_finite_differences_of_the_equations(built: keras.Sequential) -> None:
    random = np.random.default_rng(4)
    ids, targets = random.integers(0, V, (B, T)), random.integers(0, V, (B, T))
    with tf.GradientTape() as tape:
        nats = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(targets, built(ids, training=True))
    gradients = tape.gradient(nats, [variable.value for variable in built.trainable_variables])
    parameters = parameters_of(built)
    assert float(nats) == pytest.approx(loss(parameters, ids, targets), abs=1e-6)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        expected = np.zeros_like(parameter)
        for place in np.ndindex(parameter.shape):
            expected[place] = central_difference(parameters, parameter, place, ids, targets)
        np.testing.assert_allclose(tf.convert_to_tensor(gradient), expected, atol=2e-5)


def central_difference(parameters: list[Array], parameter: Array, place: Any, ids: Array, targets: Array) -> float:
    value, step = parameter[place], 1e-5
    parameter[place] = value + step
    above = loss(parameters, ids, targets)
    parameter[place] = value - step
    below = loss(parameters, ids, targets)
    parameter[place] = value
    return (above - below) / (2 * step)


def test_forget_gates_begin_open_with_a_bias_of_one() -> None:
    settings = recipe.Model(embedding_size=E, units=H, layers=2, dropout=0.0)
    biases = [cell.bias.numpy() for cell in inference_step.weights_of(builder.build(settings, V)).cells]
    for bias in biases:
        np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], H))
