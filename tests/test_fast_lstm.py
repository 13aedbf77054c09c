"""The LSTM with its own kernel is Keras's LSTM: values, states, gradients."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen import kernel, layers, threads

E, H = 5, 7
SHAPES = [(4, 6), (6, 9), (1, 8), (3, 1), (1, 1)]  # B, T


def pair(B: int, T: int, E: int = E, H: int = H, **arguments: Any) -> tuple[keras.layers.LSTM, keras.layers.LSTM]:
    """Ours and Keras's, with the same random weights."""
    random = np.random.default_rng(B * T)
    weights = [random.normal(0, H**-0.5, shape) for shape in ((E, 4 * H), (H, 4 * H), (4 * H,))]
    both = []
    own = {key: arguments.pop(key) for key in ("precision", "weight_drop") if key in arguments}
    for kind, options in ((layers.LSTM, arguments | own), (keras.layers.LSTM, arguments)):
        layer = kind(H, return_sequences=True, return_state=True, **options)
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


def test_it_is_keras_s_where_the_kernel_was_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "library", lambda: None)
    monkeypatch.setattr(kernel, "lstm", lambda *_: pytest.fail("the kernel was used"))
    mine, theirs = pair(2, 3)
    x = tf.random.stateless_normal((2, 3, E), (1, 2))
    np.testing.assert_array_equal(mine(x)[0], theirs(x)[0])
    assert not kernel.has_bfloat16()


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
def test_any_number_of_threads_gives_the_same(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    B, T = 13, 6
    x = tf.random.stateless_normal((B, T, E), (1, 2))
    mine, theirs = pair(B, T)
    expected = results(theirs, x, [])
    monkeypatch.setattr(threads, "available", lambda: cores)
    monkeypatch.setattr(kernel, "TEXTS_A_THREAD", 1)
    for wanted, found in zip(expected, results(mine, x, []), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "avx2", "avx512"])
@pytest.mark.parametrize(("B", "T", "E", "H"), [(1, 1, 3, 2), (5, 4, 33, 17), (13, 3, 65, 150)])
def test_every_kind_of_processor_computes_the_same(kind: str, B: int, T: int, E: int, H: int) -> None:
    if not kernel.choose(kind):
        pytest.skip(f"this processor has no {kind}")
    try:
        x = tf.random.stateless_normal((B, T, E), (1, 2))
        both = reversed(pair(B, T, E, H))
        for wanted, found in zip(*(results(layer, x, []) for layer in both), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    finally:
        kernel.choose("best")


needs_bfloat16 = pytest.mark.skipif(not kernel.has_bfloat16(), reason="this processor does not multiply bfloat16")
ROUNDING = 2.0**-9  # half a unit in the last of bfloat16's 8 places: the largest relative error of an operand


@needs_bfloat16
def test_bfloat16_stays_within_the_rounding_of_its_operands() -> None:
    """Two rounded operands make a product wrong by at most 2u + u^2 of itself; sigmoid' <= 1/4 and tanh' <= 1."""
    B, T = 6, 1
    random = np.random.default_rng(1)
    x, h, c = (tf.constant(random.normal(size=size), tf.float32) for size in ((B, T, E), (B, H), (B, H)))
    theirs, mine = pair(B, T)[1], pair(B, T, precision="bfloat16")[0]
    W, U, _ = (np.abs(weights) for weights in theirs.get_weights())
    by_z = (2 * ROUNDING + ROUNDING**2) * (np.abs(x[:, 0]) @ W + np.abs(h) @ U) + 1e-6
    i, f, g, o = np.split(by_z, 4, axis=1)
    by_c = np.abs(c) * f / 4 + i / 4 + g
    expected, found = results(theirs, x, [h, c]), results(mine, x, [h, c])
    assert np.all(np.abs(found[2] - expected[2]) <= by_c)
    assert np.all(np.abs(found[1] - expected[1]) <= o / 4 + by_c)
    assert np.any(np.abs(found[1] - expected[1]) > 1e-5)  # it did round
    for wanted, value in zip(expected[3:], found[3:], strict=True):  # three products one after the other
        assert np.linalg.norm(value - wanted) <= 3 * 2 * ROUNDING * np.linalg.norm(wanted)


@needs_bfloat16
def test_auto_is_bfloat16_here_and_a_gradient_of_a_window_stays_near() -> None:
    B, T = 6, 9
    x = tf.random.stateless_normal((B, T, E), (1, 2))
    auto, named, theirs = (
        results(layer, x, []) for layer in (pair(B, T, precision="auto")[0], *pair(B, T, precision="bfloat16"))
    )
    for wanted, value, again in zip(theirs, named, auto, strict=True):
        np.testing.assert_array_equal(again, value)
        assert np.linalg.norm(value - wanted) <= T * 2 * ROUNDING * np.linalg.norm(wanted)


def test_weight_drop_is_one_mask_of_the_recurrent_kernel_and_none_when_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    B, T = 4, 6
    x = tf.random.stateless_normal((B, T, E), (1, 2))
    mine, theirs = pair(B, T, weight_drop=0.4)
    np.testing.assert_allclose(mine(x)[0], theirs(x)[0], atol=1e-6)
    W, U, b = mine.get_weights()
    mask = (np.random.default_rng(3).random(U.shape) > 0.4) / 0.6
    monkeypatch.setattr(keras.random, "dropout", lambda weights, rate, **_: weights * mask if rate == 0.4 else None)
    theirs.set_weights([W, U * mask, b])
    expected, found = results(theirs, x, []), results(mine, x, [], training=True)
    expected[-2] *= mask  # a weight that was dropped has no gradient, another one scaled up
    for wanted, value in zip(expected, found, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)
    monkeypatch.setattr(kernel, "library", lambda: None)  # what the parent does with the mask
    for wanted, value in zip(expected, results(mine, x, [], training=True), strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_weight_drop_draws_anew_each_window() -> None:
    layer = pair(2, 3, weight_drop=0.5)[0]
    x = tf.random.stateless_normal((2, 3, E), (1, 2))
    assert not np.allclose(layer(x, training=True)[0], layer(x, training=True)[0])


def test_a_saved_model_with_it_loads_again_and_either_loads_the_other_s_weights(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((None, E)), layers.LSTM(H, precision="auto", weight_drop=0.2)])
    model.save(tmp_path / "ours.keras")
    loaded = keras.models.load_model(tmp_path / "ours.keras", safe_mode=True)
    assert loaded.layers[0].get_config() == model.layers[0].get_config()
    theirs = keras.Sequential([keras.Input((None, E)), keras.layers.LSTM(H)])
    theirs.set_weights(model.get_weights())
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    model.load_weights(tmp_path / "theirs.weights.h5")


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
@pytest.mark.parametrize("tied", [False, True])
def test_an_output_gives_dense_s_logits_and_gradients(precision: str, tied: bool) -> None:
    B, T, V = 3, 4, 11
    embedding = keras.layers.Embedding(V, E)
    embedding.build((B, T))
    output = layers.TiedOutput(embedding, precision=precision) if tied else layers.Output(V, precision=precision)
    output.build((B, T, E))
    kernel_of = embedding.embeddings if tied else output.kernel
    x = tf.random.stateless_normal((B, T, E), (1, 2))
    weights = kernel_of.numpy().T if tied else kernel_of.numpy()
    logits = output(x)
    bound = 0 if precision == "float32" else 4 * ROUNDING  # of both operands and of the sum
    np.testing.assert_allclose(logits, x.numpy() @ weights, atol=1e-5 + bound * np.max(np.abs(x) @ np.abs(weights)))
    assert logits.dtype == "float32"


def test_a_window_too_large_for_the_memory_is_an_error_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "library", lambda: type("Library", (), {"lstm_sizes": lambda *_: -1}))
    with pytest.raises(MemoryError, match="lstm_sizes"):
        kernel._forward(False, np.zeros((2, 3, E), np.float32), np.zeros((2, H), np.float32))
