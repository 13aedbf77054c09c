"""Keras uses TensorFlow whatever its own settings say, or one line tells which of them cannot be."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.layers import lstm
from keras_lstmgen.system import environment

BROKEN = {"backend": "jax", "floatx": "float7", "epsilon": "small", "image_data_format": 3, "nnx_enabled": True}


def run_at(home: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KERAS_")}
    settings = kept | {"HOME": str(home)} | variables
    return subprocess.run([sys.executable, *words], env=settings, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "KERAS_BACKEND",
            "jax",
            "KERAS_BACKEND=jax: keras-lstmgen needs the backend 'tensorflow'; unset .*",
        ),
        ("KERAS_BACKEND", "torch", "KERAS_BACKEND=torch: keras-lstmgen needs .*"),
        ("KERAS_BACKEND", "a\nb", r"KERAS_BACKEND=a\\nb: keras-lstmgen needs the backend 'tensorflow'; .*"),
        (
            "KERAS_MAX_EPOCHS",
            "1",
            "KERAS_MAX_EPOCHS=1: would stop a training early; .* use --training.epochs",
        ),
        ("KERAS_MAX_STEPS_PER_EPOCH", "x", "KERAS_MAX_STEPS_PER_EPOCH=x: would .*, and use --training.minutes"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_before_tensorflow_is_imported(
    tmp_path: Path, name: str, value: str, line: str
) -> None:
    program = "import sys; from keras_lstmgen.cli.command_line import main; sys.exit(main())"
    words = ["-X", "importtime", "-c", program, "info"]
    done = run_at(tmp_path, *words, **{name: value})
    imported = re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.M)
    assert "keras_lstmgen.cli.command_line" in imported
    assert not {"keras", "tensorflow", "keras_lstmgen.cli.verbs.info"} & set(imported)
    said = re.sub(r"^import time:.*\n", "", done.stderr, flags=re.M)
    assert done.returncode == 2
    assert re.fullmatch(f"keras-lstmgen: {line}\n", said)


@pytest.mark.slow
def test_whatever_stands_in_keras_json_changes_nothing(trained: Path, tmp_path: Path) -> None:
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(json.dumps(BROKEN))
    words = ["-m", "keras_lstmgen.generate", str(trained), "--max-new-tokens", "9"]
    done = run_at(tmp_path, *words, KERAS_BACKEND="")
    assert (done.returncode, len(done.stdout) > 1) == (0, True), done.stderr
    assert json.loads((tmp_path / ".keras/keras.json").read_text()) == BROKEN


def test_a_program_that_chose_no_backend_gets_tensorflow(tmp_path: Path) -> None:
    code = "import keras_lstmgen, os; print(os.environ['KERAS_BACKEND'])"
    assert run_at(tmp_path, "-c", code).stdout == "tensorflow\n"
    assert run_at(tmp_path, "-c", code, KERAS_BACKEND="").stdout == "tensorflow\n"
    assert run_at(tmp_path, "-c", code, KERAS_BACKEND="jax").stdout == "jax\n"


def test_a_program_with_another_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.spec_from_file_location("layers_once_more", lstm.__file__)
    assert found
    assert found.loader
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ImportError, match="needs Keras with its TensorFlow backend; set KERAS_BACKEND=tensorflow"):
        found.loader.exec_module(importlib.util.module_from_spec(found))


def test_the_choice_is_checked_each_time_a_command_is_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(environment.BACKEND, "jax")
    assert command_line.main(["info", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("keras-lstmgen: KERAS_BACKEND=jax: ")
