"""What many tests share: one small text, one small run trained on it, its artifacts."""

import hashlib
import os
import pydoc_data.topics
import re
import shutil
import subprocess
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_lstmgen import exporters, files, recipe, sources, training  # (after the variable that TensorFlow reads)
from keras_lstmgen.errors import UserError

# How long an example takes says something of the machine, not of us.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")

# Small, and all dimensions different, so that a swapped axis cannot pass.
SMALL = {
    "model.embedding_size": 5, "model.units": 12, "model.layers": 2, "model.dropout": 0.1,
    "training.batch_size": 3, "training.window": 17, "training.epochs": 2, "export.texts": 24, "export.tokens": 20,
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


@pytest.fixture(scope="session")
def trained(settings: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a stream of characters, with all its artifacts. Tests that change it take a copy."""
    folder = training.train(settings, tmp_path_factory.mktemp("runs"), "small")
    exporters.export(folder, settings.export)
    return folder


@pytest.fixture(scope="session")
def trained_lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on documents, one a line, in subwords, Chinese among them, the output tied; exported."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "lines.txt").write_text(
        "床前明月光\n疑是地上霜\nthe moon is bright\nthe frost is white\n" * 60, encoding="utf-8"
    )
    values = SMALL | {
        "corpus.source": [str(folder / "lines.txt")], "corpus.documents": "lines",
        "corpus.validation": [str(folder / "lines.txt")], "tokenizer.type": "bpe", "tokenizer.vocab_size": 50,
        "model.embedding_size": 12, "model.tied": True, "training.epochs": 6, "training.learning_rate": 0.02,
    }  # fmt: skip
    settings = recipe.override(recipe.Recipe(), values)
    run = training.train(settings, folder / "runs", "lines")
    exporters.export(run, settings.export)
    return run


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """The run, moved elsewhere, to be changed at will."""
    return Path(shutil.copytree(trained, tmp_path / "moved"))


ROOT = Path(__file__).resolve().parents[1]
NO_NETWORK = re.compile("ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|ETIMEDOUT")  # as npm says it


@pytest.fixture(scope="session")
def npm() -> str:
    """npm, which fetches what only a browser needs."""
    found = shutil.which("npm")
    if found is None:
        pytest.skip("npm is not installed")
    return found


@pytest.fixture(scope="session")
def pages(npm: str, trained: Path, trained_lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of both runs, under the names of their fixtures, and their web pages."""
    del npm  # asked for, so that without it the tests skip
    folder = tmp_path_factory.mktemp("pages")
    for name, run in {"trained": trained, "trained_lines": trained_lines}.items():
        copy = Path(shutil.copytree(run, folder / name))
        try:
            exporters.export(copy, recipe.Export(formats=("web",), texts=24, tokens=20))
        except UserError as error:
            _skip_without_network(str(error))
            raise
    return folder


@pytest.fixture(scope="session")
def browser_kit(npm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit of the web page and the scripts of its tests, with npm's packages, which the cache folder keeps."""
    kit = ROOT / "export/browser"
    lock = (kit / "package-lock.json").read_bytes()
    kept = sources.cache_folder() / f"browser-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not kept.is_dir():
        with files.replacing(kept) as path:
            path.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(kit / name, path)
            done = subprocess.run([npm, "ci", "--ignore-scripts"], cwd=path, capture_output=True, text=True)
            _skip_without_network(done.stderr)
            assert done.returncode == 0, done.stderr
    folder = tmp_path_factory.mktemp("kit") / "browser"
    shutil.copytree(kit, folder, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(ROOT / "tests/browser", folder / "tests")
    (folder / "node_modules").symlink_to(kept / "node_modules")
    return folder


def _skip_without_network(said: str) -> None:
    if code := NO_NETWORK.search(said):
        pytest.skip(f"npm does not reach its registry ({code[0]}), and the cache folder has not what it would bring")
