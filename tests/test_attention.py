"""Attention: each step looks at the last M of its own text, in training, in writing and in every artifact."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import export_run
from keras_lstmgen.files import atomic
from keras_lstmgen.layers.attention import SIZE, Attention, Heads, attend, memory_size
from keras_lstmgen.models import builder, inference_step
from keras_lstmgen.training import checkpoint, trainer

B, T, E, H, L, M, V = 2, 7, 4, 6, 2, 3, 11
IDS = np.random.default_rng(0).integers(0, V, (B, T))
SETTINGS = recipe.Model(embedding_size=E, units=H, layers=L, dropout=0.0, attention=M)


def heads() -> Heads:
    dice = np.random.default_rng(1)
    query, key, value, output = dice.normal(size=(4, H, SIZE)).astype(np.float32)
    return Heads(query, key, value, output.T)


def oracle(weights: Heads, h: Any) -> Any:
    """The equations, a step and a row at a time, in float64."""
    out = np.array(h, np.float64)
    for b in range(B):
        for t in range(T):
            seen = h[b, max(0, t - M + 1) : t + 1].astype(np.float64)
            logits = (seen @ weights.key) @ (h[b, t] @ weights.query) / np.sqrt(SIZE)
            shares = np.exp(logits - logits.max())
            out[b, t] += (shares / shares.sum()) @ (seen @ weights.value) @ weights.output
    return out


def test_the_equations_are_those_of_the_page() -> None:
    h = np.random.default_rng(2).normal(size=(B, T, H)).astype(np.float32)
    found, _, looks = attend(heads(), h, np.zeros((B, M, 2 * SIZE + 1), np.float32))
    np.testing.assert_allclose(found, oracle(heads(), h), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(tf.reduce_sum(looks, axis=2), 1, atol=1e-6)
    assert (looks.numpy()[:, :, :M] == 0).all()  # nothing was written there


@pytest.mark.parametrize("cut", range(1, T))
def test_windows_after_each_other_equal_the_whole(cut: int) -> None:
    h = np.random.default_rng(3).normal(size=(B, T, H)).astype(np.float32)
    nothing = np.zeros((B, M, 2 * SIZE + 1), np.float32)
    whole, end, _ = attend(heads(), h, nothing)
    first, between, _ = attend(heads(), h[:, :cut], nothing)
    second, last, _ = attend(heads(), h[:, cut:], between)
    np.testing.assert_allclose(tf.concat([first, second], axis=1), whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(last, end, rtol=1e-4, atol=1e-4)


def test_step_by_step_equals_the_whole_sequence() -> None:
    built = builder.build(SETTINGS, V)
    weights = inference_step.weights_of(built)
    S = 2 * L * H + memory_size(M)
    state, whole = tf.zeros((B, S)), built(IDS, training=False)
    assert inference_step.state_size(weights) == S
    for t in range(T):
        logits, state = inference_step.step(weights, IDS[:, t], state)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-5)


def test_training_carries_the_memory_from_window_to_window_until_it_is_reset() -> None:
    T2 = 4
    ids = np.random.default_rng(4).integers(0, V, (B, 2 * T2))
    carrying, free = builder.build(SETTINGS, V, B, T2), builder.build(SETTINGS, V)
    free.set_weights(carrying.get_weights())
    both = tf.concat([carrying(ids[:, :T2]), carrying(ids[:, T2:])], axis=1)
    np.testing.assert_allclose(both, free(ids), atol=1e-5)
    for layer in carrying.layers:
        if isinstance(layer, Attention | keras.layers.LSTM):
            layer.reset_states()
    np.testing.assert_allclose(carrying(ids[:, :T2]), free(ids[:, :T2]), atol=1e-5)


def test_what_lies_further_back_than_the_memory_is_not_looked_at() -> None:
    h = np.random.default_rng(5).normal(size=(B, T, H)).astype(np.float32)
    nothing, other = np.zeros((B, M, 2 * SIZE + 1), np.float32), h.copy()
    other[:, 0] += 1
    changed = np.abs(attend(heads(), h, nothing)[0] - attend(heads(), other, nothing)[0]).max(axis=(0, 2)) > 1e-6
    assert changed.tolist() == [t < M for t in range(T)]


@pytest.fixture(scope="module")
def attentive(settings: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with attention, exported to every format that writes what Keras writes."""
    chosen = recipe.override(settings, {"model.attention": 9, "training.window": 8})
    folder = trainer.train(chosen, tmp_path_factory.mktemp("runs"), "attentive").folder
    export_run.export(folder, chosen.export)
    return folder


@pytest.mark.slow
def test_every_artifact_writes_the_texts_of_keras(attentive: Path) -> None:
    record = atomic.read_json(attentive / "export.json")["artifacts"]
    assert {name: entry["reasons"] for name, entry in record.items()} == {"saved_model": [], "tflite": [], "onnx": []}
    assert all(entry["identical"] == entry["tried"] for entry in record.values())


def test_a_checkpoint_keeps_the_memory(settings: recipe.Recipe, tmp_path: Path) -> None:
    chosen = recipe.override(settings, {"model.attention": M})
    one, other = (trainer.compile_model(chosen, np.ones(V)) for _ in range(2))
    ids = np.random.default_rng(6).integers(0, V, (chosen.training.batch_size, chosen.training.window))
    one(ids)
    checkpoint.save(tmp_path, one, checkpoint.Progress(text="x"))
    checkpoint.load(tmp_path, other, "x")
    np.testing.assert_array_equal(one(ids), other(ids))
