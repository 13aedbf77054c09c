"""``info`` shows which runs there are and what each is, finished or not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.layers import compute_dtype, lstm, native_ops
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import trainer
from tests.shown import shown


@pytest.fixture
def shelf(trained: Path, tmp_path: Path) -> Path:
    """A finished run with artifacts, one that broke off in training, one with a damaged file."""
    for name in ("novel", "begun", "torn"):
        shutil.copytree(trained, tmp_path / "shelf" / name)
    begun = tmp_path / "shelf/begun"
    for name in ("metrics.json", "export.json", "curve.png"):
        (begun / name).unlink()
    run_directory.save_metadata(begun, replace(run_directory.load_metadata(begun), metrics={}))
    (tmp_path / "shelf/torn/metrics.json").write_text('{"validation": ')
    (tmp_path / "shelf/notes").mkdir()
    return tmp_path / "shelf"


def row(printed: str, beginning: str) -> list[str]:
    """The words of the line that begins so."""
    return next(line.split() for line in printed.splitlines() if line.strip().startswith(beginning + " "))


def test_the_list_has_a_line_a_run_with_what_it_reached_and_its_artifacts(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["info", "--runs", str(shelf)]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((shelf / "novel/metrics.json").read_text(encoding="utf-8"))
    reached = f"{metrics['validation']['nats_per_token']:.3f}"
    assert row(printed, "novel") == ["novel", reached, f"{metrics['minutes']:.1f}", "saved_model,", "tflite,", "onnx"]
    assert row(printed, "begun") == ["begun", "unfinished", "none"]
    assert row(printed, "torn") == ["torn", "damaged"]
    assert "notes" not in printed
    assert printed.splitlines()[-1].startswith("next: keras-lstmgen info ")


def test_the_list_of_no_runs_says_how_to_train_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["info", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"keras-lstmgen: {tmp_path}: holds no run; train one with 'keras-lstmgen train'\n"
    )


def test_a_run_is_described_by_its_recipe_model_measures_and_artifacts(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["info", "novel", "--runs", str(shelf)]) == 0
    printed = capsys.readouterr().out
    metadata = run_directory.load_metadata(shelf / "novel")
    for name, table in metadata.recipe.items():
        for key in table:
            assert f"{name}.{key}" in printed
    assert row(printed, "model.units") == ["model.units", "12"]
    assert row(printed, "vocab size") == ["vocab", "size", str(metadata.vocab_size)]
    assert row(printed, "nats per token")[-1] == f"{metadata.metrics['validation']['nats_per_token']:,.4f}"
    proofs = json.loads((shelf / "novel/export.json").read_text(encoding="utf-8"))["artifacts"]
    for name, proof in proofs.items():
        assert row(printed, name) == [name, proof["path"], f"{proof['bytes']:,}", "24", "of", "24"]
    assert printed.splitlines()[-1] == f"next: keras-lstmgen generate {shelf / 'novel'}"


def test_an_unfinished_run_is_described_without_measures_and_artifacts(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["info", str(shelf / "begun")]) == 0
    printed = capsys.readouterr().out
    assert row(printed, "model.units") == ["model.units", "12"]
    assert "nats per token" not in printed
    assert "of 24" not in printed


def test_an_artifact_that_is_gone_is_not_shown(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(shelf / "novel/onnx")
    command_line.main(["info", "novel", "--runs", str(shelf)])
    printed = capsys.readouterr().out
    assert "onnx " not in printed.split("artifacts")[-1]
    assert row(printed, "tflite")[-1] == "24"


def test_a_name_with_brackets_is_shown_as_it_is(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets are markup to what prints the tables."""
    shutil.copytree(trained, tmp_path / "a[red]b")
    command_line.main(["info", "a[red]b", "--runs", str(tmp_path)])
    assert capsys.readouterr().out.count("a[red]b") == 4


@pytest.mark.parametrize("name", ["torn", "nvel"])
def test_what_cannot_be_described_is_one_line_and_exit_status_2(
    shelf: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (shelf / "torn/keras_lstmgen.json").write_text("{")
    assert command_line.main(["info", name, "--runs", str(shelf)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "keras_lstmgen.json" in err if name == "torn" else "nearest is 'novel'" in err


MISSING = "The native code is missing, because keras_lstmgen was installed without a C compiler. Training takes two to"


def test_missing_native_code_is_told_in_a_line_where_a_training_begins_and_by_info(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = (["info", "--runs", str(copied.parent)], ["info", copied.name, "--runs", str(copied.parent)])
    printed = {}
    for library in (native_ops.library, lambda: None):
        monkeypatch.setattr(native_ops, "library", library)
        for command in commands:
            assert command_line.main(command) == 0
        shown(trainer.resume, copied, recipe.load(copied / run_directory.RECIPE))
        printed[library()] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(MISSING)]
    assert [len(lines) for lines in printed.values()] == [0, 3]


def test_missing_native_code_is_no_news_where_a_gpu_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_ops, "library", lambda: None)
    assert lstm.missing_kernel_warning().startswith(MISSING)
    monkeypatch.setattr(compute_dtype, "has_gpu", lambda: True)
    assert lstm.missing_kernel_warning() == ""
