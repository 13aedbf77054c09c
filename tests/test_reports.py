"""A report gives the loss of the whole held-out text, and says truly what of the samples stands in training."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.cli.display import evaluation_report
from keras_lstmgen.config import recipe
from keras_lstmgen.data import splits
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.evaluation.report import evaluate
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import UserError


def test_the_loss_is_that_of_the_held_out_text_in_every_unit(trained: Path, text: Path) -> None:
    """Against Keras's own layers, the text read in one piece."""
    model = run_directory.load(trained)
    report = evaluate(model, [], samples=0, sample_tokens=1)
    held_out = text.read_text(encoding="utf-8")[10_800:]
    ids = model.tokenizer.encode(held_out)
    logprobs = tf.nn.log_softmax(tf.function(model.model)(ids[np.newaxis, :-1])[0]).numpy()
    nats = -float(np.sum(logprobs[np.arange(len(ids) - 1), ids[1:]], dtype=np.float64))
    rest = held_out[1:]
    assert report["loss"] == pytest.approx(
        {
            "nats_per_token": nats / (len(ids) - 1),
            "bits_per_character": nats / math.log(2) / len(rest),
            "bits_per_byte": nats / math.log(2) / len(rest.encode()),
            "perplexity": math.exp(nats / (len(ids) - 1)),
            "word_perplexity": math.exp(nats / len(held_out.split())),
            "nats_per_token_fresh_windows": likelihood.windows_cross_entropy(model.weights, ids),
        },
        rel=1e-5,
    )
    assert report["counts"]["characters"] == 1200
    assert report["text"] == "held-out text of the run"
    assert "samples" not in report


def test_training_and_evaluation_agree_on_the_best_loss(trained: Path, trained_lines: Path) -> None:
    for folder in (trained, trained_lines):
        loss = evaluate(run_directory.load(folder), [], 0, 1)["loss"]["nats_per_token"]
        history = json.loads((folder / "history.json").read_text())
        assert loss == pytest.approx(min(row["val_loss"] for row in history), abs=1e-5)


def test_given_texts_are_measured_instead_as_one_text(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The first part, ")
    (tmp_path / "b.txt").write_text("and the second one.\n")
    model = run_directory.load(trained)
    report = evaluate(model, [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], 0, 1)
    ids = model.tokenizer.encode("The first part, \nand the second one.\n")  # each file begins on its own line
    assert report["loss"]["nats_per_token"] == pytest.approx(likelihood.stream_nll(model.weights, ids) / (len(ids) - 1))
    assert report["text"] == f"{tmp_path}/a.txt, {tmp_path}/b.txt"
    assert report["counts"] == {
        "characters": 37, "bytes": 37, "words": 7, "documents": 1, "tokens": 37, "unknown": 0,
    }  # fmt: skip


def test_documents_are_measured_between_their_symbols(trained_lines: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the moon\nthe frost\n")
    model = run_directory.load(trained_lines)
    report = evaluate(model, [str(tmp_path / "a.txt")], 0, 1)
    start, end, encode = model.metadata.start_id, model.metadata.end_id, model.tokenizer.encode
    each = [np.array([start, *encode(text), end]) for text in ("the moon", "the frost")]
    tokens = sum(map(len, each))
    nats = sum(likelihood.stream_nll(model.weights, ids) for ids in each)  # each from an empty state
    assert report["loss"]["nats_per_token"] == pytest.approx(nats / (tokens - 2))
    assert (report["counts"]["documents"], report["counts"]["tokens"]) == (2, tokens)


def test_samples_are_looked_up_in_the_training_text_alone(trained: Path) -> None:
    model = run_directory.load(trained)
    found = evaluate(model, [], samples=3, sample_tokens=80)["samples"]
    written = Generator(model).generate("", GenerationConfig(80), seeds=[0, 1, 2])
    assert found["texts"] == [sample.text for sample in written]
    training = "".join(splits.pieces(recipe.parse(model.metadata.recipe).corpus, "train"))
    passages = {text[i:j] for text in found["texts"] for i in range(80) for j in range(i, 81)}
    assert found["longest_copy_characters"] == max(len(passage) for passage in passages if passage in training)
    assert found["longest_copy"] in training
    whole = [line for text in found["texts"] for line in text.split("\n")[:-1] if line.strip()]
    assert found["lines"] == len(whole)
    assert found["lines_seen_in_training"] == sum(line in training.split("\n") for line in whole)


def test_documents_count_as_whole_lines_where_they_end(trained_lines: Path) -> None:
    model = run_directory.load(trained_lines)
    found = evaluate(model, [], samples=6, sample_tokens=40)["samples"]
    written = Generator(model).generate("", GenerationConfig(40), seeds=range(6))
    ended = [sample.text for sample in written if sample.finish_reason == "stop" and sample.text.strip()]
    assert len(ended) > 0
    assert found["lines"] == len(ended)


@pytest.mark.parametrize("content", ["", "x"])
def test_a_text_without_anything_to_predict_is_refused(trained: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(UserError, match=r"a\.txt: (has no token to predict; give a longer text|empty corpus)"):
        evaluate(run_directory.load(trained), [str(tmp_path / "a.txt")], 0, 1)


def test_where_the_training_text_is_gone_a_given_text_can_still_be_measured(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The text.")
    model = run_directory.load(trained)
    gone = replace(model.recipe, corpus=replace(model.recipe.corpus, source=("gone.txt",)))
    model = model._replace(recipe=gone)
    with pytest.raises(UserError, match=r"^gone\.txt: .*; without it: give --samples 0$"):
        evaluate(model, [str(tmp_path / "a.txt")], 1, 5)
    assert evaluate(model, [str(tmp_path / "a.txt")], 0, 5)["counts"]["characters"] == 9


def test_the_tables_show_what_the_report_says(capsys: pytest.CaptureFixture[str]) -> None:
    report = {
        "text": "a.txt", "counts": {"tokens": 1234, "characters": 5678, "bytes": 6000, "words": 90, "unknown": 12,
                   "documents": 3},
        "loss": {"nats_per_token": 1.25, "bits_per_character": 1.8},
        "samples": {"texts": ["x", "y"], "longest_copy": "[bold] x", "longest_copy_characters": 8, "lines": 7,
                    "lines_seen_in_training": 3},
    }  # fmt: skip
    evaluation_report.show(Path("runs/one"), report)
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for row in (
        "nats per token 1.2500", "tokens 1,234", "unknown 12", "longest passage copied, characters 8",
        "whole lines seen in training 3 of 7", "longest copied passage: '[bold] x'",
    ):  # fmt: skip
        assert row in rows
