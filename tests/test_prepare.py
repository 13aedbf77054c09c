"""Preparing with Apache Beam: the ids of ``encoding``, the same shards whoever makes them, whole or not at all."""

import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.cli.command_line import main
from keras_lstmgen.config import recipe
from keras_lstmgen.config.recipe import Recipe
from keras_lstmgen.data import prepared_corpus, sources, splits, token_cache
from keras_lstmgen.data.token_cache import Encoded, encode
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.models import run_directory
from keras_lstmgen.tokenizers import vocabulary
from keras_lstmgen.training import trainer
from keras_lstmgen.utils.errors import UserError
from tests.conftest import SMALL
from tests.planted import executed, installed, plant

pytest.importorskip("apache_beam", reason="the extra 'beam' is not installed")
from keras_lstmgen.evaluation.report import evaluate
from keras_lstmgen.preparation import partition, pipeline

PROSE = "".join(topics.values())[:9_000].split("\n")
ODD = ["naïve 床", "nai\u0308ve \ufb01"]
LINES = [*PROSE, *ODD, "", *PROSE[::3], "", *PROSE[:90], "", "the last"]  # many lines and blocks come twice
TEXT = "\n".join(LINES) + "\n"
HERE = (f"--runner={pipeline.LOCAL}",)
THREE_THREADS = (*HERE, "--direct_num_workers=3", "--direct_running_mode=multi_threading")
THREE_PROCESSES = ("--direct_num_workers=3", "--direct_running_mode=multi_processing")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "PART", 1_000)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Recipe]:
    """Write three files, the first packed, none but the last ending with a newline, and make a recipe of them."""

    def make(kind: str = "char", documents: str = "stream", size: int = 0, **values: Any) -> Recipe:
        lines = [json.dumps({"t": line}) for line in LINES] if documents == "jsonl" else LINES
        files = ["\n".join(lines[:60]), "\ufeff" + "\n".join(lines[60:180]), "\n".join(lines[180:]) + "\n"]
        (tmp_path / "0.txt.gz").write_bytes(gzip.compress(files[0].encode(), mtime=0))
        for name, part in zip(("1.txt", "2.txt"), files[1:], strict=True):
            (tmp_path / name).write_text(part, encoding="utf-8")
        sources = [str(tmp_path / name) for name in ("0.txt.gz", "1.txt", "2.txt")]
        given: dict[str, Any] = {"corpus.source": sources, "corpus.documents": documents, "tokenizer.type": kind}
        given |= {"tokenizer.vocab_size": size} | ({"corpus.field": "t"} if documents == "jsonl" else {})
        return recipe.override(Recipe(), given | {f"corpus.{name}": value for name, value in values.items()})

    return make


def opened(folder: Path) -> Encoded:
    encoded = prepared_corpus.load(recipe.Corpus(source=(str(folder),)))
    assert encoded
    return encoded


def same(one: Encoded, other: Encoded) -> None:
    assert one.tokenizer.model == other.tokenizer.model
    for ids, others in ((one.train, other.train), (one.validation, other.validation)):
        assert len(ids) > 1
        assert np.array_equal(ids[:], others[:])
    assert (one.counts, one.start_id, one.unsampled_ids) == (other.counts, other.start_id, other.unsampled_ids)


@pytest.mark.parametrize(
    ("kind", "documents", "size", "values"),
    [
        ("char", "stream", 0, {}),
        ("unigram", "stream", 70, {"validation_fraction": 0.3}),
        ("word", "lines", 30, {"unique": True, "split_seed": 2}),
        ("bpe", "jsonl", 60, {"unique": True}),
        ("char", "blocks", 0, {}),
        ("word", "files", 0, {"validation": "1.txt"}),
        ("char", "stream", 0, {"validation": "2.txt"}),
        ("char", "stream", 0, {"normalize": "nfkc"}),
        ("bpe", "jsonl", 60, {"unique": True, "normalize": "nfc"}),
    ],
)
def test_ids_and_tokenizer_are_those_that_training_makes_by_itself(
    tmp_path: Path, make: Callable[..., Recipe], kind: str, documents: str, size: int, values: dict[str, Any]
) -> None:
    if "validation" in values:
        values = values | {"validation": [str(tmp_path / values["validation"])]}
    asked = make(kind, documents, size, **values)
    about = pipeline.prepare(asked, tmp_path / "prepared", HERE)
    if documents != "files":
        assert len(about["shards"]["train"]) > 3
    same(opened(tmp_path / "prepared"), encode(asked, tmp_path / "cache"))
    made = opened(tmp_path / "prepared")
    text = made.tokenizer.decode([*map(int, made.train[:]), *map(int, made.validation[:])])
    assert kind == "word" or ("\u0308" in text) == ("normalize" not in values)


@pytest.mark.parametrize("options", [THREE_THREADS, THREE_PROCESSES], ids=["threads", "processes"])
def test_three_workers_write_the_files_of_one(
    tmp_path: Path, make: Callable[..., Recipe], options: tuple[str, ...]
) -> None:
    asked = make("bpe", "lines", 60, unique=True)
    folders = []
    for name, words in (("one", HERE), ("three", options)):
        pipeline.prepare(asked, tmp_path / name, words)
        folders.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert folders[0] == folders[1]
    assert len(folders[0]) > 6


def test_a_vocabulary_learns_from_the_same_sample_of_lines(
    tmp_path: Path, make: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "SAMPLED_LINES", 50)
    asked = make("bpe", "stream", 60)
    pipeline.prepare(asked, tmp_path / "prepared", HERE)
    same(opened(tmp_path / "prepared"), encode(asked, tmp_path / "cache"))


@given(count=st.integers(0, 300), most=st.integers(1, 40))
def test_the_numbers_of_sampled_lines_are_those_of_the_sample(count: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "SAMPLED_LINES", most)
        lines = [str(number) for number in range(count)]
        sample = vocabulary._sample(lambda: iter(["\n".join(lines)]))
        assert [lines[number] for number in vocabulary.sampled_lines(count)] == sample


def test_lines_longer_than_a_piece_are_cut_alike_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "PIECE", 50)
    dice = np.random.default_rng(0)
    words = ["".join(dice.choice(list("abc"), dice.integers(1, 30))) for _ in range(3_000)]
    text = "".join(word + ("\n" if dice.random() < 0.03 else " ") for word in words)
    (tmp_path / "text.txt").write_text(text)
    values = {"corpus.source": str(tmp_path / "text.txt"), "tokenizer.type": "unigram", "tokenizer.vocab_size": 40}
    asked = recipe.override(Recipe(), values)
    pipeline.prepare(asked, tmp_path / "prepared", HERE)
    same(opened(tmp_path / "prepared"), encode(asked, tmp_path / "cache"))


@pytest.mark.parametrize("documents", ["lines", "blocks"])
def test_of_equal_documents_the_first_alone_counts(make: Callable[..., Recipe], documents: str) -> None:
    asked = make("char", documents, validation_fraction=0.4).corpus
    for split in token_cache.SPLITS:
        every, once = (list(splits.pieces(one, split)) for one in (asked, replace(asked, unique=True)))
        assert once == list(dict.fromkeys(every))
        assert len(once) < len(every)


def test_a_stream_has_no_documents_to_be_unique() -> None:
    with pytest.raises(UserError, match=r"corpus\.unique has no effect on a stream"):
        recipe.override(Recipe(), {"corpus.unique": True})


def test_pairs_are_dealt_out_and_counted_as_training_does(tmp_path: Path) -> None:
    lines = [f"what is {number}?\tit is {number % 7}{'!' * (number % 3)}" for number in range(200)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines + lines[:20]))
    values = {"corpus.source": str(tmp_path / "pairs.tsv"), "corpus.documents": "pairs", "corpus.unique": True}
    asked = recipe.override(Recipe(), values | SMALL)
    pipeline.prepare(asked, tmp_path / "prepared", HERE)
    made = opened(tmp_path / "prepared")
    same(made, encode(asked, tmp_path / "cache"))
    assert made.counts["train"]["tokens"] < len(made.train)
    own = trainer.train(asked, tmp_path / "runs", "own").folder
    other = trainer.train(
        recipe.override(Recipe(), SMALL | {"corpus.source": str(tmp_path / "prepared")}), tmp_path / "runs", "other"
    ).folder
    for weights, others in zip(
        run_directory.load(own).model.get_weights(), run_directory.load(other).model.get_weights(), strict=True
    ):
        assert np.array_equal(weights, others)
    report = evaluate(run_directory.load(other), [], 1, 30)
    assert report["samples"]["sources"]
    assert not sources.is_available(recipe.Corpus((str(tmp_path / "prepared"),)))


def test_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    values = {"corpus.source": str(tmp_path / "text.txt"), "corpus.documents": "lines", "corpus.labels": "prose"}
    with pytest.raises(UserError, match=r"corpus\.labels: cannot be prepared"):
        pipeline.prepare(recipe.override(Recipe(), values), tmp_path / "prepared", HERE)
    assert os.listdir(tmp_path) == ["text.txt"]


def test_training_on_a_prepared_folder_gives_the_model_of_the_text(
    tmp_path: Path, make: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = recipe.override(make("char", "lines", unique=False), SMALL)
    own = trainer.train(asked, tmp_path / "runs", "own").folder
    pipeline.prepare(asked, tmp_path / "prepared", HERE)
    options = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    assert main(["train", str(tmp_path / "prepared"), "--runs", str(tmp_path / "runs"), *options]) == 0
    assert "next:" in capsys.readouterr().out
    one, other = run_directory.load(own), run_directory.load(tmp_path / "runs/prepared")
    for weights, others in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        assert np.array_equal(weights, others)
    ids = [int(token) for token in opened(tmp_path / "prepared").validation[:40]]
    assert likelihood.stream_nll(one.weights, np.array(ids)) == likelihood.stream_nll(other.weights, np.array(ids))
    assert replace(one.metadata, recipe={}, metrics={}) == replace(other.metadata, recipe={}, metrics={})
    assert evaluate(one, [], 1, 30)["counts"] == evaluate(other, [], 1, 30)["counts"]
    assert not (tmp_path / "runs/.encoded" / "prepared").exists()
    resumed = ["train", "--resume", str(tmp_path / "runs/prepared"), "--training.epochs", "3"]
    assert main([*resumed, "--runs", str(tmp_path / "runs")]) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "text.txt").write_text(TEXT)
    asked = recipe.override(Recipe(), {"corpus.source": str(folder / "text.txt"), "corpus.documents": "lines"})
    pipeline.prepare(asked, folder / "prepared", HERE)
    return folder / "prepared"


def test_damage_is_one_line_and_no_run(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = json.loads((whole / "prepared.json").read_text())
    shard = about["shards"]["train"][-1]["file"]
    ids, words = (whole / shard).read_bytes(), (whole / "tokenizer.model").read_bytes()
    for name, data, said in (
        (shard, None, "cannot be read (No such file"),
        (shard, ids[:-2], "is damaged"),
        (shard, bytes([ids[0] ^ 1]) + ids[1:], "is damaged"),
        ("tokenizer.model", words[1:], "is damaged"),
        ("prepared.json", b"{", "cannot be read as JSON"),
        ("prepared.json", b"[]", "does not have format 1"),
        ("prepared.json", json.dumps(about | {"format_version": 2}).encode(), "does not have format 1"),
        ("prepared.json", json.dumps({**about, "shards": None}).encode(), "'shards' is missing or has another type"),
        ("prepared.json", json.dumps({**about, "shards": {"train": [1]}}).encode(), "is damaged"),
        ("prepared.json", json.dumps({key: about[key] for key in about if key != "dtype"}).encode(), "'dtype' is"),
    ):
        folder = tmp_path / "damaged"
        folder.mkdir()
        for path in whole.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / name).unlink()
        if data is not None:
            (folder / name).write_bytes(data)
        assert main(["train", str(folder), "--runs", str(tmp_path / "runs")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert said in lines[0]
        assert str(folder / name) in lines[0]
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert not list((tmp_path / "runs").glob("*"))


def test_what_was_prepared_otherwise_is_refused(whole: Path, tmp_path: Path) -> None:
    def adopted(**values: Any) -> Recipe:
        named = {name.replace("_", ".", 1): value for name, value in values.items()}
        return prepared_corpus.with_prepared_tables(recipe.override(Recipe(), {"corpus.source": str(whole)} | named))

    assert adopted(tokenizer_type="char", corpus_documents="lines").corpus.documents == "lines"
    for values, said in (
        ({"tokenizer_type": "word"}, r"tokenizer\.type = char, not word"),
        ({"corpus_documents": "blocks"}, r"corpus\.documents = lines, not blocks"),
        ({"corpus_validation_fraction": 0.2}, r"corpus\.validation_fraction = 0\.1, not 0\.2"),
        ({"corpus_source": [str(whole), "pydoc"]}, "cannot be combined"),
        ({"corpus_validation": ["pydoc"]}, "cannot be combined"),
    ):
        with pytest.raises(UserError, match=said):
            adopted(**values)
    with pytest.raises(UserError, match="is a prepared corpus, not text"):
        list(splits.pieces(recipe.Corpus((str(whole),)), "train"))
    with pytest.raises(UserError, match="is already prepared; train on it"):
        pipeline.prepare(recipe.override(Recipe(), {"corpus.source": str(whole)}), tmp_path / "again", HERE)


@pytest.mark.parametrize("options", [HERE, THREE_PROCESSES], ids=["here", "processes"])
def test_text_that_cannot_be_used_is_one_line_with_its_place(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    lines = [json.dumps({"t": f"document {number}"}) for number in range(300)]
    lines[250] = '{"t": '
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    words = ["prepare", str(tmp_path / "bad.jsonl"), "--corpus.documents", "jsonl", "--corpus.field", "t"]
    assert main([*words, "--output", str(tmp_path / "prepared"), "--", *options]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert "bad.jsonl, line 251: invalid JSON" in line
    assert not line.endswith("]")
    assert os.listdir(tmp_path) == ["bad.jsonl"]


@pytest.mark.parametrize(
    ("values", "text", "said"),
    [
        ({}, "", "empty corpus"),
        ({"tokenizer.type": "bpe"}, "", "empty corpus"),
        ({"corpus.validation_fraction": 0.0}, "some text\n", "no validation text"),
        ({"tokenizer.vocab_size": 3}, "some text\n", "leaves no room"),
        ({"tokenizer.type": "bpe", "tokenizer.vocab_size": 5000}, TEXT, "more than this text allows"),
    ],
)
def test_a_corpus_that_cannot_be_prepared_leaves_nothing(
    tmp_path: Path, values: dict[str, Any], text: str, said: str
) -> None:
    (tmp_path / "text.txt").write_text(text)
    asked = recipe.override(Recipe(), {"corpus.source": str(tmp_path / "text.txt")} | values)
    with pytest.raises(UserError, match=said):
        pipeline.prepare(asked, tmp_path / "prepared", HERE)
    assert os.listdir(tmp_path) == ["text.txt"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runner=Nope"], "Unexpected pipeline runner"),
        (["--direct_num_wrokers=2"], "--direct_num_wrokers: the local runner of Apache Beam has no such option"),
        (["--direct_num_workers=two"], "invalid int value: 'two'"),
    ],
)
def test_options_that_beam_does_not_know_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["prepare", "--output", str(tmp_path / "prepared"), "--", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert os.listdir(tmp_path) == []


def test_what_is_there_already_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        pipeline.prepare(Recipe(), tmp_path, HERE)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_stopping_on_the_way_leaves_no_folder(
    tmp_path: Path, make: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    asked = make()
    before = sorted(os.listdir(tmp_path))

    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "_manifest", stop)
    with pytest.raises((KeyboardInterrupt, UserError)):
        pipeline.prepare(asked, tmp_path / "prepared", HERE)
    assert sorted(os.listdir(tmp_path)) == before


def test_the_command_ends_with_a_table_and_the_next_command(
    tmp_path: Path, make: Callable[..., Recipe], capfd: pytest.CaptureFixture[str]
) -> None:
    asked = make()
    words = ["prepare", *asked.corpus.source, "--output", str(tmp_path / "prepared"), "--tokenizer.type", "char"]
    assert main([*words, "--", *THREE_PROCESSES]) == 0
    said, noise = capfd.readouterr()
    assert not noise
    assert f"{len(opened(tmp_path / 'prepared').train):,}" in said
    assert f"next: keras-lstmgen train {tmp_path / 'prepared'}" in said


def test_workers_import_nothing_from_the_working_directory(
    tmp_path: Path, make: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, folder = make(), tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(plant(folder, installed()))
    monkeypatch.delenv(pipeline.SAFE_PATH, raising=False)
    pipeline.prepare(asked, tmp_path / "prepared", THREE_PROCESSES)
    assert executed(folder) == []
    assert pipeline.SAFE_PATH not in os.environ


def test_progress_is_told_while_workers_write(tmp_path: Path) -> None:
    told: list[str] = []

    def until() -> Iterator[None]:
        while not any("shards" in line for line in told):
            yield

    with pipeline._progress_reported(str(tmp_path), 7, told.append):
        (tmp_path / "train-00000.ids").touch()
        for _ in until():
            pass
    assert told[-1] == "1 of about 7 shards"


def test_without_beam_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "keras_lstmgen.preparation.pipeline")
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delattr("keras_lstmgen.preparation.pipeline")
    assert main(["prepare", "--output", str(tmp_path / "prepared")]) == 2
    assert "pip install 'keras_lstmgen[beam]'" in capsys.readouterr().err
