"""The pointer that was measured is the one of its page: the equations, alike in training, in scoring and in writing."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the benchmarks are no package that is installed
from benchmarks import pointer
from keras_lstmgen import evaluation, model, recipe

B, T, E, H, L, M, V = 2, 8, 4, 6, 1, 5, 11
IDS = np.random.default_rng(0).integers(0, V, (B, T)).astype(np.int32)
SETTINGS = recipe.Model(embedding_size=E, units=H, layers=L, dropout=0.0, attention=M)


@pytest.fixture(scope="module")
def pointing() -> pointer.Pointing:
    return pointer.Pointing(model.build(SETTINGS, V, B, None, in_loss=True, carries=False))


def stepped(weights: model.Weights, gate: pointer.Gate | None) -> Any:
    """Probabilities of each next id, float32 [B, T, V], a step at a time."""
    state, slots, found = tf.zeros((B, model.state_size(weights))), tf.zeros((B, M), tf.int32), []
    for t in range(T):
        p, state, slots = pointer.next_token(weights, gate, tf.constant(IDS[:, t]), state, slots)
        found.append(p)
    return tf.stack(found, axis=1).numpy()


def test_what_is_copied_are_the_ids_of_the_slots() -> None:
    looks, slots = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], np.float32), np.array([[4, 1, 4], [0, 2, 2]])
    found = pointer.scattered(tf.constant(looks), tf.constant(slots, tf.int32), 5)
    np.testing.assert_allclose(found, [[0, 0.2, 0, 0, 0.8], [0.5, 0, 0.5, 0, 0]], atol=1e-6)


def test_each_step_has_the_mixture_of_the_page(pointing: pointer.Pointing) -> None:
    h, looks = (np.asarray(part, np.float64) for part in pointing(IDS))
    w, b = (np.asarray(part, np.float64) for part in pointing.gate_now())
    logits = np.asarray(pointing.plain.layers[-1].logits(tf.constant(h, tf.float32)), np.float64)
    words = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    expected = 1 / (1 + np.exp(-(h @ w + b)))
    expected = expected * words + (1 - expected) * (looks @ np.eye(V)[IDS])
    found = stepped(model.weights_of(pointing.plain), pointing.gate_now())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-5)  # all that is copied is a token that was read


def test_it_is_scored_as_it_writes(pointing: pointer.Pointing) -> None:
    logprobs, _ = pointer.scorer(pointing)(IDS, None)
    found = stepped(model.weights_of(pointing.plain), pointing.gate_now())[:, :-1]
    expected = np.log(np.take_along_axis(found, IDS[:, 1:, np.newaxis], axis=2)[..., 0])
    np.testing.assert_allclose(logprobs, expected, atol=1e-4)


def test_with_its_gate_shut_it_is_the_model_of_the_package(pointing: pointer.Pointing) -> None:
    weights, (w, b) = model.weights_of(pointing.plain), pointing.gate_now()
    shut = stepped(weights, (tf.zeros_like(w), b + 40.0))
    np.testing.assert_allclose(shut, stepped(weights, None), atol=1e-6)
    logprobs, _ = evaluation.scorer(weights)(IDS, tf.zeros((B, model.state_size(weights))))
    expected = np.log(np.take_along_axis(shut[:, :-1], IDS[:, 1:, np.newaxis], axis=2)[..., 0])
    np.testing.assert_allclose(logprobs, expected, atol=1e-4)


def test_a_change_of_the_recipe_is_written_as_toml_has_it() -> None:
    base = recipe.load(pointer.RECIPE)
    found = pointer.changed(base, 3, ["model.units=7", 'corpus.field=["1", "3"]'])
    assert (found.training.epochs, found.training.minutes, found.model.units) == (3, 0, 7)
    assert found.corpus.field == ("1", "3")
    assert found.model.attention == base.model.attention


def test_both_sides_are_trained_and_measured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, n in (("train", 24), ("valid", 3)):
        lines = [f"It is said that {k} and {k + 1} meet. They do.\t{k} meets {k + 1}" for k in range(n)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["abstract\tsentence", *lines]) + "\n", encoding="utf-8")
    changes = [
        f'corpus.source=["{tmp_path}/train.tsv"]', f'corpus.validation=["{tmp_path}/valid.tsv"]',
        'corpus.field=["abstract", "sentence"]', 'tokenizer.type="char"', "model.units=9", "model.embedding_size=5",
        "model.attention=30", "training.batch_size=8",
    ]  # fmt: skip
    words = ["--epochs", "2", "--tokens", "5", "--sources", "2", "--results", str(tmp_path), "--change", *changes]
    assert pointer.main(words) == 0
    results = json.loads((tmp_path / "pointer.json").read_text())
    sides = results["sides"]
    assert set(sides) == {"without", "with a pointer"}
    assert len(sides["with a pointer"]["epochs_nats"]) == 2
    assert min(sides["with a pointer"]["epochs_nats"]) == pytest.approx(sides["with a pointer"]["nats_per_token"])
    assert results["rouge"]["first sentence of the source"]["rouge_1"] > 0
    assert "greedy answers, the first 2 sources" in capfd.readouterr().out
