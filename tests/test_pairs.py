"""Pairs: a source, a target, the loss on the target alone, and never a window across two examples."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.config import recipe
from keras_lstmgen.data import example_batches, splits
from keras_lstmgen.data.stream_windows import Batching
from keras_lstmgen.data.token_cache import SPLITS, encode
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.exporters import export_run, verify
from keras_lstmgen.files import atomic
from keras_lstmgen.generation import sampling
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import builder, inference_step, run_directory
from keras_lstmgen.tokenizers.tokenizer import END, NEWLINE, START
from keras_lstmgen.training import trainer
from keras_lstmgen.utils.errors import UserError

V, E, H = 23, 5, 7

words = st.lists(st.integers(NEWLINE + 1, V - 1), min_size=1, max_size=9)
examples = st.lists(st.tuples(words, words), min_size=1, max_size=25)


def laid(made: list[tuple[list[int], list[int]]]) -> np.ndarray[Any, Any]:
    """The ids of a corpus."""
    return np.array([token for source, target in made for token in [START, *source, NEWLINE, *target, END]], np.uint16)


@given(examples)
def test_each_example_is_found_whole(made: list[tuple[list[int], list[int]]]) -> None:
    found = example_batches.find_pairs(laid(made))
    assert example_batches.count(found) == len(made)
    for number, (source, target) in enumerate(made):
        ids, before = example_batches.truncated(found, number, 1000)
        assert ids.tolist() == [START, *source, NEWLINE, *target, END]
        assert ids[before:].tolist() == [*target, END]
    assert example_batches.target_tokens(found) == sum(len(target) + 1 for _, target in made)


@given(examples, st.integers(1, 7), st.integers(0, 99))
def test_an_epoch_has_every_example_in_batches_of_whole_ones(
    made: list[tuple[list[int], list[int]]], B: int, seed: int
) -> None:
    found = example_batches.find_pairs(laid(made))
    order = example_batches._order(found, B, seed, epoch=0)
    assert order.shape == (example_batches.batches_per_epoch(found, B), B)
    assert set(order.ravel()) == set(range(len(made)))
    assert order.size < len(made) + B


@given(examples, st.floats(0, 1, width=32))
def test_the_loss_counts_targets_and_as_much_of_sources_as_asked(
    made: list[tuple[list[int], list[int]]], share: float
) -> None:
    found = example_batches.find_pairs(laid(made))
    part = example_batches.padded_batch(found, np.arange(len(made)), 1000, share)
    for row, (source, target) in enumerate(made):
        wanted = [share] * (len(source) + 1) + [1.0] * (len(target) + 1)
        rest = [0.0] * (part.ids.shape[1] - len(wanted))
        np.testing.assert_allclose(part.weights[row], wanted + rest)
        assert (part.next_ids[row, : len(wanted) - 1] == part.ids[row, 1 : len(wanted)]).all()


@given(examples, st.floats(0, 1, width=32), st.integers(1, 4))
def test_each_token_counts_the_same_in_an_epoch_whatever_its_batch(
    made: list[tuple[list[int], list[int]]], share: float, B: int
) -> None:
    found = example_batches.find_pairs(laid(made * B))  # so many that the last batch is not filled up
    parts = list(example_batches.dataset(found, Batching(B, 1000, 1, 0), source_loss=share).as_numpy_iterator())
    tokens = [weights / weights.size for _, _, weights in parts]  # what ``fit`` makes of them
    assert len({round(float(part.max()), 5) for part in tokens}) == 1
    assert sum(float(part.sum()) for part in tokens) == pytest.approx(len(parts), rel=1e-5)


@given(words, words, st.integers(2, 30))
def test_a_source_of_one_turn_that_is_too_long_loses_its_end(source: list[int], target: list[int], most: int) -> None:
    ids, before = example_batches.truncated(example_batches.find_pairs(laid([(source, target)])), 0, most)
    whole = [START, *source, NEWLINE, *target, END]
    assert len(ids) == min(len(whole), most)
    answer = [NEWLINE, *target, END]
    if most > len(answer):
        assert ids[before - 1 :].tolist() == answer
        assert ids[: before - 1].tolist() == whole[: before - 1]


@given(st.lists(words, min_size=2, max_size=4), words, st.integers(2, 40))
def test_one_of_several_turns_keeps_its_last(turns: list[list[int]], target: list[int], most: int) -> None:
    source = [token for turn in turns for token in [NEWLINE, *turn]][1:]
    ids, before = example_batches.truncated(example_batches.find_pairs(laid([(source, target)])), 0, most)
    whole, answer = [START, *source, NEWLINE, *target, END], [NEWLINE, *target, END]
    assert len(ids) == min(len(whole), most)
    if most > len(answer):
        kept = ids[1 : before - 1].tolist()
        assert [ids[0], *ids[before - 1 :]] == [START, *answer]
        assert kept == source[len(source) - len(kept) :]


def test_batches_do_not_depend_on_where_the_reading_begins() -> None:
    dice = np.random.default_rng(0)
    found = example_batches.find_pairs(
        laid([(dice.integers(4, V, n % 6 + 1).tolist(), [5] * (n % 4 + 1)) for n in range(40)])
    )
    whole = list(example_batches.dataset(found, Batching(3, 50, 2, 0)).as_numpy_iterator())
    later = list(example_batches.dataset(found, Batching(3, 50, 2, 0, first=9)).as_numpy_iterator())
    assert len(whole) == 2 * example_batches.batches_per_epoch(found, 3)
    for one, other in zip(whole[9:], later, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_lengths_in_a_batch_are_similar() -> None:
    dice = np.random.default_rng(1)
    found = example_batches.find_pairs(laid([([4] * int(n), [5]) for n in dice.integers(1, 60, 600)]))
    parts = example_batches.dataset(found, Batching(8, 99, 1, 0), source_loss=1.0).as_numpy_iterator()
    padded = sum(part[2].size - np.count_nonzero(part[0] != END) for part in parts)
    assert padded < 0.1 * len(found.ids)


def test_the_measured_loss_is_that_of_each_example_by_itself() -> None:
    dice = np.random.default_rng(2)
    made = [(dice.integers(4, V, 1 + n % 5).tolist(), dice.integers(4, V, 1 + n % 3).tolist()) for n in range(17)]
    built = builder.build(recipe.Model(embedding_size=E, units=H, layers=2, dropout=0.0, attention=4), V)
    weights, alone = inference_step.weights_of(built), 0.0
    for source, target in made:
        ids = np.array([[START, *source, NEWLINE, *target, END]])
        nats = keras.losses.sparse_categorical_crossentropy(ids[:, 1:], built(ids[:, :-1]), from_logits=True)
        alone += float(tf.reduce_sum(nats[:, len(source) + 1 :]))
    together = likelihood.examples_nll(weights, example_batches.find_pairs(laid(made)), likelihood.scorer(weights))
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("values", [{}, {"attention": 4}, {"attention": 4, "copy": True}, {"members": 2}])
def test_a_long_example_is_measured_in_windows_of_bounded_size(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources and targets longer than a window, beside short ones, against each example read whole by itself."""
    dice = np.random.default_rng(3)
    lengths = [(50, 3), (2, 70), (41, 40), (1, 1), (8, 8), (7, 8)]
    made = [tuple(dice.integers(4, V, n).tolist() for n in sizes) for sizes in lengths]
    settings = recipe.Model(embedding_size=E, units=H, layers=2, dropout=0.0, **values)
    weights, shapes = inference_step.weights_of(builder.build(settings, V)), list[tuple[int, int]]()
    score, found = likelihood.scorer(weights), example_batches.find_pairs(laid(made))

    def call(ids: Any, state: Any) -> Any:
        shapes.append(ids.shape)
        return score(ids, state)

    alone = 0.0
    for number in range(len(made)):
        ids, before = example_batches.truncated(found, number, 1000)
        logprobs, _ = score(ids[np.newaxis], tf.zeros((1, inference_step.state_size(weights))))
        alone -= float(tf.reduce_sum(logprobs[0, before - 1 :]))
    monkeypatch.setattr(likelihood, "WINDOW", 16)
    monkeypatch.setattr(likelihood, "MAX_LOGITS", 4 * 16 * V)
    np.testing.assert_allclose(likelihood.examples_nll(weights, found, call), alone, rtol=1e-5)
    assert all(P - 1 <= 16 and B * (P - 1) * V <= 4 * 16 * V for B, P in shapes)
    assert max(P - 1 for _, P in shapes) == 16
    assert max(B for B, _ in shapes) == 4


def test_shuffled_sources_leave_the_targets_as_they_are() -> None:
    made = [([4 + n], [10 + n, 11 + n]) for n in range(5)]
    other = example_batches.with_other_sources(example_batches.find_pairs(laid(made)))
    for number, (_, target) in enumerate(made):
        ids, before = example_batches.truncated(other, number, 99)
        assert ids[before:].tolist() == [*target, END]
        assert ids[1] == 4 + (number - 1) % 5


TSV = "how are you\tfine\nhow are you\twell\nbye\tsee you\tlater\n\n"


@pytest.mark.parametrize(
    ("text", "values", "documents"),
    [
        (TSV, {"documents": "pairs"}, ["how are you\nfine", "how are you\nwell", "bye\nsee you\nlater"]),
        ("a\tb\tc\n", {"documents": "tsv", "field": ["3", "1"]}, ["c\na"]),
        ("q,a\nx,y\n", {"documents": "csv", "field": ["q", "a"]}, ["x\ny"]),
        ('{"q": "one\\ntwo", "a": "three"}\n', {"documents": "jsonl", "field": ["q", "a"]}, ["one two\nthree"]),
        ("x\ny\n", {"documents": "lines", "labels": ["kind"]}, ["kind\nx", "kind\ny"]),
    ],
)  # fmt: skip
def test_every_kind_of_file_gives_pairs(
    tmp_path: Path, text: str, values: dict[str, Any], documents: list[str]
) -> None:
    (tmp_path / "text").write_text(text, encoding="utf-8")
    named = {f"corpus.{name}": value for name, value in values.items()}
    settings = recipe.override(recipe.Recipe(), {
        "corpus.source": [str(tmp_path / "text")], "corpus.validation_fraction": 0.0, **named,
    })  # fmt: skip
    assert settings.corpus.is_pairs
    assert list(splits.pieces(settings.corpus, "train")) == documents


SIDES = [("q", "a"), ("q", ""), ("", "a"), ("q", " "), (" ", "a"), ("\u3000", "a"), ("q", "\x85"), ("", ""), ("x", "y")]


@pytest.mark.parametrize("normalize", ["none", "nfkc"])
@pytest.mark.parametrize("kind", ["pairs", "tsv", "csv", "jsonl", "lines"])
def test_a_pair_with_a_blank_side_does_not_count_in_any_kind_of_document(
    tmp_path: Path, kind: str, normalize: str
) -> None:
    rows = {
        "jsonl": [json.dumps({"1": q, "2": a}) for q, a in SIDES],
        "csv": [f'"{q}","{a}"' for q, a in SIDES],
        "lines": [a for _, a in SIDES],  # behind a label
    }.get(kind, ["\t".join(sides) for sides in SIDES])
    (tmp_path / "text").write_text("\n".join(rows), encoding="utf-8")
    values = {"corpus.documents": kind, "corpus.normalize": normalize, "corpus.validation_fraction": 0.0}
    if kind == "lines":
        found = read(tmp_path / "text", values | {"corpus.labels": "k"})
        assert found == ["k\na", "k\na", "k\na", "k\na", "k\ny"]
        return
    field = {} if kind == "pairs" else {"corpus.field": ["1", "2"]}
    assert read(tmp_path / "text", values | field) == ["q\na", "x\ny"]


def test_pairs_of_one_source_stand_on_one_side_of_the_split(tmp_path: Path) -> None:
    lines = [f"question {n % 40}\tanswer {n}" for n in range(200)]
    (tmp_path / "text.tsv").write_text("\n".join(lines), encoding="utf-8")
    settings = recipe.Corpus(source=(str(tmp_path / "text.tsv"),), documents="pairs", validation_fraction=0.3)
    sides = [{text.split("\n")[0] for text in splits.pieces(settings, side)} for side in ("train", "validation")]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_documents_of_each_label_stand_on_both_sides_of_the_split(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(
            "".join(f"{name if n % 2 else 'both'} {n}\n" for n in range(100)), encoding="utf-8"
        )
    settings = recipe.Corpus(
        source=(str(tmp_path / "a"), str(tmp_path / "b")), documents="lines", labels=("x", "y"), validation_fraction=0.3
    )
    sides = [[text.split("\n") for text in splits.pieces(settings, side)] for side in ("train", "validation")]
    assert all({label for label, _ in side} == {"x", "y"} for side in sides)
    assert not {text for _, text in sides[0]} & {text for _, text in sides[1]}


@pytest.mark.parametrize(
    ("text", "values", "said"),
    [
        ("a\tb\nalone\n", {"corpus.documents": "pairs"}, r"text, line 2: a pair needs a source, a tab and a target"),
        ("a\tb\n", {"corpus.documents": "lines", "corpus.field": ["1", "2"]}, r"corpus\.field has 2 names"),
        ("a\n", {"corpus.labels": ["x"]}, r"corpus\.labels needs texts that are split into documents"),
        ("a\n", {"corpus.documents": "lines", "corpus.labels": [" "]}, r"corpus\.labels has a blank label"),
        (
            "a\n",
            {"corpus.documents": "lines", "corpus.labels": ["x", "y"]},
            r"2 labels, but corpus\.source has 1 texts",
        ),
        ("a\tb\n", {"corpus.documents": "pairs", "training.sampled_softmax": 9}, "cannot be combined with pairs"),
        ('{"q": "a"}\n', {"corpus.documents": "jsonl", "corpus.field": ["q", "a"]}, "line 1: must be an object with"),
    ],
)
def test_what_are_no_pairs_is_said(tmp_path: Path, text: str, values: dict[str, Any], said: str) -> None:
    (tmp_path / "text").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read(tmp_path / "text", values)


def read(path: Path, values: dict[str, Any]) -> list[str]:
    """All documents."""
    settings = recipe.override(recipe.Recipe(), {"corpus.source": [str(path)], **values})
    return list(splits.pieces(settings.corpus, "train"))


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has to read its source to answer: the target is the source's second word."""
    folder = tmp_path_factory.mktemp("pairs")
    names = ["red", "blue", "green", "white", "grey"]
    lines = [json.dumps({"in": f"{a} {b} {c}", "out": b}) for a in names for b in names for c in names]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    settings = recipe.override(recipe.Recipe(), {
        "corpus.source": [str(folder / "text.jsonl")], "corpus.documents": "jsonl", "corpus.field": ["in", "out"],
        "tokenizer.type": "word", "model.embedding_size": 8, "model.units": 24, "model.layers": 1,
        "model.dropout": 0.0, "model.attention": 8, "training.batch_size": 5, "training.epochs": 12,
        "training.learning_rate": 0.03, "training.patience": 0,
    })  # fmt: skip
    return trainer.train(settings, folder / "runs", "colours").folder


def test_what_is_counted_of_pairs_are_their_targets(colours: Path) -> None:
    settings = recipe.load(colours / run_directory.RECIPE)
    encoded = encode(settings, colours.parent / ".encoded")
    for side in SPLITS:
        ids = getattr(encoded, side)
        texts = [text.split("\n")[1] for text in splits.pieces(settings.corpus, side)]
        found = encoded.counts[side]
        assert (
            found["tokens"] == example_batches.target_tokens(example_batches.find_pairs(ids)) == 2 * len(texts)
        )  # a word, and the end
        assert (found["documents"], found["characters"]) == (len(texts), len("".join(texts)))


def test_a_batch_of_long_targets_is_not_taken_for_a_loss_that_explodes(tmp_path: Path) -> None:
    lines = [f"a{number}\tb" for number in range(240)] + ["long\t" + "abcdefgh " * 40] * 3
    (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    settings = recipe.override(recipe.Recipe(), {
        "corpus.source": (str(tmp_path / "pairs.tsv"),), "corpus.validation": (str(tmp_path / "pairs.tsv"),),
        "corpus.documents": "pairs", "model.embedding_size": E, "model.units": H, "model.layers": 1,
        "training.batch_size": 3, "training.window": 500, "training.epochs": 1,
    })  # fmt: skip
    folder = trainer.train(settings, tmp_path / "runs", "run").folder
    (row,) = json.loads((folder / "history.json").read_text())
    assert row["loss"] < 5


def test_a_prompt_is_a_source_and_gets_its_end(colours: Path) -> None:
    loaded = run_directory.load(colours)
    ids = loaded.prompt_ids("red blue green")
    assert (ids[0], ids[-1]) == (START, NEWLINE)
    assert loaded.prompt_ids("red blue green\n") == ids
    assert loaded.prompt_ids("") == [START]
    greedy = sampling.Options(temperature=0)
    for source in ("red blue green", "grey white red", "white grey blue"):
        (sample,) = Generator(loaded).generate(source, GenerationConfig(5, greedy))
        assert (sample.text, sample.finish_reason) == (source.split()[1], "stop")


@pytest.mark.slow
def test_every_artifact_answers_as_keras_does_in_ids_and_strings(colours: Path) -> None:
    export_run.export(colours, recipe.Export(texts=24, tokens=8))
    record = atomic.read_json(colours / "export.json")["artifacts"]
    assert {name: entry["reasons"] for name, entry in record.items()} == {"saved_model": [], "tflite": [], "onnx": []}
    saved = tf.saved_model.load(colours / "serving" / "1")
    answer = saved.signatures["complete"](prompt=tf.constant(["red blue green", "grey white red\n"]))
    assert answer["text"].numpy().tolist() == [b"blue", b"white"]


def test_rounded_weights_are_tried_on_pairs_each_read_by_itself(colours: Path) -> None:
    loaded = run_directory.load(colours)
    reads, states = likelihood.scorer(loaded.weights), []

    def call(graph: str, ids: Any, state: Any) -> dict[str, Any]:
        states.append((graph, ids[:, 0], state))
        logprobs, after = reads(ids, state)
        return {"logprobs": logprobs.numpy() - np.float32(0.01), "next_state": after}

    text, name = verify._held_out(loaded, verify.compute_reference(loaded, texts=2, tokens=3))
    assert isinstance(text, example_batches.Examples)
    assert example_batches.count(text) == len(
        list(splits.pieces(recipe.load(colours / run_directory.RECIPE).corpus, "validation"))
    )
    assert verify._loss_difference(loaded, call, text) == pytest.approx(0.01, abs=1e-4)
    assert name == "held-out text"
    for graph, first, state in states:
        assert graph == "score"
        assert (first == START).all()
        assert not np.any(state)


def test_where_the_corpus_is_gone_they_are_tried_on_what_keras_wrote_each_behind_its_prompt(colours: Path) -> None:
    loaded = run_directory.load(colours)
    gone = replace(loaded.recipe, corpus=replace(loaded.recipe.corpus, source=("gone.jsonl",)))
    loaded = loaded._replace(recipe=gone)
    tried = verify.compute_reference(loaded, texts=5, tokens=3)
    text, name = verify._held_out(loaded, tried)
    assert isinstance(text, example_batches.Examples)
    assert (example_batches.count(text), name) == (5, "texts that Keras wrote")
    begins = sorted(tuple(case.prompt) for case in tried.cases)
    found = [text.ids[start:end] for start, end in zip(text.starts[:-1], text.starts[1:], strict=True)]
    assert all(any(tuple(ids[: len(begin)]) == begin for begin in begins) for ids in found)


def test_it_learns_to_answer_from_its_source_and_says_so_in_every_unit(colours: Path) -> None:
    loaded = run_directory.load(colours)
    told = likelihood.loss_in_units(0.0, {"tokens": 1, "characters": 1, "bytes": 1, "words": 1})
    assert set(told) == set(loaded.metadata.metrics["validation"])
    assert loaded.metadata.metrics["validation"]["nats_per_token"] < 0.1  # by chance it would be about 0.8
