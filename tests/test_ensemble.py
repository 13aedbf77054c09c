"""An ensemble writes from the mean of its members' probabilities, and each member learns for itself."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.exporters import export_run
from keras_lstmgen.files import atomic
from keras_lstmgen.layers import ensemble
from keras_lstmgen.models import builder, inference_step, run_directory
from keras_lstmgen.training import checkpoint, trainer
from keras_lstmgen.training.losses import EnsembleLoss
from keras_lstmgen.utils.errors import UserError

B, T, E, H, L, K, V = 2, 7, 4, 6, 1, 3, 11
IDS = np.random.default_rng(0).integers(0, V, (B, T))
SETTINGS = recipe.Model(embedding_size=E, units=H, layers=L, dropout=0.0, members=K)


def softmax(logits: Any) -> Any:
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def test_its_probabilities_are_the_mean_of_its_members() -> None:
    built = builder.build(SETTINGS, V)
    members = ensemble.members_of(built)
    each = [softmax(member(IDS)) for member in members]
    assert len(members) == K
    assert np.ptp(each, axis=0).max() > 1e-3  # they differ
    np.testing.assert_allclose(softmax(built(IDS)), np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(tf.reduce_logsumexp(built(IDS), axis=2), 0, atol=1e-5)  # logarithms of probabilities


def test_step_by_step_equals_the_whole_sequence() -> None:
    built = builder.build(SETTINGS, V)
    weights, S = inference_step.weights_of(built), 2 * K * L * H
    state, whole = tf.zeros((B, S)), built(IDS)
    assert inference_step.state_size(weights) == S
    for t in range(T):
        logits, state = inference_step.step(weights, IDS[:, t], state)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-5)


def test_it_is_scored_as_it_writes() -> None:
    weights = inference_step.weights_of(builder.build(SETTINGS, V))
    nothing = tf.zeros((B, 2 * K * L * H))
    slow, end = inference_step.score(weights, tf.constant(IDS, tf.int32), nothing)
    fast, last = likelihood.scorer(weights)(tf.constant(IDS, tf.int32), nothing)
    np.testing.assert_allclose(fast, slow, atol=1e-5)
    np.testing.assert_allclose(last, end, atol=1e-5)


def test_each_member_learns_from_its_own_loss() -> None:
    built = builder.build(SETTINGS, V, B, T)
    nats = [keras.losses.SparseCategoricalCrossentropy(from_logits=True)(IDS, member(IDS)) for member in
            ensemble.members_of(built)]  # fmt: skip
    for layer in ensemble.layers_of(built):
        if isinstance(layer, keras.layers.LSTM):
            layer.reset_states()
    np.testing.assert_allclose(EnsembleLoss()(IDS, built(IDS, training=True)), np.mean(nats), atol=1e-6)


def test_a_checkpoint_keeps_the_states_of_all_members(settings: recipe.Recipe, tmp_path: Path) -> None:
    chosen = recipe.override(settings, {"model.members": K})
    one, other = (trainer.compile_model(chosen, np.ones(V)) for _ in range(2))
    ids = np.random.default_rng(6).integers(0, V, (chosen.training.batch_size, chosen.training.window))
    one(ids)
    checkpoint.save(tmp_path, one, checkpoint.Progress(text="x"))
    checkpoint.load(tmp_path, other, "x")
    np.testing.assert_array_equal(one(ids), other(ids))


@pytest.fixture(scope="module")
def several(settings: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an ensemble whose members look back, with its artifacts."""
    chosen = recipe.override(settings, {"model.members": K, "model.layers": L, "model.attention": 5})
    folder = trainer.train(chosen, tmp_path_factory.mktemp("runs"), "several").folder
    export_run.export(folder, chosen.export)
    return folder


@pytest.mark.slow
def test_it_is_better_than_each_of_its_members_on_held_out_text(several: Path) -> None:
    loaded = run_directory.load(several)
    ids = np.array(loaded.tokenizer.encode("The value of the expression is the list of its items. " * 20), np.int32)
    whole = likelihood.stream_nll(loaded.weights, ids)
    each = [likelihood.stream_nll(member, ids) for member in inference_step.each_member(loaded.weights)]
    assert whole < np.mean(each)  # the mean of probabilities is never worse than their mean logarithm (Jensen)


@pytest.mark.slow
def test_every_artifact_writes_the_texts_of_keras(several: Path) -> None:
    record = atomic.read_json(several / "export.json")["artifacts"]
    assert {name: entry["reasons"] for name, entry in record.items()} == {"saved_model": [], "tflite": [], "onnx": []}
    assert all(entry["identical"] == entry["tried"] for entry in record.values())


@pytest.mark.slow
def test_its_model_opens_in_keras_beside_our_layers(several: Path) -> None:
    opened = keras.saving.load_model(several / "model.keras")
    ids = np.array([[5, 6, 7, 8, 9]])
    np.testing.assert_allclose(opened(ids), run_directory.load(several).model(ids), atol=1e-6)


@pytest.mark.parametrize(("name", "value"), [("training.sampled_softmax", 9), ("model.activation_regularization", 1)])
def test_what_it_cannot_do_is_said(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name} cannot be combined with model.members"):
        recipe.override(recipe.Recipe(), {"model.members": K, name: value})
