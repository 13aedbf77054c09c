"""``info`` shows which runs there are and what each is, finished or not."""

import json
import shutil
import sys
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


SLOW = "; training takes 2 to 4 times as long; install gcc and then install keras_lstmgen again"


def kernel_lines(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("LSTM kernel: ")]


def test_the_start_of_a_training_and_info_system_name_the_kernel_and_the_reason(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = ["info", "--system"]
    commands = (["info", "--runs", str(copied.parent)], ["info", copied.name, "--runs", str(copied.parent)], system)
    printed = {}
    for library in (native_ops.library, lambda: None):
        monkeypatch.setattr(native_ops, "library", library)
        for command in commands:
            assert command_line.main(command) == 0
        shown(trainer.resume, copied, recipe.load(copied / run_directory.RECIPE))
        printed[library() is None] = kernel_lines(capsys.readouterr().out)
    assert len(printed[False]) == 2
    assert len(printed[True]) == 4
    assert all("Keras's own loop" in line for line in printed[True])
    assert not any("Keras's own loop" in line for line in printed[False])


@pytest.mark.parametrize(
    ("precision", "kernels", "speed", "expected"),
    [
        ("auto", ("avx512", "avx512_bf16"), 2, "AVX512-BF16 in bfloat16, the fastest of this processor"),
        ("auto", ("avx512", "avx512_bf16"), 1, "AVX512 in float32, which is faster than bfloat16 on this processor"),
        ("auto", ("neon", ""), 0, "NEON in float32, because this processor does not multiply bfloat16"),
        ("float32", ("avx2", "amx"), 2, "AVX2 in float32, as precision = float32 requires"),
        ("bfloat16", ("avx2", "amx"), 1, "AMX in bfloat16, as precision = bfloat16 requires"),
    ],
)
def test_the_description_has_the_kernel_that_the_precision_selects(
    precision: str, kernels: tuple[str, str], speed: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_ops, "library", lambda: object())
    monkeypatch.setattr(native_ops, "has_bfloat16", lambda: speed > 0)
    monkeypatch.setattr(native_ops, "is_bfloat16_faster", lambda: speed > 1)
    monkeypatch.setattr(native_ops, "kernel_name", lambda bfloat16: kernels[bfloat16])
    assert lstm.kernel_description(precision) == expected


def test_the_name_of_the_kernel_is_that_of_the_selected_one() -> None:
    if native_ops.library() is None:
        pytest.skip("needs the native code, which is not installed")
    try:
        for name in ("plain", "avx2", "avx512", "neon"):
            if native_ops.select_kernel(name):
                assert native_ops.kernel_name(bfloat16=False) == name
    finally:
        native_ops.select_kernel("best")


def test_a_missing_kernel_is_described_with_the_recorded_reason_unless_a_gpu_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_ops, "library", lambda: None)
    monkeypatch.setattr(native_ops, "FOLDER", tmp_path)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    absent = f"the installed package has no native code for Python {version}"
    assert lstm.kernel_description() == f"Keras's own loop: {absent}{SLOW}"
    (tmp_path / "missing.txt").write_text("no C compiler was found during installation")
    assert lstm.kernel_description() == f"Keras's own loop: no C compiler was found during installation{SLOW}"
    monkeypatch.setattr(compute_dtype, "has_gpu", lambda: True)
    assert lstm.kernel_description() == "cuDNN, because TensorFlow uses a GPU"
