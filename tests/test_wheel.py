"""The package works outside the checkout: recipes by name, a copy of the clients, and a wheel built from the sdist."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.cli.checks import recipe_arguments
from keras_lstmgen.config import recipe
from keras_lstmgen.files import packaged

ROOT = Path(__file__).parents[1]
IGNORED = shutil.ignore_patterns(".*", "__pycache__", "saved_models", "*.so", "node_modules", "build", "dist")


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KERAS_LSTMGEN_DATA", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that fails with status 2, and return its one line on standard error."""
    assert command_line.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("word", ["shakespeare", "shakespeare.toml"])
def test_a_recipe_is_found_by_its_name_outside_the_checkout(word: str) -> None:
    settings, name = recipe_arguments.recipe_and_name([word], {"model.units": 7})
    expected = recipe.load(ROOT / "pipelines/shakespeare.toml")
    assert (settings, name) == (recipe.override(expected, {"model.units": 7}), "shakespeare")


def test_a_file_in_the_working_directory_comes_before_a_recipe_and_a_note_names_the_recipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("news").write_text("The ferry.\n")
    Path("news.toml").write_text("[model]\nunits = 3\n")
    settings, _ = recipe_arguments.recipe_and_name(["news"], {})
    assert settings.corpus.source == ("news",)
    note = "news: using the text in the working directory; to select the packaged recipe, type news.toml"
    assert " ".join(capsys.readouterr().err.split()) == note
    assert recipe_arguments.recipe_and_name(["news.toml"], {})[0].model.units == 3


@pytest.mark.parametrize("word", ["shakespere", "shakespere.toml"])
def test_an_unknown_name_is_refused_with_the_names_of_the_recipes(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "train", word)
    assert line.endswith(f"; the packaged recipes are {', '.join(packaged.recipes())}")
    assert {path.stem for path in (ROOT / "pipelines").glob("*.toml")} == set(packaged.recipes())


def test_clients_copies_the_clients_and_overwrites_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["clients", "kit"]) == 0
    copied = Path("kit/export")
    for path in (ROOT / "export").rglob("*.py"):
        if "node_modules" not in path.parts:
            assert (copied / path.relative_to(ROOT / "export")).read_bytes() == path.read_bytes()
    assert not list(copied.rglob("__pycache__"))
    (copied / "client.py").write_text("mine")
    capsys.readouterr()
    assert "nothing is overwritten" in refused(capsys, "clients", "kit")
    assert (copied / "client.py").read_text() == "mine"


@pytest.mark.slow
def test_a_wheel_built_from_the_sdist_trains_exports_and_runs_a_client(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(ROOT, source, ignore=IGNORED)
    (source / "saved_models").mkdir()
    build = "import sys, setuptools.build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
    built(source, build, "build_sdist", tmp_path)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    built(next(tmp_path.glob("keras_lstmgen-*/")), build, "build_wheel", tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    assert (site / "keras_lstmgen/packaged/export/browser/index.html").is_file()
    environment = os.environ | {"PYTHONPATH": str(site)}
    program = [sys.executable, str(ROOT / "tests/installed.py")]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(site))


def built(folder: Path, program: str, *words: str | Path) -> None:
    """Run a build step in a folder."""
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
