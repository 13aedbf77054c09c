"""The Sequential that trains and the step that writes are one model."""

import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.models import builder, inference_step
from keras_lstmgen.training import checkpoint

B, T, E, H, L, V = 2, 6, 4, 5, 3, 11
IDS = np.random.default_rng(0).integers(0, V, (B, T))


def settings(tied: bool = False, dropout: float = 0.0) -> recipe.Model:
    return recipe.Model(embedding_size=H if tied else E, units=H, layers=L, dropout=dropout, tied=tied)


@pytest.mark.parametrize("tied", [False, True])
def test_step_by_step_equals_the_whole_sequence(tied: bool) -> None:
    built = builder.build(settings(tied), V)
    weights, state = inference_step.weights_of(built), tf.zeros((B, 2 * L * H))
    whole = built(IDS, training=False)
    assert inference_step.state_size(weights) == 2 * L * H
    for t in range(T):
        logits, state = inference_step.step(weights, IDS[:, t], state)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_a_large_vocabulary_s_products_are_added_up_in_parts_to_the_same(
    tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    E, H = (24, 24) if tied else (12, 24)
    whole = inference_step.weights_of(
        builder.build(recipe.Model(embedding_size=E, units=H, layers=L, dropout=0.0, tied=tied), V)
    )
    assert inference_step.in_parts(whole) is whole
    monkeypatch.setattr(inference_step, "LARGE", V)
    parts = inference_step.in_parts(whole)
    assert [len(parts.cells[0].kernel), len(parts.cells[1].recurrent), len(parts.output)] == [8 if tied else 4, 8, 8]
    assert inference_step.state_size(parts) == inference_step.state_size(whole)
    state = tf.random.stateless_normal((B, 2 * L * H), [1, 2])
    for one, other in zip(
        inference_step.step(parts, IDS[:, 0], state), inference_step.step(whole, IDS[:, 0], state), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_in_parts_is_the_product(transposed: bool) -> None:
    dice, n, m = np.random.default_rng(3), 512, 700
    x, matrix = dice.normal(0, 1, (3, n)).astype(np.float32), dice.normal(0, 1, (n, m)).astype(np.float32)
    true = x.astype(np.float64) @ matrix.astype(np.float64)
    stored, axis = (matrix.T, 1) if transposed else (matrix, 0)
    parts = tuple(tf.constant(part) for part in np.split(stored, inference_step.PARTS, axis))
    np.testing.assert_allclose(inference_step._product(tf.constant(x), parts, transposed), true, atol=1e-4)


def test_score_is_the_log_softmax_of_the_sequence_at_the_next_tokens() -> None:
    built = builder.build(settings(), V)
    built.layers[-1].kernel.assign(built.layers[-1].kernel * 40)  # so that some tokens are nearly certain
    logprobs, _ = inference_step.score(
        inference_step.weights_of(built), tf.constant(IDS, tf.int32), tf.zeros((B, 2 * L * H))
    )
    expected = tf.nn.log_softmax(built(IDS, training=False))
    np.testing.assert_allclose(
        logprobs, [[expected[b, t, IDS[b, t + 1]] for t in range(T - 1)] for b in range(B)], atol=1e-6
    )


def test_a_window_scored_after_another_equals_both_scored_at_once() -> None:
    weights, ids = inference_step.weights_of(builder.build(settings(), V)), tf.constant(IDS, tf.int32)
    whole, end = inference_step.score(weights, ids, tf.zeros((B, 2 * L * H)))
    first, between = inference_step.score(weights, ids[:, :3], tf.zeros((B, 2 * L * H)))
    second, last = inference_step.score(weights, ids[:, 2:], between)
    np.testing.assert_allclose(tf.concat([first, second], axis=1), whole, atol=1e-6)
    np.testing.assert_allclose(last, end, atol=1e-6)


def test_training_carries_the_state_from_window_to_window() -> None:
    built = builder.build(settings(), V, B, T // 2)
    first, second = built(IDS[:, : T // 2]), built(IDS[:, T // 2 :])
    free = builder.build(settings(), V)
    free.set_weights(built.get_weights())
    np.testing.assert_allclose(tf.concat([first, second], axis=1), free(IDS), atol=1e-6)


def test_one_dropout_mask_serves_all_steps_of_a_window() -> None:
    layer = next(layer for layer in builder.build(settings(dropout=0.5), V).layers if "dropout" in layer.name)
    kept = layer(tf.ones((B, T, H)), training=True).numpy() > 0
    assert 0 < kept.mean() < 1
    np.testing.assert_array_equal(kept, np.repeat(kept[:, :1], T, axis=1))


def test_every_lstm_layer_meets_the_conditions_of_cudnn() -> None:
    layers = [layer for layer in builder.build(settings(), V).layers if isinstance(layer, keras.layers.LSTM)]
    assert len(layers) == L
    for layer in layers:
        config = layer.get_config()
        assert (config["activation"], config["recurrent_activation"], config["use_bias"]) == (
            "tanh",
            "sigmoid",
            True,
        )
        assert (config["recurrent_dropout"], config["unroll"]) == (0, False)


def test_tied_output_and_embedding_are_one_matrix_also_after_loading_in_safe_mode(tmp_path: Path) -> None:
    built = builder.build(settings(tied=True), V)
    built.save(tmp_path / "tied.keras")
    again = keras.saving.load_model(tmp_path / "tied.keras", safe_mode=True)
    assert again.layers[-1].embedding is again.layers[0]
    assert sum("embedding" in variable.path for variable in again.trainable_variables) == 1
    np.testing.assert_array_equal(again(IDS), built(IDS))


def test_a_file_that_names_something_else_as_the_embedding_is_refused() -> None:
    layer = builder.build(settings(tied=True), V).layers[-1]
    config = layer.get_config() | {"embedding": keras.saving.serialize_keras_object(keras.layers.Dense(3))}
    with pytest.raises(TypeError, match="Embedding"):
        type(layer).from_config(config)


def test_a_checkpoint_brings_back_weights_optimizer_states_and_progress(tmp_path: Path) -> None:
    built = builder.build(settings(dropout=0.5), V, B, T)
    built.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    built.fit(IDS, np.roll(IDS, -1, 1), batch_size=B, epochs=2, verbose=0, shuffle=False)
    checkpoint.save(tmp_path, built, checkpoint.Progress(windows=2, seconds=1.5, best=0.5))
    again = builder.build(settings(dropout=0.5), V, B, T)
    again.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    again.optimizer.build(again.trainable_variables)
    progress, complaint = checkpoint.load(tmp_path, again, text="")
    assert complaint == ""
    assert (progress.windows, progress.seconds, progress.best) == (2, 1.5, 0.5)
    assert len([value for value in checkpoint.carried_variables(again) if value.shape == (B, H)]) == 2 * L
    dropouts = {id(layer.seed_generator.state) for layer in again.layers if "dropout" in layer.name}
    assert len(dropouts & {id(value) for value in checkpoint.carried_variables(again)}) == L + 1
    for mine, theirs in zip(
        [*again.trainable_variables, *again.optimizer.variables, *checkpoint.carried_variables(again)],
        [*built.trainable_variables, *built.optimizer.variables, *checkpoint.carried_variables(built)],
        strict=True,
    ):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    with zipfile.ZipFile(tmp_path / "checkpoint.keras") as archive:
        assert archive.testzip() is None


def test_a_new_model_begins_with_the_frequencies_of_the_text() -> None:
    built, counts = builder.build(settings(), V), np.array([0, 5, 1, 0, 2, 2, 0, 0, 0, 9, 1])
    built.layers[-1].kernel.assign(np.zeros((H, V)))
    builder.start_at(built, counts)
    np.testing.assert_allclose(tf.nn.softmax(built(IDS))[0, 0], counts / 20, atol=1e-3)
