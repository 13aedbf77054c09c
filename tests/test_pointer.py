"""A model that copies has the mixture of its page, alike in training, in scoring, in writing and in every artifact."""

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the benchmarks are no package that is installed
from benchmarks import pointer as benchmark
from keras_lstmgen.config import recipe
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.exporters import export_run
from keras_lstmgen.files import atomic
from keras_lstmgen.layers import pointer_generator
from keras_lstmgen.layers.attention import SIZE
from keras_lstmgen.models import builder, inference_step, run_directory
from keras_lstmgen.training import checkpoint, trainer
from keras_lstmgen.training.losses import PointerGeneratorLoss
from keras_lstmgen.utils.errors import UserError

B, T, E, H, L, M, V = 2, 8, 4, 6, 1, 5, 11
IDS = np.random.default_rng(0).integers(0, V, (B, T)).astype(np.int32)
SETTINGS = recipe.Model(embedding_size=E, units=H, layers=L, dropout=0.0, attention=M, copy=True)


@pytest.fixture(scope="module")
def built() -> keras.Sequential:
    return network()


def network(*sizes: Any, **options: Any) -> keras.Sequential:
    """A model whose gate is open now more, now less."""
    keras.utils.set_random_seed(0)
    made = builder.build(SETTINGS, V, *sizes, **options)
    made.layers[0].gate_now().weights.assign(np.random.default_rng(1).normal(size=(H, 1)) * 5)
    made.layers[0].gate_now().bias.assign([0.0])
    return made


def mixture(made: keras.Sequential) -> Any:
    """The equations, in float64, of what the pointer gives in training: p [B, T, V]."""
    given = np.asarray(made(IDS, training=True), np.float64)
    h, looks, read = given[..., :H], given[..., H : H + T], given[..., H + T :]
    w, b, W, c = (np.asarray(weight, np.float64) for weight in (*made.layers[0].gate_now(), *output(made)))
    g = 1 / (1 + np.exp(-(h @ w + b)))
    words = np.exp(h @ W + c)
    assert 0.01 < g.min() < g.max() - 0.3
    copies = np.einsum("btn,btnv->btv", looks, np.eye(V)[read.astype(int)])
    return g * words / words.sum(axis=2, keepdims=True) + (1 - g) * copies


def output(made: keras.Sequential) -> Any:
    layer = made.layers[0].member.layers[-1]
    return layer.kernel, layer.bias


def test_looks_are_summed_by_the_ids_that_were_read() -> None:
    looks, read = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], np.float32), np.array([[4, 1, 4], [0, 2, 2]], np.int32)
    expected = [[0, 0.2, 0, 0, 0.8], [0.5, 0, 0.5, 0, 0]]
    np.testing.assert_allclose(pointer_generator.sum_by_id(looks, read, 5), expected, atol=1e-7)


def test_its_logits_are_the_logarithm_of_the_mixture(built: keras.Sequential) -> None:
    trains = network(B, None, training=builder.TrainingOptions(in_loss=True, carries=False))
    trains.set_weights(built.get_weights())
    np.testing.assert_allclose(np.exp(built(IDS)), mixture(trains), rtol=1e-4)
    np.testing.assert_allclose(np.exp(built(IDS)).sum(axis=2), 1, atol=1e-5)


@pytest.mark.parametrize(("z", "expected"), [(40.0, [0.2, 0.3, 0.5]), (-40.0, [0.75, 0.0, 0.25])])
def test_a_gate_that_is_wide_open_or_shut_loses_nothing(z: float, expected: list[float]) -> None:
    gate = pointer_generator.Gate(tf.constant([[z]]), tf.constant([0.0]))
    looks, read = tf.constant([[0.25, 0.75]]), tf.constant([[2, 0]])
    found = pointer_generator.with_copies(gate, tf.ones((1, 1)), tf.math.log([[0.2, 0.3, 0.5]]), looks, read).numpy()[0]
    np.testing.assert_allclose(np.exp(found), expected, atol=1e-6)
    likely = np.log(0.3) + min(z, 0.0)  # of what no place holds
    assert found[1] == pytest.approx(likely, rel=1e-6)


def test_step_by_step_equals_the_whole_sequence(built: keras.Sequential) -> None:
    weights = inference_step.weights_of(built)
    state, whole = tf.zeros((B, inference_step.state_size(weights))), built(IDS)
    assert inference_step.state_size(weights) == 2 * L * H + M * (2 * SIZE + 1)  # no more than without copying
    for t in range(T):
        logits, state = inference_step.step(weights, IDS[:, t], state)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-4)


def test_it_is_scored_as_it_writes_over_a_cut_too(built: keras.Sequential) -> None:
    weights, nothing = (
        inference_step.weights_of(built),
        tf.zeros((B, inference_step.state_size(inference_step.weights_of(built)))),
    )
    slow, end = inference_step.score(weights, tf.constant(IDS), nothing)
    first, between = likelihood.scorer(weights)(tf.constant(IDS[:, :4]), nothing)
    second, last = likelihood.scorer(weights)(tf.constant(IDS[:, 3:]), between)
    np.testing.assert_allclose(tf.concat([first, second], axis=1), slow, atol=1e-4)
    np.testing.assert_allclose(last, end, atol=1e-4)


@pytest.mark.parametrize("length", [T, None])  # batches of pairs differ in length
def test_it_learns_from_the_loss_of_the_mixture(length: int | None) -> None:
    made = network(B, length, training=builder.TrainingOptions(in_loss=True, carries=False))
    targets, counts = np.roll(IDS, -1, axis=1), np.random.default_rng(2).integers(0, 2, (B, T)).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([B, length], tf.int32)])
    def loss(ids: Any) -> Any:
        return PointerGeneratorLoss(made.layers[0])(targets, made(ids, training=True), counts)

    with tf.GradientTape() as tape:
        nats = loss(IDS)
    p = np.take_along_axis(mixture(made), targets[..., np.newaxis], axis=2)[..., 0]
    assert float(nats) == pytest.approx(-(np.log(p) * counts).mean(), abs=1e-5)
    gradients = tape.gradient(nats, made.trainable_variables)
    assert all(np.abs(tf.convert_to_tensor(gradient)).max() > 0 for gradient in gradients)


@pytest.mark.slow
def test_a_checkpoint_keeps_the_gate(copying: Path, tmp_path: Path) -> None:
    chosen = recipe.load(copying / run_directory.RECIPE)
    one, other = (trainer.compile_model(chosen, np.ones(V)) for _ in range(2))
    one.layers[0].gate_now().bias.assign([3.0])
    checkpoint.save(tmp_path, one, checkpoint.Progress(text="x"))
    checkpoint.load(tmp_path, other, "x")
    np.testing.assert_array_equal(one(IDS), other(IDS))


@pytest.fixture(scope="module")
def copying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose targets are a name of their sources, with all artifacts; no name is in training and in validation."""
    folder = tmp_path_factory.mktemp("copies")
    draw = np.random.default_rng(3)
    names = ["".join(draw.choice(list("abcdefgh"), 4)) for _ in range(500)]
    rows = [{"text": f"It is {name} who comes.", "who": name} for name in names]
    for name, part in {"train": rows[:400], "valid": rows[400:]}.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)), encoding="utf-8")
    settings = recipe.override(recipe.Recipe(), {
        "corpus.source": [str(folder / "train.jsonl")], "corpus.validation": [str(folder / "valid.jsonl")],
        "corpus.documents": "jsonl", "corpus.field": ["text", "who"], "model.embedding_size": 8, "model.units": 16,
        "model.layers": 1, "model.dropout": 0.0, "model.attention": 30, "model.copy": True, "training.batch_size": 16,
        "training.epochs": 8, "training.learning_rate": 0.02, "export.texts": 10, "export.tokens": 8,
    })  # fmt: skip
    made = trainer.train(settings, folder / "runs", "copying").folder
    export_run.export(made, settings.export)
    return made


@pytest.mark.slow
def test_it_writes_names_that_it_has_never_seen(copying: Path) -> None:
    plain = recipe.override(recipe.load(copying / run_directory.RECIPE), {"model.copy": False})
    without = trainer.train(plain, copying.parent, "without").folder
    copies, learns = (atomic.read_json(folder / "metrics.json")["validation"] for folder in (copying, without))
    assert copies["nats_per_token"] < 0.5 * learns["nats_per_token"]


@pytest.mark.slow
def test_every_artifact_writes_the_texts_of_keras(copying: Path) -> None:
    record = atomic.read_json(copying / "export.json")["artifacts"]
    assert {name: entry["reasons"] for name, entry in record.items()} == {"saved_model": [], "tflite": [], "onnx": []}
    assert all(entry["identical"] == entry["tried"] for entry in record.values())


@pytest.mark.slow
def test_its_model_opens_in_keras_beside_our_layers(copying: Path) -> None:
    opened = keras.saving.load_model(copying / "model.keras")
    np.testing.assert_allclose(opened(IDS), run_directory.load(copying).model(IDS), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model.attention": 0}, "model.copy copies the tokens that attention selects; set model.attention too"),
        ({"training.state": "auto"}, "model.copy needs documents with fresh states"),
        ({"model.members": 2}, "model.copy cannot be combined with model.members above 1"),
        ({"training.sampled_softmax": 9}, "model.copy cannot be combined with training.sampled_softmax"),
    ],
)
def test_what_it_cannot_do_is_said(changes: dict[str, Any], what: str) -> None:
    good = {
        "corpus.documents": "lines", "training.state": "fresh", "model.copy": True, "model.attention": 5,
    }  # fmt: skip
    assert recipe.override(recipe.Recipe(), good).model.copy
    with pytest.raises(UserError, match=what):
        recipe.override(recipe.Recipe(), good | changes)


# the benchmark


def test_a_change_of_the_recipe_is_written_as_toml_has_it() -> None:
    base = recipe.load(benchmark.RECIPE)
    found = benchmark.changed(base, 3, ["model.units=7", 'corpus.field=["1", "3"]'])
    assert (found.training.epochs, found.training.minutes, found.model.units) == (3, 0, 7)
    assert found.corpus.field == ("1", "3")
    assert found.model.attention == base.model.attention


@pytest.mark.slow
def test_both_sides_are_trained_and_measured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, n in (("train", 24), ("valid", 3)):
        lines = [f"It is said that {k} and {k + 1} meet. They do.\t{k} meets {k + 1}" for k in range(n)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["abstract\tsentence", *lines]) + "\n", encoding="utf-8")
    changes = [
        f'corpus.source=["{tmp_path}/train.tsv"]', f'corpus.validation=["{tmp_path}/valid.tsv"]',
        'corpus.field=["abstract", "sentence"]', 'tokenizer.type="char"', "model.units=9", "model.embedding_size=5",
        "model.attention=30", "training.batch_size=8",
    ]  # fmt: skip
    words = ["--epochs", "2", "--tokens", "5", "--results", str(tmp_path), "--change", *changes]
    assert benchmark.main(words) == 0
    sides = json.loads((tmp_path / "pointer.json").read_text())["sides"]
    assert set(sides) == {"without", "with a pointer"}
    for side in sides.values():
        assert len(side["epochs_nats"]) == 2
        assert min(side["epochs_nats"]) == pytest.approx(side["loss"]["nats_per_token"])
    assert sides["without"]["loss"] != sides["with a pointer"]["loss"]
    assert "greedy answers" in capfd.readouterr().out
