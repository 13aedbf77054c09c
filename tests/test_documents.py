"""A document that fits into a window is read by itself: from the empty state from which one is written too."""

import contextlib
import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.config import auto_sizes, recipe
from keras_lstmgen.data import example_batches, token_cache
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.evaluation.report import evaluate
from keras_lstmgen.files import atomic
from keras_lstmgen.models import builder, inference_step, run_directory
from keras_lstmgen.tokenizers.tokenizer import END, NEWLINE, START
from keras_lstmgen.training import checkpoint, trainer
from keras_lstmgen.utils.errors import UserError
from tests.shown import shown

V, E, H, B, T = 23, 5, 7, 4, 19
texts = st.lists(st.lists(st.integers(NEWLINE, V - 1), max_size=30), min_size=1, max_size=25)
LINES = ["the sun", "a moon rises", "stars, and no moon", "night"] * 20


def laid(made: list[list[int]]) -> np.ndarray[Any, Any]:
    """The ids of a corpus."""
    return np.array([token for text in made for token in [START, *text, END]], np.uint16)


@pytest.fixture
def lines(tmp_path: Path) -> recipe.Recipe:
    """A recipe on short lines, some twenty of them held out."""
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(f"{line} {n}" for n, line in enumerate(LINES)), encoding="utf-8")
    values = {
        "corpus.source": str(path), "corpus.documents": "lines", "corpus.validation_fraction": 0.25,
        "model.embedding_size": E, "model.units": H, "model.layers": 1, "model.dropout": 0.0, "training.batch_size": B,
        "training.window": 40, "training.epochs": 2, "training.precision": "float32",
    }  # fmt: skip
    return recipe.override(recipe.Recipe(), values)


def trained(settings: recipe.Recipe, runs: Path, **values: object) -> tuple[Path, str]:
    """A run, and what was said."""
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        folder = shown(trainer.train, recipe.override(settings, values), runs, "run")
    return folder, screen.getvalue()


@given(texts)
def test_all_of_a_document_but_its_start_is_to_be_predicted(made: list[list[int]]) -> None:
    found = example_batches.find_documents(laid(made))
    assert example_batches.count(found) == len(made)
    assert example_batches.target_tokens(found) == sum(len(text) + 1 for text in made)
    part = example_batches.padded_batch(found, np.arange(len(made)), 1000)
    for row, text in enumerate(made):
        assert part.ids[row, : len(text) + 1].tolist() == [START, *text]
        assert part.next_ids[row, : len(text) + 1].tolist() == [*text, END]
        assert part.weights[row].tolist() == [1.0] * (len(text) + 1) + [0.0] * (part.ids.shape[1] - len(text) - 1)


@given(texts, st.integers(1, 12))
def test_one_that_is_too_long_loses_its_end(made: list[list[int]], most: int) -> None:
    part = example_batches.padded_batch(example_batches.find_documents(laid(made)), np.arange(len(made)), most)
    for row, text in enumerate(made):
        whole = [START, *text, END]
        assert part.next_ids[row, : int(part.weights[row].sum())].tolist() == whole[1 : most + 1]


@given(texts, st.floats(0.0, 0.5))
def test_so_many_are_no_longer_than_what_is_called_the_longest(made: list[list[int]], share: float) -> None:
    longest = example_batches.length_quantile(example_batches.find_documents(laid(made)), share)
    lengths = [len(text) + 1 for text in made]
    assert longest in lengths
    assert sum(length > longest for length in lengths) <= share * len(made) + 1e-9


def test_the_measured_loss_is_that_of_each_by_itself() -> None:
    dice = np.random.default_rng(2)
    made = [dice.integers(4, V, n % 9).tolist() for n in range(17)]
    built = builder.build(recipe.Model(embedding_size=E, units=H, layers=2, dropout=0.0, attention=4), V)
    weights, alone = inference_step.weights_of(built), 0.0
    for text in made:
        ids = np.array([[START, *text, END]])
        alone += float(
            tf.reduce_sum(
                keras.losses.sparse_categorical_crossentropy(ids[:, 1:], built(ids[:, :-1]), from_logits=True)
            )
        )
    together = likelihood.examples_nll(weights, example_batches.find_documents(laid(made)), likelihood.scorer(weights))
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize(("longest", "state"), [(T, "fresh"), (T + 1, "carried")])
def test_whether_they_are_is_chosen_by_the_longest(longest: int, state: str) -> None:
    settings = recipe.override(recipe.Recipe(), {"corpus.documents": "lines", "training.window": T})
    assert auto_sizes.choose(settings, 10_000, V, longest)["training.state"] == state
    given = recipe.override(settings, {"training.state": "carried"})
    assert "training.state" not in auto_sizes.choose(given, 10_000, V, longest)


def test_what_was_trained_so_is_measured_so(lines: recipe.Recipe, tmp_path: Path) -> None:
    folder, said = trained(lines, tmp_path)
    assert "--training.state fresh" in said
    made = run_directory.load(folder)
    report = evaluate(made, [], samples=0, sample_tokens=1)
    metrics = made.metadata.metrics
    assert metrics is not None
    for name, value in metrics["validation"].items():
        assert report["loss"][name] == pytest.approx(value, rel=1e-5), name
    assert metrics["validation_tokens_scored"] == report["counts"]["tokens"] - report["counts"]["documents"]


def test_no_layer_carries_a_state_then(lines: recipe.Recipe) -> None:
    counts = np.ones(V, np.int64)
    for state, carries in (("fresh", False), ("carried", True)):
        made = trainer.compile_model(recipe.override(lines, {"training.state": state}), counts)
        carrying = [layer.stateful for layer in made.layers if isinstance(layer, checkpoint.CARRYING)]
        assert any(carrying) == carries


def test_the_order_of_the_held_out_documents_does_not_matter(lines: recipe.Recipe, tmp_path: Path) -> None:
    made = run_directory.load(trained(lines, tmp_path)[0])
    losses = []
    for name, held_out in (("one", ["moon", "a star 3", "the night"]), ("two", ["the night", "moon", "a star 3"])):
        (tmp_path / name).write_text("\n".join(held_out), encoding="utf-8")
        report = evaluate(made, [str(tmp_path / name)], samples=0, sample_tokens=1)
        losses.append(report["loss"]["nats_per_token"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_window_that_is_too_short_for_them_is_told(lines: recipe.Recipe, tmp_path: Path) -> None:
    folder, said = trained(lines, tmp_path, **{"training.window": 10})
    assert "--training.state carried" in said
    assert "of the documents have at most 22 tokens, and a window has 10" in " ".join(said.split())
    assert "--training.window 22" in said
    assert recipe.load(folder / run_directory.RECIPE).carries


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"training.state": "fresh"}, "training.state = 'fresh' cannot be combined with corpus.documents = 'stream'"),
        (
            {"corpus.documents": "pairs", "training.state": "carried"},
            "'carried' cannot be combined with corpus.documents",
        ),
        (
            {"corpus.documents": "lines", "training.state": "fresh", "training.sampled_softmax": 9},
            "training.sampled_softmax cannot be combined with training.state = 'fresh'",
        ),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        recipe.override(recipe.Recipe(), values)


def test_the_boundaries_of_the_examples_are_found_once_in_each_split(
    lines: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole training of two epochs: choice of sizes, batches, validations and metrics."""
    find, lengths = example_batches.find_documents, list[int]()

    def counted(ids: Any) -> example_batches.Examples:
        lengths.append(len(ids))
        return find(ids)

    monkeypatch.setattr(example_batches, "find_documents", counted)
    folder = trainer.train(recipe.override(lines, {"training.epochs": 2}), tmp_path, "counted").folder
    monkeypatch.undo()
    assert len(atomic.read_json(folder / "history.json")) == 2
    encoded = token_cache.encode(recipe.load(folder / "recipe.toml"), tmp_path / ".encoded")
    assert lengths == [len(encoded.train), len(encoded.validation)]
    assert lengths[0] != lengths[1]
