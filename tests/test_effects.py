"""An option that cannot have an effect is refused, and what it needs is named; nothing that works is refused."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import effects, recipe
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import trainer
from keras_lstmgen.utils.errors import UserError

PIPELINES = sorted((Path(__file__).parents[1] / "pipelines").glob("*.toml"))
PAIRS = "--corpus.documents pairs"
# For each option: words that leave it without an effect, and words that give it one.
CASES = {
    "corpus.field": ("--corpus.field text", "--corpus.field text --corpus.documents csv"),
    "corpus.sha256": ("--corpus.sha256 12ab --corpus.source pydoc", "--corpus.sha256 12ab --corpus.source a.txt"),
    "corpus.validation_fraction": (
        "--corpus.validation_fraction 0.2 --corpus.validation b.txt", "--corpus.validation_fraction 0.2",
    ),
    "corpus.split_seed": ("--corpus.split_seed 1", "--corpus.split_seed 1 --corpus.documents lines"),
    "training.random_offsets": (f"--training.random_offsets false {PAIRS}", "--training.random_offsets false"),
    "training.source_loss": ("--training.source_loss 0.5", f"--training.source_loss 0.5 {PAIRS}"),
    "training.weight_decay": (
        "--training.weight_decay 0.1 --training.optimizer adam", "--training.weight_decay 0.1",
    ),
    "evaluate.beams": (
        f"--evaluate.beams 2 --evaluate.measures recall {PAIRS}",
        f"--evaluate.beams 2 --evaluate.measures exact_match {PAIRS}",
    ),
    "evaluate.length_penalty": (
        f"--evaluate.length_penalty 1 --evaluate.measures exact_match {PAIRS}",
        f"--evaluate.length_penalty 1 --evaluate.beams 2 --evaluate.measures exact_match {PAIRS}",
    ),
}  # fmt: skip


@pytest.fixture
def trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[recipe.Recipe]:
    """What ``train`` is asked for. Nothing is trained."""
    asked: list[recipe.Recipe] = []

    def note(settings: recipe.Recipe, runs: Path, name: str, **_: object) -> trainer.TrainingResult:
        asked.append(settings)
        return trainer.TrainingResult(runs / name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer, "train", note)
    return asked


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Return the one line that a command is refused with."""
    capsys.readouterr()
    assert command_line.main([str(word) for word in words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line.removeprefix("keras-lstmgen: ")


def test_every_rule_is_tried() -> None:
    assert CASES.keys() == effects.NEEDS.keys()
    assert {name: getattr(Options(), name) for name in effects.SAMPLING if name != "seed"} | {
        "seed": 0
    } == effects.SAMPLING


@pytest.mark.parametrize("name", CASES)
def test_an_option_without_an_effect_is_refused_and_one_with_an_effect_is_not(
    name: str, trains: list[recipe.Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    without, with_effect = map(shlex.split, CASES[name])
    said = refused(capsys, "train", *without)
    assert said == f"--{name} has no effect here: it needs {effects.NEEDS[name].description}"
    assert trains == []
    assert command_line.main(["train", *with_effect]) == 0
    assert len(trains) == 1


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_is_refused_by_its_name_and_a_saved_run_never(
    name: str, trains: list[recipe.Recipe], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of an earlier version may hold such values. It is read as it is."""
    words = shlex.split(CASES[name][0])
    tables = recipe.to_tables(recipe.Recipe())
    for option, value in zip(words[::2], words[1::2], strict=True):
        section, key = option.removeprefix("--").split(".")
        default = tables[section][key]
        kind = (
            (lambda word: [word])
            if isinstance(default, list)
            else json.loads
            if default in (True, 0, 0.1, 0.01)
            else str
        )
        tables[section][key] = kind(value)
    settings = recipe.parse(tables)
    (tmp_path / "mine.toml").write_text(recipe.to_toml(settings), encoding="utf-8")
    assert refused(capsys, "train", "mine.toml").startswith(f"mine.toml: {name} has no effect here: it needs ")
    assert trains == []
    assert recipe.load(tmp_path / "mine.toml") == settings
    about: dict[str, Any] = json.loads((trained / run_directory.METADATA).read_text())
    (tmp_path / run_directory.METADATA).write_text(json.dumps(about | {"recipe": recipe.to_tables(settings)}))
    assert recipe.parse(run_directory.load_metadata(tmp_path).recipe) == settings


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_value_of_the_recipes_has_an_effect(path: Path) -> None:
    effects.check(recipe.load(path), recipe.recipe_fields(), "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("generate --temperature 0 --top-k 5", "--top-k has no effect here: it needs a --temperature above 0"),
        ("generate --temperature 0 --seed 7", "--seed has no effect here: it needs a --temperature above 0"),
        ("chat --temperature 0 --top-p 0.5", "--top-p has no effect here: it needs a --temperature above 0"),
        ("generate --beams 2 --seed 7", "--seed has no effect here: it needs sampling; leave out either"),
        ("generate --length-penalty 1", "--length-penalty: applies to a beam search; give --beams too"),
        ("inspect --prompt a --seed 7", "--seed has no effect here: it needs --max-new-tokens"),
        ("inspect --prompt a --temperature 2", "--temperature has no effect here: it needs --max-new-tokens"),
        ("evaluate RUN --samples 0 --sample-tokens 9", "--sample-tokens has no effect here: it needs --samples, or"),
        ("evaluate RUN --evaluate.beams 2", "--evaluate.beams has no effect here: it needs one of the evaluate"),
        ("chat RUN --memory 2", "--memory: this run was not trained on pairs"),
        ("train a.txt --corpus.source b.txt", "a.txt: has no effect together with --corpus.source; leave out one"),
        ("prepare a.txt --runs b --output c", "there is no option '--runs'"),
        ("train --resume RUN --training.source_loss 1", "--training.source_loss has no effect here: it needs pairs"),
    ],
)  # fmt: skip
def test_an_option_of_a_verb_that_has_no_effect_is_refused(
    words: str, said: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [str(trained) if word == "RUN" else word for word in words.split()]
    assert re.match(re.escape(said), refused(capsys, *typed))


def test_what_a_prepared_corpus_is_decides_what_has_an_effect(
    trains: list[recipe.Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ids"
    folder.mkdir()
    about = {
        "format_version": 1,
        "dtype": "<u2",
        "counts": {},
        "start_id": 1,
        "unsampled_ids": [],
        "sha256": "",
        "shards": {},
    }
    tables = recipe.to_tables(recipe.Recipe(corpus=recipe.Corpus(source=("a.tsv",), documents="pairs")))
    made = about | {"corpus": tables["corpus"], "tokenizer": tables["tokenizer"]}
    (folder / "prepared.json").write_text(json.dumps(made))
    assert command_line.main(["train", "ids", "--training.source_loss", "0.5"]) == 0
    assert len(trains) == 1
    assert "--training.random_offsets has no effect" in refused(
        capsys, "train", "ids", "--training.random_offsets", "false"
    )
    assert "corpus.sha256 has no effect on a prepared corpus" in refused(capsys, "train", "ids", "--corpus.sha256", "1")


def test_a_rule_says_what_it_needs() -> None:
    settings = recipe.override(recipe.Recipe(), {"training.source_loss": 0.5})
    with pytest.raises(UserError, match=r"^r: training\.source_loss has no effect here: it needs pairs"):
        effects.check(settings, recipe.recipe_fields(), "r: ")
    effects.check(settings, ["training.window"], "--")
