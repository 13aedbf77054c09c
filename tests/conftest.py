"""What many tests share: one small text, one small run trained on it, its artifacts."""

import os
import pydoc_data.topics
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_lstmgen.config import recipe  # (after the variable that TensorFlow reads)
from keras_lstmgen.exporters import export_run, registry
from keras_lstmgen.files import atomic
from keras_lstmgen.layers import native_ops
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests are no package that is installed
from tests import chromium, npm

# PyTorch takes Triton along where it is installed, as with its builds for GPUs: beside TensorFlow that crashes.
sys.modules["triton"] = None  # type: ignore[assignment]

GOLDEN = Path(__file__).with_name("golden") / "run"

# How long an example takes says something of the machine, not of us.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=10_000)  # make fuzz
hypothesis.settings.load_profile("ours")

# Small, and all dimensions different, so that a swapped axis cannot pass.
SMALL = {
    "model.embedding_size": 5, "model.units": 12, "model.layers": 2, "model.dropout": 0.1,
    "training.batch_size": 11, "training.window": 17, "training.epochs": 2, "export.texts": 24, "export.tokens": 20,
}  # fmt: skip


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 12,000 characters of real English prose."""
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text("".join(pydoc_data.topics.topics.values())[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def settings(text: Path) -> recipe.Recipe:
    """A recipe that trains in seconds."""
    return recipe.override(recipe.Recipe(), {"corpus.source": [str(text)], **SMALL})


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """What makes a folder in the first process of the tests that asks for it, while the others wait; it is but read."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = shared / "once" / name, shared / "once" / f"{name}.whole"
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.exclusive_lock(folder, lambda: None):
            if not whole.exists():
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def trained(settings: recipe.Recipe, once: Once) -> Path:
    """A run on a stream of characters, with all its artifacts. Tests that change it take a copy."""

    def make(folder: Path) -> None:
        export_run.export(trainer.train(settings, folder, "small").folder, settings.export)

    return once("runs", make) / "small"


@pytest.fixture(scope="session")
def trained_lines(once: Once) -> Path:
    """A run on documents, one a line, in subwords, Chinese among them, the output tied; exported."""
    return once("lines", _lines) / "runs" / "lines"


def _lines(folder: Path) -> None:
    (folder / "lines.txt").write_text(
        "床前明月光\n疑是地上霜\nthe moon is bright\nthe frost is white\n" * 60, encoding="utf-8"
    )
    values = SMALL | {
        "corpus.source": [str(folder / "lines.txt")], "corpus.documents": "lines",
        "corpus.validation": [str(folder / "lines.txt")], "tokenizer.type": "bpe", "tokenizer.vocab_size": 50,
        "model.embedding_size": 12, "model.tied": True, "training.epochs": 6, "training.learning_rate": 0.02,
    }  # fmt: skip
    settings = recipe.override(recipe.Recipe(), values)
    export_run.export(trainer.train(settings, folder / "runs", "lines").folder, settings.export)


@pytest.fixture(params=[("avx512_bf16", "emulated"), ("amx", "emulated amx")], ids=["vectors", "matrix registers"])
def bfloat16(request: pytest.FixtureRequest) -> Iterator[None]:
    """The kernel in bfloat16, in each way that it has: of the processor, or emulated where that has it not."""
    if not any(native_ops.select_kernel(kind) for kind in request.param):
        pytest.skip("this processor neither multiplies bfloat16 nor can emulate it")
    yield
    native_ops.select_kernel("best")


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """The run, moved elsewhere, to be changed at will."""
    return Path(shutil.copytree(trained, tmp_path / "moved"))


@pytest.fixture(scope="session")
def pages(trained: Path, trained_lines: Path, once: Once) -> Path:
    """A folder with copies of both runs, under the names of their fixtures, and their web pages."""
    settings = recipe.Export(formats=("web",), texts=24, tokens=20)

    def make(folder: Path) -> None:
        for name, run in {"trained": trained, "trained_lines": trained_lines}.items():
            copy = Path(shutil.copytree(run, folder / name, dirs_exist_ok=True))
            npm.or_skip(partial(export_run.export, copy, settings))

    return once("pages", make)


@pytest.fixture(scope="session")
def golden_exported(once: Once) -> Path:
    """The golden run with artifacts that the exporters of today make. Tests that change it take a copy."""

    def make(folder: Path) -> None:
        copy = Path(shutil.copytree(GOLDEN, folder / "run"))
        model = run_directory.load(copy)
        for name in ("saved_model", "tflite", "onnx"):
            registry.exporter(name).write(model, copy)

    return once("golden", make) / "run"


@pytest.fixture(scope="session")
def browser_kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit of the web page and the scripts of its tests, with npm's packages."""
    return npm.or_skip(lambda: chromium.kit(tmp_path_factory.mktemp("kit") / "browser"))


refused_names: dict[str, int] = {}  # what may not be written, and the error


def _refuse(event: str, values: tuple[Any, ...]) -> None:
    """An audit hook: let the system refuse to open for writing, to make or to rename to, what bears such a name."""
    if not refused_names or event not in ("open", "os.mkdir", "os.rename"):
        return
    path = str(values[1] if event == "os.rename" else values[0])
    mode, flags = (values[1], values[2]) if event == "open" else ("w", 0)
    if not (set(mode) & set("wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        return
    for name, error in refused_names.items():
        if name in path:
            raise OSError(error, os.strerror(error), path)


@pytest.fixture(scope="session")
def hook() -> None:
    """The hook, which stays in the process: Python takes none back."""
    sys.addaudithook(_refuse)


@pytest.fixture
def refusing(hook: None) -> Iterator[dict[str, int]]:
    """Names of files that the system refuses to write, with the error; all are allowed again in the end."""
    del hook
    yield refused_names
    refused_names.clear()
