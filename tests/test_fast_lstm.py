"""The LSTM with its own kernel is Keras's LSTM: values, states, gradients."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen import kernel, layers

E, H = 5, 7
SHAPES = [(4, 6), (6, 9), (1, 8), (3, 1), (1, 1)]  # B, T


def pair(B: int, T: int, **arguments: Any) -> tuple[keras.layers.LSTM, keras.layers.LSTM]:
    """Ours and Keras's, with the same random weights."""
    random = np.random.default_rng(B * T)
    weights = [random.normal(0, 0.5, shape) for shape in ((E, 4 * H), (H, 4 * H), (4 * H,))]
    both = []
    for kind in (layers.LSTM, keras.layers.LSTM):
        layer = kind(H, return_sequences=True, return_state=True, **arguments)
        layer.build((B, T, E))
        layer.set_weights(weights)
        both.append(layer)
    return both[0], both[1]


def results(layer: keras.layers.LSTM, x: Any, state: Any, training: bool = False) -> list[Any]:
    """Outputs and states, and the gradients of an uneven sum of them by inputs, states and weights."""
    inputs = [x, *state]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y, h, c = layer(x, initial_state=state or None, training=training)
        total = tf.reduce_sum(y * tf.reshape(tf.cos(tf.cast(tf.range(tf.size(y)), tf.float32)), tf.shape(y)))
        total += tf.reduce_sum(h * 0.3) + tf.reduce_sum(c * c)
    variables = [weight.value for weight in layer.trainable_variables]
    return [y, h, c, *tape.gradient(total, inputs + variables)]


@pytest.mark.parametrize(("B", "T"), SHAPES)
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "initial state"])
def test_values_states_and_gradients_are_those_of_keras(B: int, T: int, given: bool) -> None:
    random = np.random.default_rng(1)
    x = tf.constant(random.normal(size=(B, T, E)), tf.float32)
    state = [tf.constant(random.normal(size=(B, H)), tf.float32) for _ in range(2)] if given else []
    for mine, theirs in zip(*(results(layer, x, state) for layer in pair(B, T)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_the_same_also_inside_a_compiled_function_of_open_shape() -> None:
    mine, theirs = pair(4, 6)
    x = tf.random.stateless_normal((4, 6, E), (1, 2))
    call = tf.function(lambda x: mine(x)[0], input_signature=[tf.TensorSpec([None, None, E])])
    np.testing.assert_allclose(call(x), theirs(x)[0], atol=1e-6)


def test_a_stateful_layer_carries_on_as_keras_s_does() -> None:
    mine, theirs = pair(4, 3, stateful=True)
    for seed in range(3):
        x = tf.random.stateless_normal((4, 3, E), (seed, 0))
        np.testing.assert_allclose(mine(x)[0], theirs(x)[0], atol=1e-5)


def test_its_dropout_is_one_mask_for_all_steps_and_zero_when_writing() -> None:
    mine, theirs = pair(4, 6, dropout=0.5, seed=3)
    x = tf.random.stateless_normal((4, 6, E), (1, 2))
    for expected, found in zip(results(theirs, x, [], training=True), results(mine, x, [], training=True), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(mine(x)[0], theirs(x)[0], atol=1e-6)


@pytest.mark.parametrize("unusual", [{"recurrent_dropout": 0.1}, {"go_backwards": True}, {"activation": "relu"}])
def test_arguments_that_the_kernel_does_not_know_go_to_keras(unusual: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "lstm", lambda *_: pytest.fail("the kernel was used"))
    mine, theirs = pair(2, 3, **unusual)
    x = tf.random.stateless_normal((2, 3, E), (1, 2))
    np.testing.assert_allclose(mine(x)[0], theirs(x)[0], atol=1e-6)


def test_a_batch_is_cut_into_parts_that_divide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [kernel.parts_of(B) for B in (None, 1, 2, 3, 6, 8, 7)] == [1, 1, 2, 3, 3, 4, 1]
