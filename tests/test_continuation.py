"""``train --init-from RUN``: a training on a new text that starts from the weights of a run."""

import json
import math
import pydoc_data.topics
import shutil
from pathlib import Path

import numpy as np
import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.data import token_cache
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.models import continuation, run_directory
from keras_lstmgen.training import continuation_report, trainer
from keras_lstmgen.utils.errors import UserError
from tests.test_user_callbacks import Recorder

PROSE = "".join(pydoc_data.topics.topics.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two texts; the second has characters that the first lacks."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "old.txt").write_text(PROSE[:4000].replace("ü", "u"), encoding="utf-8")
    (folder / "new.txt").write_text((PROSE[50_000:52_000] + "der Müller und das 月.\n") * 2, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def old(folder: Path) -> Path:
    """A run on the first text."""
    values = {
        "model.embedding_size": 5, "model.units": 12, "model.layers": 2, "model.dropout": 0.1,
        "training.batch_size": 3, "training.window": 17, "training.epochs": 2, "training.learning_rate": 0.02,
    }  # fmt: skip
    settings = recipe.override(recipe.Recipe(), {"corpus.source": str(folder / "old.txt"), **values})
    return trainer.train(settings, folder / "runs", "old").folder


def settings_for(old: Path, **values: object) -> recipe.Recipe:
    """The recipe of a training on the second text that starts from the first run."""
    given = {"corpus.source": str(old.parents[1] / "new.txt"), "training.batch_size": 4}
    given |= {"training." + name: value for name, value in values.items()}
    return recipe.override(continuation.defaults(old), given)


def losses(folder: Path) -> dict[str, dict[str, float]]:
    return dict(json.loads((folder / "metrics.json").read_text())[continuation_report.KEY])


def held_out(run: Path, words: Path) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    """The held-out ids of the text of one run in the vocabulary of another."""
    corpus, tokenizer = run_directory.load(run).recipe.corpus, run_directory.load(words).tokenizer
    path = words / "held_out.ids"
    token_cache.encode_split(corpus, "validation", tokenizer, path, "<i4")
    return np.fromfile(path, "<i4")


def test_the_recipe_has_the_model_of_the_run_its_learning_rate_and_a_longer_warm_up(old: Path) -> None:
    before, after = run_directory.load(old).recipe, continuation.defaults(old)
    assert (after.model, after.tokenizer, after.training.window) == (before.model, before.tokenizer, 17)
    assert after.training.learning_rate == 0.02
    assert after.training.warmup == continuation.WARMUP > before.training.warmup
    assert after.corpus.source == recipe.Corpus().source


def test_the_training_starts_from_the_weights_and_the_vocabulary_of_the_run(old: Path, tmp_path: Path) -> None:
    settings = settings_for(old, learning_rate=0.0, epochs=1)
    new = trainer.train(settings, tmp_path, "still").folder
    run, first = run_directory.load(new), run_directory.load(old)
    (*weights, bias), (*expected, old_bias) = run.model.get_weights(), first.model.get_weights()
    for array, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(array, other)
    raised = sorted(set(first.metadata.unsampled_ids) - set(run.metadata.unsampled_ids))
    assert np.flatnonzero(bias != old_bias).tolist() == raised
    assert (bias[raised] > old_bias[raised] + 3).all()
    assert run.tokenizer.model == first.tokenizer.model
    text = (old.parents[1] / "new.txt").read_text(encoding="utf-8")
    assert run.tokenizer.decode(run.tokenizer.encode(text)) == text
    of_new_character = [int(token) for token in run.tokenizer.encode("月")]
    assert len(of_new_character) == 3
    assert set(of_new_character) <= set(first.metadata.unsampled_ids) - set(run.metadata.unsampled_ids)
    assert set(run.metadata.unsampled_ids) < set(first.metadata.unsampled_ids)
    assert losses(new)["old"]["after"] == pytest.approx(losses(new)["old"]["before"], abs=0.05)
    assert losses(new)["new"]["after"] < losses(new)["new"]["before"] - 0.05


def test_a_resumed_training_gives_the_same_weights_without_the_first_run_and_the_losses_are_those_of_evaluate(
    old: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(old, old.parent / "copy"))
    straight = trainer.train(settings_for(old, epochs=2), tmp_path, "straight").folder
    stop = Recorder("stop", [], "batch_end 5", "stop")
    resumed = trainer.train(settings_for(copy, epochs=2), tmp_path, "stopped", callbacks=[stop]).folder
    shutil.rmtree(copy)
    trainer.resume(resumed, recipe.load(resumed / run_directory.RECIPE))
    for weights, expected in zip(
        *(run_directory.load(run).model.get_weights() for run in (resumed, straight)), strict=True
    ):
        np.testing.assert_array_equal(weights, expected)
    assert losses(resumed)["new"] == losses(straight)["new"]
    assert losses(resumed)["old"] is None
    assert losses(straight)["new"]["after"] < losses(straight)["new"]["before"] - 0.1
    for text, corpus in (("old", old), ("new", straight)):
        ids = held_out(corpus, straight)
        for when, run in (("before", old), ("after", straight)):
            nll = likelihood.stream_nll(run_directory.load(run).weights, ids)
            assert losses(straight)[text][when] == pytest.approx(nll / (len(ids) - 1), rel=1e-4), (text, when)
    assert math.isfinite(losses(straight)["old"]["after"])


def test_words_outside_a_word_vocabulary_become_unknown(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("the ferry is late and the boat is early\n" * 60)
    (tmp_path / "more.txt").write_text("the ferry is new and the lighthouse is old\n" * 60)
    values = {"tokenizer.type": "word", "model.embedding_size": 5, "model.units": 7, "model.layers": 1}
    values |= {"training.epochs": 1, "training.batch_size": 2, "training.window": 9}
    settings = recipe.override(recipe.Recipe(), {"corpus.source": str(tmp_path / "words.txt"), **values})
    first = trainer.train(settings, tmp_path, "words").folder
    given = {"corpus.source": str(tmp_path / "more.txt"), "training.epochs": 1, "training.batch_size": 2}
    new = trainer.train(recipe.override(continuation.defaults(first), given), tmp_path, "more").folder
    run = run_directory.load(new)
    assert (run.tokenizer.encode("the lighthouse is old") == run.tokenizer.unk_id).sum() == 2
    assert run.tokenizer.unk_id in run.metadata.unsampled_ids


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--init-from gone {new}", "gone: there is no such run; the nearest is 'old'"),
        ("--init-from {texts}/ {new}", "--init-from {texts}: is not a run (keras_lstmgen.json is missing); name"),
        (
            "--init-from old {new} --model.units 13",
            "--model.units: 13 differs from 12 in {old}, from which the training starts; leave out model.units",
        ),
        (
            "--init-from old {new} --tokenizer.type bpe",
            "--tokenizer.type: bpe differs from char in {old}, from which the training starts; leave out",
        ),
        (
            "--init-from old {new} --corpus.documents pairs",
            "--init-from {old}: was trained on texts without a source, but the new corpus has pairs; give "
            "--corpus.documents, --corpus.field or --corpus.labels accordingly",
        ),
        ("--init-from old {texts}/sizes.toml", "--model.layers: 1 differs from 2 in {old}, from"),
        ("--resume old --init-from other", "--training.init_from: other differs from  in the run; --resume"),
    ],
)  # fmt: skip
def test_what_contradicts_the_run_is_refused_in_one_line(
    old: Path, folder: Path, line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sizes.toml").write_text(f'[corpus]\nsource = "{folder}/new.txt"\n[model]\nlayers = 1\n')
    places = {"new": folder / "new.txt", "texts": folder, "old": old}
    before = sorted(path.name for path in old.parent.iterdir())
    assert command_line.main(["train", "--runs", str(old.parent), *line.format(**places).split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"keras-lstmgen: {said.format(**places)}")
    assert sorted(path.name for path in old.parent.iterdir()) == before


def test_a_run_without_weights_is_refused(old: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(old, tmp_path / "copy"))
    (copy / run_directory.MODEL).unlink()
    with pytest.raises(UserError, match=r"has no trained weights \(model\.keras is missing\); train it first"):
        continuation.defaults(copy)
