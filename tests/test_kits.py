"""A kit and an artifact, without the package that made it, write what Keras writes."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.cli.parser import build_parser
from keras_lstmgen.exporters import string_signatures
from keras_lstmgen.generation import beam_search, decoding_loop, sampling, text_generation
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export import client
from export.tf_serving import generate as tf_serving
from tests.forking import ForkServer, Result, fork_server

ROOT = Path(__file__).resolve().parents[1]
KITS = {"tf_serving": "serving/1", "tflite": "tflite/model.tflite", "onnx": "onnx/model.onnx"}


# What the kits import, apart from NumPy.
RUNTIMES = ("tensorflow", "tensorflow_text", "onnxruntime", "ai_edge_litert.interpreter")


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Run programs in a folder of its own, with a copy of ``export/`` and no ``keras_lstmgen``."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(ROOT / "export", folder / "export", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "keras_lstmgen.py").write_text("raise ImportError('keras_lstmgen is blocked')\n")
    (folder / "blocked.py").write_text("import keras_lstmgen\n")
    variables = os.environ | {"PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with fork_server(RUNTIMES, folder, variables) as server:
        yield server


def kit(kits: ForkServer, name: str, artifact: Path, *options: str | Path) -> Result:
    return kits.run(f"export/{name}/generate.py", artifact, *options)


def test_where_the_kits_run_the_package_cannot_be_imported(kits: ForkServer) -> None:
    done = kits.run("blocked.py")
    assert done.returncode == 1
    assert "keras_lstmgen is blocked" in done.stderr


def test_what_the_kits_share_needs_numpy_alone() -> None:
    code = "import export.client, sys; print(*sorted(sys.modules))"
    loaded = set(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split())
    assert "numpy" in loaded
    assert not loaded & {"tensorflow", "keras", "keras_lstmgen", "onnxruntime", "ai_edge_litert", "sentencepiece"}


@pytest.mark.parametrize("name", KITS)
def test_a_kit_writes_the_texts_that_keras_writes(kits: ForkServer, trained: Path, name: str) -> None:
    options = Options(temperature=0.8, top_k=40, top_p=0.95, min_p=0.01, repetition_penalty=1.1)
    words = [f"--{key.replace('_', '-')}={value}" for key, value in vars(options).items()]
    words += ["--prompt", "The class", "--seed", "-1", "--n", "2", "--max-new-tokens", "70"]
    done = kit(kits, name, trained / KITS[name], *words)
    assert done.returncode == 0, done.stderr
    samples = Generator(run_directory.load(trained)).generate("The class", GenerationConfig(70, options), seeds=[-1, 0])
    assert done.stdout == f"--- seed -1\n{samples[0].text}\n--- seed 0\n{samples[1].text}\n"
    assert samples[0].text != samples[1].text
    assert done.stderr.startswith("140 tokens in ")
    assert done.stderr.endswith("finish reason: length, length\n")


@pytest.mark.parametrize("name", KITS)
def test_a_kit_goes_on_with_a_chinese_prompt_as_keras_does(
    kits: ForkServer, trained_lines: Path, tmp_path: Path, name: str
) -> None:
    """After a prompt of known and unknown characters, to the end symbol, from a folder with a Chinese name."""
    named = Path(shutil.copytree((trained_lines / KITS[name]).parent, tmp_path / "静夜思")) / Path(KITS[name]).name
    done = kit(kits, name, named, "--prompt", "床前明月光，", "--seed", "4", "--temperature", "0.7")
    assert done.returncode == 0, done.stderr
    model, options = run_directory.load(trained_lines), Options(temperature=0.7)
    sample = Generator(model).generate("床前明月光，", GenerationConfig(200, options), seeds=[4])[0]
    assert done.stdout == sample.text + "\n"
    assert done.stderr.endswith(f"finish reason: {sample.finish_reason}\n")


@pytest.mark.parametrize("name", KITS)
def test_a_kit_searches_as_keras_does(kits: ForkServer, trained_lines: Path, name: str) -> None:
    words = ["--prompt", "the ", "--beams", "4", "--length-penalty", "0.6", "--n", "2", "--max-new-tokens", "20"]
    done = kit(kits, name, trained_lines / KITS[name], *words)
    assert done.returncode == 0, done.stderr
    model = run_directory.load(trained_lines)
    best = text_generation.search(
        model, decoding_loop.compile_step(model.weights), "the ", beam_search.BeamSearchConfig(4, 0.6, 20)
    )[:2]
    score = r"(-\d+\.\d{4})"
    texts = "".join(f"--- score {score}\n{re.escape(sample.text)}\n" for sample in best)
    told = f"finish reason: {best[0].finish_reason}, {best[1].finish_reason}; score: {score}, {score}\n"
    for page, place in ((texts, done.stdout), (f".*{told}", done.stderr)):
        found = re.fullmatch(page, place)
        assert found, place
        assert [float(number) for number in found.groups()] == pytest.approx([s.score for s in best], abs=1e-3)
    assert done.stderr.startswith(f"{sum(len(sample.tokens) for sample in best)} tokens in ")


def cut(source: Path, place: Path, part: float) -> Path:
    data = source.read_bytes()
    place.write_bytes(data[: int(len(data) * part)])
    return place


@pytest.mark.parametrize("name", ["tflite", "onnx"])
def test_a_file_cut_short_is_one_line_and_exit_status_2(
    kits: ForkServer, trained: Path, tmp_path: Path, name: str
) -> None:
    for part in (0.0, 0.0001, 0.3, 0.6, 0.95, 0.9999):
        damaged = cut(trained / KITS[name], tmp_path / "damaged", part)
        done = kit(kits, name, damaged)
        assert (done.returncode, done.stdout) == (2, ""), part
        assert done.stderr.startswith(f"generate.py: {damaged}: cannot be used: "), done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_saved_model_cut_short_is_one_line_and_exit_status_2(kits: ForkServer, trained: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(trained / "serving/1", tmp_path / "1"))
    cut(damaged / "saved_model.pb", damaged / "saved_model.pb", 0.5)
    done = kit(kits, "tf_serving", damaged)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"generate.py: {damaged}: cannot be used: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("saved_model.pb", 0.0),
        ("saved_model.pb", 0.999),
        ("variables/variables.data-00000-of-00001", 0.5),
        ("variables/variables.index", 0.5),
        ("assets/keras_lstmgen.json", 0.0),
        ("assets/keras_lstmgen.json", 0.5),
        ("assets/tokenizer.model", 0.5),
        ("assets/tokenizer.model", 0.99),
    ],
)
def test_any_part_of_a_saved_model_cut_short_is_one_line(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    part: float,
) -> None:
    """In this process, where TensorFlow is there already."""
    damaged = Path(shutil.copytree(trained / "serving/1", tmp_path / "1"))
    cut(damaged / file, damaged / file, part)
    monkeypatch.setattr(sys, "argv", ["generate.py", str(damaged)])
    assert client.main(tf_serving.load, "a SavedModel") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"generate.py: {damaged}: cannot be used: ")
    assert len(err.splitlines()) == 1


def test_other_bad_input_is_one_line_and_exit_status_2(kits: ForkServer, trained: Path, tmp_path: Path) -> None:
    artifact = trained / KITS["onnx"]
    bad: list[tuple[list[Any], str]] = [
        ([tmp_path / "none.onnx"], "none.onnx: there is no such model"),
        ([artifact, "--temperature", "-1"], "temperature is out of range"),
        ([artifact, "--top-p", "0"], "top_p is out of range"),
        ([artifact, "--beams", "-1"], "beams is out of range"),
        ([artifact, "--beams", "2", "--length-penalty", "nan"], "length_penalty is out of range"),
        ([artifact, "--length-penalty", "1"], "length_penalty applies only to beam search: give beams too"),
        ([artifact, "--beams", "2", "--top-k", "3"], "top_k does not apply to beam search"),
        ([artifact, "--beams", "2", "--n", "3"], "n is out of range: it must be at most the number of beams, 2"),
        ([trained / "onnx/score.onnx"], "score.onnx: cannot be used"),
    ]
    for words, line in bad:
        done = kit(kits, "onnx", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert kit(kits, "onnx", artifact, "--n", "0").returncode == 2


def places(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[set[str]]]:
    """The options of each column of the table in docs/generation.md, as parsers, signatures and files have them."""
    monkeypatch.setattr(sys, "argv", ["generate.py", "model"])
    in_c = re.findall(
        r'\{"([\w-]+)", required_argument', (ROOT / "export/tflite/generate.c").read_text(encoding="utf-8")
    )
    in_page = re.findall(r'\bid="(\w+)"', (ROOT / "export/browser/index.html").read_text(encoding="utf-8"))
    return {
        "`generate`": [set(vars(build_parser().parse_args(["generate"])))],
        "`chat`": [set(vars(build_parser().parse_args(["chat"])))],
        "SavedModel in strings, REST, gRPC": [
            set(string_signatures.DEFAULTS),
            set(vars(client.parser_of_texts("").parse_args([]))),
        ],
        "graph `generate`": [set(sampling.Rows._fields)],
        "`generate.py`": [set(vars(client._arguments("model")))],
        "C, page": [
            {name.replace("-", "_") for name in in_c},
            {{"length": "max_new_tokens"}.get(name, name) for name in in_page},
        ],
    }


def test_the_table_of_the_options_says_which_one_works_where(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/generation.md").read_text(encoding="utf-8")
    head, _, *rows = re.search(r"^\| option .*(?:\n\|.*)+", text, re.MULTILINE)[0].splitlines()  # type: ignore[index]
    assert len(rows) == 5
    for row in rows:
        options, *marks = (cell.strip() for cell in row.strip("|").split("|"))
        names = {name.replace("-", "_") for name in re.findall(r"`--([\w-]+)`", options)}
        columns = [cell.strip() for cell in head.strip("|").split("|")][1:]
        for column, mark in zip(columns, marks, strict=True):
            for there in places(monkeypatch)[column]:
                assert (names <= there) == (mark == "✓"), (options, column)
                assert mark == "✓" or not names & there, (options, column)
