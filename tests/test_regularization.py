"""Each layer against over-fitting does in training what its source says, and nothing elsewhere."""

import json
import signal
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.config import recipe
from keras_lstmgen.data.token_cache import encode
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.layers.regularization import ActivationRegularization, DroppedEmbedding
from keras_lstmgen.models import builder, run_directory
from keras_lstmgen.system import signals
from keras_lstmgen.training import checkpoint, trainer
from keras_lstmgen.training.callbacks.controller import TrainingController
from keras_lstmgen.training.callbacks.validation import copy_weights
from tests.shown import shown

B, T, E, H, L, V = 3, 17, 5, 12, 2, 40
ALL = {
    "model.weight_drop": 0.3, "model.embedding_dropout": 0.2, "model.activation_regularization": 2.0,
    "model.input_dropout": 0.25, "training.average": 20, "training.sampled_softmax": 9,
}  # fmt: skip


def built(**values: Any) -> keras.Sequential:
    settings = recipe.Model(embedding_size=values.pop("E", E), units=H, layers=L, dropout=0.0, **values)
    return builder.build(settings, V, B, T)


@pytest.fixture(scope="module")
def short(text: Path, settings: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> recipe.Recipe:
    """Two epochs of 52 windows without any regularization, in float32."""
    path = tmp_path_factory.mktemp("short") / "short.txt"
    path.write_text(text.read_text(encoding="utf-8")[:3000], encoding="utf-8")
    values = {"model.dropout": 0.0, "training.precision": "float32", "training.epochs": 2, "training.batch_size": 3}
    return recipe.override(settings, {"corpus.source": str(path), **values})


def history(folder: Path) -> list[dict[str, float]]:
    return list(json.loads((folder / "history.json").read_text()))


def trained_model(folder: Path, settings: recipe.Recipe) -> keras.Sequential:
    """The model that trains, as a run's checkpoint has it."""
    made = trainer.compile_model(settings, np.ones(run_directory.load_metadata(folder).vocab_size, np.int64))
    with zipfile.ZipFile(folder / run_directory.CHECKPOINT) as archive:
        text = json.loads(archive.read("progress.json"))["text"]
    checkpoint.load(folder, made, text)
    return made


# Embedding dropout


def test_embedding_dropout_drops_an_id_wherever_it_occurs_and_scales_the_others() -> None:
    layer = DroppedEmbedding(V, E, rate=0.4, embeddings_initializer="ones")
    ids = np.random.default_rng(0).integers(0, V, (B, 200))
    masks = []
    for _ in range(30):
        outputs = layer(ids, training=True).numpy()
        mask = np.array([outputs[ids == token] for token in range(V)], dtype=object)
        assert all(len(np.unique(rows)) == 1 for rows in mask)  # the same wherever it occurs, in all its numbers
        masks.append([float(rows[0, 0]) for rows in mask])
    assert {round(value, 4) for row in masks for value in row} == {0.0, round(1 / 0.6, 4)}
    assert np.mean(np.array(masks) == 0) == pytest.approx(0.4, abs=0.05)
    assert len({tuple(row) for row in masks}) == 30  # another one for each batch


def test_embedding_dropout_does_nothing_outside_of_training() -> None:
    layer = DroppedEmbedding(V, E, rate=0.4)
    ids = np.arange(V)[np.newaxis]
    np.testing.assert_array_equal(layer(ids)[0], layer.embeddings)


def test_a_tied_output_has_the_whole_matrix_also_while_the_embedding_is_dropped() -> None:
    made = built(E=H, tied=True, embedding_dropout=0.9)
    made.layers[-1].bias.assign(np.zeros(V))
    outputs = tf.ones((B, T, H))
    logits = made.layers[-1](outputs, training=True)
    np.testing.assert_allclose(logits, outputs @ tf.transpose(made.layers[0].embeddings), rtol=1e-5, atol=1e-6)


# Activation regularization


def test_activation_regularization_costs_mean_squares_of_outputs_and_of_their_changes() -> None:
    layer = ActivationRegularization(2.0)
    h = np.random.default_rng(0).normal(size=(B, T, H)).astype(np.float32)
    np.testing.assert_array_equal(layer(h, training=True), h)
    change = np.sum((h[:, 1:] - h[:, :-1]) ** 2) / h.size
    assert float(layer.losses[0]) == pytest.approx(2.0 * np.mean(h**2) + 1.0 * change, rel=1e-5)
    layer(h)
    assert layer.losses == []


def test_a_window_of_one_step_costs_its_outputs_alone() -> None:
    layer = ActivationRegularization(3.0)
    layer(tf.fill((B, 1, H), 2.0), training=True)
    assert float(layer.losses[0]) == pytest.approx(3.0 * 4)


@pytest.mark.slow
def test_the_reported_loss_is_the_likelihood_without_the_penalty(short: recipe.Recipe, tmp_path: Path) -> None:
    still = recipe.override(short, {"training.learning_rate": 0.0})
    plain = trainer.train(still, tmp_path, "plain").folder
    regular = trainer.train(
        recipe.override(still, {"model.activation_regularization": 5.0}), tmp_path, "regular"
    ).folder
    for one, other in zip(history(plain), history(regular), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["val_loss"] == other["val_loss"]


@pytest.mark.slow
def test_the_penalty_makes_the_outputs_smaller(short: recipe.Recipe, tmp_path: Path) -> None:
    def size(strength: float) -> float:
        values = {"model.activation_regularization": strength, "training.learning_rate": 0.02}
        settings = recipe.override(short, values)
        loaded = run_directory.load(trainer.train(settings, tmp_path, "sized").folder)
        layers = keras.Sequential(loaded.model.layers[:-1])
        return float(tf.reduce_mean(layers(np.arange(200)[np.newaxis]) ** 2))

    assert size(20.0) < 0.5 * size(0.0)


# Weight-drop and dropout before the first LSTM


def test_weight_drop_reaches_every_lstm_layer_that_trains() -> None:
    layers = [layer for layer in built(weight_drop=0.3).layers if isinstance(layer, keras.layers.LSTM)]
    assert [layer.weight_drop for layer in layers] == [0.3] * L


def test_input_dropout_is_that_before_the_first_layer_and_dropout_that_of_all_others() -> None:
    def rates(**values: Any) -> list[float]:
        settings = recipe.Model(embedding_size=E, units=H, layers=L, **values)
        return [layer.rate for layer in builder.build(settings, V, B, T).layers if "dropout" in layer.name]

    assert rates(dropout=0.5, input_dropout=0.2) == [0.2, 0.5, 0.5]
    assert rates(dropout=0.5, input_dropout=0.0) == [0.0, 0.5, 0.5]
    assert rates(dropout=0.5) == [0.5, 0.5, 0.5]


# Averaged weights


def test_the_model_that_writes_has_the_moving_average_of_the_weights(short: recipe.Recipe) -> None:
    settings = recipe.override(short, {"training.average": 4, "training.learning_rate": 0.05})
    made, twin = trainer.compile_model(settings, np.ones(V, np.int64)), builder.build(settings.model, V)
    ids = np.random.default_rng(0).integers(0, V, (9, B, T))
    expected: list[np.ndarray[Any, Any]] = []
    for batch in ids:
        made.train_on_batch(batch, np.roll(batch, -1, 1))
        weights = made.get_weights()
        expected = [e * 3 / 4 + w / 4 for e, w in zip(expected or weights, weights, strict=True)]
    copy_weights(made, twin)
    for found, wanted, raw in zip(twin.get_weights(), expected, made.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert np.abs(found - raw).max() > 1e-3


@pytest.mark.slow
def test_averaging_changes_what_is_measured_and_kept_and_not_how_it_trains(
    short: recipe.Recipe, tmp_path: Path
) -> None:
    averaging = recipe.override(short, {"training.average": 15})
    plain, averaged = (
        trainer.train(short, tmp_path, "plain").folder,
        trainer.train(averaging, tmp_path, "averaged").folder,
    )
    for one, other in zip(history(plain), history(averaged), strict=True):
        assert one["loss"] == other["loss"]
        assert one["val_loss"] != other["val_loss"]
    after = trained_model(averaged, averaging).get_weights()
    for one, other in zip(after, trained_model(plain, short).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    kept, held_out = run_directory.load(averaged), encode(short, tmp_path / ".encoded").validation
    nats = likelihood.stream_nll(kept.weights, held_out) / (len(held_out) - 1)
    assert nats == pytest.approx(min(row["val_loss"] for row in history(averaged)), abs=1e-5)


# All of them


def test_a_checkpoint_with_all_of_them_opens_in_keras_s_safe_mode(tmp_path: Path) -> None:
    made = built(weight_drop=0.3, embedding_dropout=0.2, activation_regularization=2.0)
    made.save(tmp_path / "all.keras")
    again = keras.saving.load_model(tmp_path / "all.keras", safe_mode=True)
    assert [layer.get_config() for layer in again.layers] == [layer.get_config() for layer in made.layers]
    ids = np.random.default_rng(0).integers(0, V, (B, T))
    np.testing.assert_array_equal(again(ids), made(ids))


def test_what_is_saved_for_others_has_none_of_them() -> None:
    settings = recipe.Model(
        embedding_size=E, units=H, layers=L, dropout=0.1, weight_drop=0.3, embedding_dropout=0.2,
        activation_regularization=2.0,
    )  # fmt: skip
    twin = builder.build(settings, V)
    assert {type(layer).__module__.split(".")[0] for layer in twin.layers} == {"keras"}
    assert [weight.shape for weight in twin.weights] == [
        weight.shape for weight in builder.build(settings, V, B, T).weights
    ]


@pytest.mark.slow
def test_with_all_of_them_a_run_broken_off_goes_on_as_if_nothing_had_happened(
    short: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe.override(short, ALL)
    straight = trainer.train(settings, tmp_path, "straight").folder
    after = TrainingController.on_train_batch_end

    def wrapped(pace: TrainingController, batch: int, logs: Any = None) -> None:
        after(pace, batch, logs)
        if pace.progress.windows == 70:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, signals.raise_terminated():
        patch.setattr(TrainingController, "on_train_batch_end", wrapped)
        folder = shown(trainer.train, settings, tmp_path, "broken")
    assert [row["windows"] for row in history(folder)] == [52, 70]
    trainer.resume(folder, settings)
    seen = ("windows", "loss", "val_loss")
    assert [[row[key] for key in seen] for row in history(folder)] == [
        [row[key] for key in seen] for row in history(straight)
    ]
    one, other = trained_model(folder, settings), trained_model(straight, settings)
    for mine, theirs in zip(
        [*one.weights, *one.optimizer.variables, *checkpoint.carried_variables(one)],
        [*other.weights, *other.optimizer.variables, *checkpoint.carried_variables(other)],
        strict=True,
    ):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy(), err_msg=mine.path)
