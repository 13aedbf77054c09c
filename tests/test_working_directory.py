"""Nothing is imported from the working directory, by whatever way a command or a child process is started."""

import os
import pydoc_data.topics
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keras_lstmgen.cli import options
from keras_lstmgen.tokenizers import sentencepiece_trainer
from tests.conftest import SMALL
from tests.planted import executed, installed, plant

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = ("onnx/generate.py", "tf_serving/rest.py", "tflite/generate.py", "tflite/suggest.py")  # without TensorFlow
BEFORE = "import sys; print(*sys.modules)"  # of a package: what Python imports before any code of a package runs
TRAINED = [word for name, value in SMALL.items() if "export" not in name for word in (f"--{name}", str(value))]


def run_in(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([sys.executable, *words], cwd=folder, env=variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def too_early(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What ``python -m PACKAGE.MODULE`` takes from the working directory before the package can prevent it."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe").mkdir()
    (folder / "probe/__init__.py").write_text(BEFORE)
    (folder / "probe/module.py").write_text("")
    names = {name.partition(".")[0] for name in run_in(folder, "-m", "probe.module").stdout.split()}
    return names - {"probe"} | {"keras_lstmgen"}


@pytest.fixture
def folder(tmp_path: Path, too_early: set[str]) -> Path:
    """A working directory with a module of every name that can be imported."""
    names = installed()
    assert {"numpy", "sentencepiece", "tensorflow", "json", "subprocess"} <= names - too_early
    return plant(tmp_path, names - too_early)


def test_planted_modules_are_executed_where_python_is_started_as_usual(folder: Path) -> None:
    run_in(folder, "-c", "import sentencepiece")
    assert executed(folder) == ["sentencepiece"]


@pytest.mark.parametrize("verb", options.VERBS)
def test_no_verb_imports_from_the_working_directory(folder: Path, verb: str) -> None:
    done = run_in(folder, "-m", f"keras_lstmgen.{verb}", "--help")
    assert executed(folder) == []
    assert done.stdout.startswith(f"usage: keras-lstmgen {verb} ")


@pytest.mark.slow
def test_workers_that_train_with_subwords_import_nothing_from_the_working_directory(folder: Path) -> None:
    (folder / "text.txt").write_text(
        "".join(pydoc_data.topics.topics.values())[: sentencepiece_trainer.IN_PROCESS * 5 // 4]
    )
    words = ["text.txt", *TRAINED, "--tokenizer.type", "bpe", "--tokenizer.vocab_size", "300", "--workers", "2"]
    done = run_in(folder, "-m", "keras_lstmgen.train", *words, "--training.batch_size", "32", "--training.epochs", "1")
    assert executed(folder) == []
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "saved_models/text/metrics.json").is_file()


def test_no_client_lets_the_folder_that_holds_the_kit_hide_a_module() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "export").rglob("*.py")}
    changing = {
        path.relative_to(ROOT / "export").as_posix(): text for path, text in texts.items() if "sys.path" in text
    }
    assert set(CLIENTS) < set(changing)
    for name, text in changing.items():
        assert re.findall(r"^sys\.path\.(\w+)", text, re.M) == ["append", "pop"], name


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_imports_nothing_but_its_kit_from_the_folder_that_holds_the_kit(tmp_path: Path, name: str) -> None:
    shutil.copytree(ROOT / "export", tmp_path / "export", ignore=shutil.ignore_patterns("browser", "__pycache__"))
    plant(tmp_path, installed() - {"export"})
    done = run_in(tmp_path, f"export/{name}", "--help")
    assert executed(tmp_path) == []
    assert done.stdout.startswith("usage: ")


def test_the_process_that_learns_a_vocabulary_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(plant(tmp_path, installed()))
    monkeypatch.setattr(sentencepiece_trainer, "IN_PROCESS", 0)
    assert sentencepiece_trainer.learn("bpe", ["some words and some more words"], 270)
    assert executed(tmp_path) == []
