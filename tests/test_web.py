"""The web page's export: the folder is whole, npm is asked once, and what would write otherwise is not kept."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_library
import pytest

from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import export_run, onnx, web
from keras_lstmgen.files import data_folder
from keras_lstmgen.generation import sampling
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import trainer
from keras_lstmgen.utils.errors import UserError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "export/browser/run.mjs"
FEW = recipe.Export(formats=("web",), texts=6, tokens=5)
MIXES: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0},
    {"top_k": 7, "temperature": 0.8},
    {"top_p": 0.9, "min_p": 0.02},
)


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["trained", "trained_lines"])
def test_the_folder_is_the_page_and_all_that_it_loads(pages: Path, name: str) -> None:
    folder = pages / name / "web"
    ours = {"model.onnx", "tokenizer.model", "keras_lstmgen.json", "package.json"}
    assert files_of(folder) == {*web.PAGE, *web.VENDORED.values(), *ours}
    assert (folder / "tokenizer.model").read_bytes() == (pages / name / "tokenizer.model").read_bytes()
    said, meant = (json.loads((place / "keras_lstmgen.json").read_text()) for place in (folder, pages / name))
    corpus = meant["recipe"]["corpus"]
    corpus |= {key: [Path(name).name for name in corpus[key]] for key in ("source", "validation")}
    assert said == meant
    for file in web.PAGE:
        text = (folder / file).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//\w+\.", text), file  # no other host
        for loaded in re.findall(r'(?:src=|href=|from |Worker\()"(?!data:)(?:\./)?([^"]+)"', text):
            assert (folder / loaded).is_file(), (file, loaded)


def test_the_record_says_what_was_proved(pages: Path) -> None:
    for name in ("trained", "trained_lines"):
        entry = json.loads((pages / name / "export.json").read_text())["artifacts"]["web"]
        stored = sum(path.stat().st_size for path in (pages / name / "web").rglob("*") if path.is_file())
        assert (entry["path"], entry["bytes"], entry["reasons"]) == ("web", stored, [])
        assert (entry["identical"], entry["tried"]) == (24, 24)
        assert 0 < entry["difference"] < 1e-4


def node(*words: str | Path, questions: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["node", *map(str, words)], input=questions, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.usefixtures("pages")  # whose export has asked npm, or skipped
def test_in_node_a_folder_of_a_run_on_pairs_answers_as_keras_does(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("paired")
    lines = [f"{a} or {b}?\t{b}, {a}" for a in ("moon", "月", "sun") for b in ("frost", "霜", "star")]
    (folder / "pairs.tsv").write_text("\n".join(lines * 3), encoding="utf-8")
    values = {
        "corpus.source": [str(folder / "pairs.tsv")], "corpus.validation": [str(folder / "pairs.tsv")],
        "corpus.documents": "pairs", "model.embedding_size": 5, "model.units": 12, "model.layers": 1,
        "model.attention": 9, "training.batch_size": 5, "training.epochs": 9, "training.learning_rate": 0.02,
    }  # fmt: skip
    made = trainer.train(recipe.override(recipe.Recipe(), values), folder / "runs", "pairs").folder
    export_run.export(made, FEW)
    model, prompts = run_directory.load(made), ("moon or 霜?", "one turn\nsun or star?\n", "", "月")
    asked = [{"prompt": prompt, "seed": "3", "options": mix} for prompt, mix in zip(prompts, MIXES, strict=True)]
    done = node(RUN, made / "web", questions=json.dumps(asked))
    assert (done.returncode, done.stderr) == (0, "")
    for prompt, mix, found in zip(prompts, MIXES, json.loads(done.stdout), strict=True):
        [sample] = Generator(model).generate(prompt, GenerationConfig(200, sampling.Options(**mix)), seeds=[3])
        assert (found["text"], found["tokens"]) == (sample.text, sample.tokens)


@pytest.mark.parametrize("name", ["trained", "trained_lines"])
def test_in_node_a_folder_writes_the_texts_of_keras(pages: Path, name: str) -> None:
    model = run_directory.load(pages / name)
    generator = Generator(model)
    prompts, seeds = ("The ", "床前明月", "", "a\n b"), (0, -1, 7, 2**64 - 3)
    asked = [
        {"prompt": prompt, "seed": str(seed), "options": mix, "max_new_tokens": 30}
        for prompt, seed, mix in zip(prompts, seeds, MIXES, strict=True)
    ]
    done = node(RUN, pages / name / "web", questions=json.dumps([*asked, {}]))
    assert (done.returncode, done.stderr) == (0, "")
    *answers, neutral = json.loads(done.stdout)
    for prompt, seed, mix, found in zip(prompts, seeds, MIXES, answers, strict=True):
        options = sampling.Options(**mix)
        [sample] = generator.generate(prompt, GenerationConfig(30, options), seeds=[seed])
        assert (found["text"], found["tokens"]) == (sample.text, sample.tokens)
        assert found["finish_reason"] == sample.finish_reason
        assert found["logprob"] == pytest.approx(sample.logprob, abs=1e-3)
    [sample] = generator.generate("", GenerationConfig(200))
    assert neutral["tokens"] == sample.tokens


def test_in_node_bad_input_is_one_line_and_exit_status_2(pages: Path, tmp_path: Path) -> None:
    good = pages / "trained/web"
    other = Path(shutil.copytree(good, tmp_path / "other"))
    shutil.copy(pages / "trained_lines/web/tokenizer.model", other)
    cases = [
        (tmp_path / "none", "[{}]", "none"),
        (good, "[", "JSON"),
        (good, '[{"options": {"top_p": 0}}]', "top_p is out of range"),
        (good, '[{"seed": "x"}]', "seed is out of range"),
        (good, '[{"max_new_tokens": 0}]', "length is out of range"),
        (other, "[{}]", "model, tokenizer and metadata differ in vocabulary size"),
    ]
    for folder, questions, line in cases:
        done = node(RUN, folder, questions=questions)
        assert (done.returncode, done.stdout) == (2, "")
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: Path) -> Path:
    """A folder that is all of PATH but a few tools, with Node alone; the cache folder is another, and empty."""
    del pages  # asked for, so that the real archive has been fetched
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("node", "sh", "cp"):
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture(scope="session")
def archive(pages: Path) -> Path:
    """What npm fetched when the pages were exported."""
    del pages
    lock = json.loads((web.kit() / "package-lock.json").read_text(encoding="utf-8"))
    return (
        data_folder.cache_folder()
        / f"onnxruntime-web-{lock['packages']['node_modules/onnxruntime-web']['version']}.tgz"
    )


def pretend(folder: Path, script: str) -> None:
    """Put a program there in place of npm."""
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)


def write(model: run_directory.Run, folder: Path) -> set[str]:
    web.write(model, folder)
    return files_of(folder / "web")


def test_a_second_export_needs_neither_npm_nor_the_network(
    trained: Path, archive: Path, path: Path, tmp_path: Path
) -> None:
    model = run_directory.load(trained)
    pretend(path, f'cp "{archive}" "$4/package.tgz"')
    first = write(model, tmp_path / "first")
    (path / "npm").unlink()
    assert write(model, tmp_path / "second") == first
    [kept] = (tmp_path / "cache/keras_lstmgen").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(UserError, match="npm is not installed"):
        web.write(model, tmp_path / "third")
    pretend(path, f'cp "{archive}" "$4/package.tgz"')
    assert write(model, tmp_path / "third") == first


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("", "npm is not installed; install Node.js"),
        (
            "echo 'npm error code ENOTFOUND' >&2; exit 1",
            r"npm cannot download onnxruntime-web@[\d.]+ \(code ENOTFOUND\)",
        ),
        ("exit 0", r"npm cannot download .*check the network"),
        ('echo other > "$4/package.tgz"', "the checksum of the downloaded package onnxruntime-web is wrong"),
    ],
)
def test_without_npm_or_network_an_export_is_one_line_and_leaves_nothing(
    trained: Path, path: Path, tmp_path: Path, script: str, line: str
) -> None:
    if script:
        pretend(path, script)
    with pytest.raises(UserError, match=line) as caught:
        web.write(run_directory.load(trained), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert not files_of(tmp_path / "cache")


def test_without_node_an_export_is_one_line(trained: Path, path: Path, tmp_path: Path) -> None:
    (path / "node").unlink()
    with pytest.raises(UserError, match="--format web: node is not installed"):
        web.write(run_directory.load(trained), tmp_path / "run")


def other_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model whose last biases are others."""
    del tmp_path
    model_of = onnx.model_of

    def changed(graph: Any, name: str) -> Any:
        model = model_of(graph, name)
        [bias] = [
            tensor for tensor in model.graph.initializer if tensor.name.startswith("add") and tensor.dims[0] > 100
        ]
        values = onnx_library.numpy_helper.to_array(bias)
        values = values + np.linspace(0, 0.01, len(values), dtype=np.float32)
        bias.CopyFrom(onnx_library.numpy_helper.from_array(values, bias.name))
        return model

    monkeypatch.setattr(onnx, "model_of", changed)


def other_choices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A page that draws its tokens otherwise."""
    kit = Path(shutil.copytree(web.kit(), tmp_path / "kit", ignore=shutil.ignore_patterns("node_modules")))
    code = (kit / "contract.js").read_text(encoding="utf-8")
    assert "Math.floor(number * STEPS)" in code
    changed = code.replace("Math.floor(number * STEPS)", "Math.floor((1 - number) * STEPS)")
    (kit / "contract.js").write_text(changed, encoding="utf-8")
    monkeypatch.setattr(web, "kit", lambda: kit)


def no_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A page whose code cannot be read."""
    other_choices(monkeypatch, tmp_path)
    (web.kit() / "tokenizer.js").write_text("import {")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_numbers, r"Web page: logits differ by 0\.0"),
        (other_choices, r"Web page: \d of 6 texts are identical"),
        (no_code, "Web page: cannot be run"),
    ],
)
def test_a_page_that_writes_otherwise_is_discarded_and_reported(
    pages: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Callable[..., None], reason: str
) -> None:
    del pages  # asked for, so that npm has brought what it has to
    change(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=reason) as caught:
        export_run.export(copied, FEW)
    assert "\n" not in str(caught.value)
    assert not (copied / "web").exists()


def test_the_page_travels_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In what is built to be installed it lies inside; a source archive carries it where the repository has it."""
    source = tmp_path / "source"
    without = shutil.ignore_patterns("__pycache__", "*.so", "node_modules")
    for name in ("keras_lstmgen", "export"):
        shutil.copytree(ROOT / name, source / name, ignore=without)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "export/browser/node_modules/much").mkdir(parents=True)
    (source / "export/browser/node_modules/much/code.js").touch()
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", "dist", "build_py", "--build-lib", "lib"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    needed = {*web.PAGE, "run.mjs", "package-lock.json"}
    built = source / "lib/keras_lstmgen/exporters/browser"
    assert needed <= files_of(built)
    [packed] = (source / "dist").iterdir()
    with tarfile.open(packed) as names:
        carried = {name.partition("/export/browser/")[2] for name in names.getnames()}
    assert needed <= carried
    assert not any("node_modules" in name for name in files_of(built) | carried)
    assert web.kit() == ROOT / "export/browser"
    monkeypatch.setattr(web, "__file__", str(built.with_name("web.py")))
    assert web.kit() == built
