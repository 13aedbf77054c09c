"""Every client writes the texts of ``tests/golden/texts.json`` with the small model that lies beside it."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lstmgen import generation, run, sampling
from keras_lstmgen.exporters import saved_model, tflite, web

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export import contract, tokenizer
from export.onnx import generate as onnx_client
from export.tflite import generate as tflite_client
from tests import c_client, npm
from tests.golden.make import CASES, RUN, TEXTS

Case = dict[str, Any]  # an entry of texts.json
Write = Callable[[Case], str]  # what a client writes in a case
GOLDEN: list[Case] = json.loads(TEXTS.read_text(encoding="utf-8"))
TFLITE, ONNX = RUN / "tflite/model.tflite", RUN / "onnx/model.onnx"


def keras(_folder: Path) -> Write:
    """Keras itself."""
    model = run.load(RUN)
    call = generation.writer(model)

    def write(case: Case) -> str:
        options, seeds = sampling.Options(**case["options"]), [int(case["seed"])]
        limit = case["max_new_tokens"]
        return generation.generate(model, case["prompt"], limit, options, seeds=seeds, call=call)[0].text

    return write


def by_step(step: contract.Step, json: str | bytes, model: bytes) -> Write:
    """The Python client's own sampling over a graph ``step``."""
    metadata, pieces = contract.read_metadata(json), tokenizer.read(model)

    def write(case: Case) -> str:
        ids = contract.prompt_ids(tokenizer.encode(pieces, case["prompt"]), metadata)
        options, limit = contract.Options(**case["options"]), case["max_new_tokens"]
        tokens = contract.generate(step, ids, metadata, options, seed=int(case["seed"]), max_new_tokens=limit)
        return tokenizer.decode(pieces, list(tokens))

    return write


def tflite_graph(_folder: Path) -> Write:
    """The whole loop in the TFLite file."""
    call, (_, json, model) = tflite.open_artifact(RUN), tflite_client.load(TFLITE)
    metadata, pieces = contract.read_metadata(json), tokenizer.read(model)

    def write(case: Case) -> str:
        ids = contract.prompt_ids(tokenizer.encode(pieces, case["prompt"]), metadata)
        noise = contract.noise(int(case["seed"]), case["max_new_tokens"])[np.newaxis]
        rows = sampling.rows([sampling.Options(**case["options"])])._asdict()
        state = np.zeros((1, metadata.state_size), np.float32)
        written = call("generate", ids=np.array([ids], np.int32), state=state, noise=noise, **rows)["tokens"][0]
        return tokenizer.decode(pieces, written.tolist())  # end tokens behind the end are invisible

    return write


def strings(folder: Path) -> Write:
    """A SavedModel made here: text in, text out."""
    saved_model.write(run.load(RUN), folder)
    call = saved_model.open_artifact(folder)

    def write(case: Case) -> str:
        options = sampling.rows([sampling.Options(**case["options"])])._asdict()
        seed, limit = np.array([int(case["seed"]) % 2**64], np.uint64).astype(np.int64), case["max_new_tokens"]
        prompt = np.array([case["prompt"].encode()], object)
        limits = np.array([limit], np.int32)
        text = call("serving_default", prompt=prompt, seed=seed, max_new_tokens=limits, **options)["text"][0]
        return bytes(text).decode()

    return write


def command(*words: str | Path) -> Write:
    """A client that is a command: its words, then the options that all clients share; the text, then a newline."""

    def write(case: Case) -> str:
        values = {name: case[name] for name in ("prompt", "seed", "max_new_tokens")} | case["options"]
        options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
        done = subprocess.run([*words, *options], capture_output=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().removesuffix("\n")

    return write


def javascript(folder: Path) -> Write:
    """The web page's modules over a page made here, in Node, which answers all cases at once."""
    page = npm.or_skip(lambda: web.write(run.load(RUN), folder))
    asked = [{key: case[key] for key in ("prompt", "seed", "max_new_tokens", "options")} for case in GOLDEN]
    command = ["node", str(web.kit() / "run.mjs"), str(page)]
    done = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return lambda case: str(answers[GOLDEN.index(case)]["text"])


# To add a client, add its line: a function of an empty folder that gives what writes a case.
CLIENTS: dict[str, Callable[[Path], Write]] = {
    "keras": keras,
    "saved_model": strings,
    "tflite": lambda _: by_step(*tflite_client.load(TFLITE)),
    "tflite_graph": tflite_graph,
    "onnx": lambda _: by_step(*onnx_client.load(ONNX)),
    "javascript": javascript,
    "c": lambda folder: command(c_client.program(folder), TFLITE),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_every_client_writes_the_golden_texts(name: str, tmp_path: Path) -> None:
    write = CLIENTS[name](tmp_path)
    written = [write(case) for case in GOLDEN]
    different = [(case, text) for case, text in zip(GOLDEN, written, strict=True) if text != case["text"]]
    assert not different


def test_the_cases_are_those_that_the_command_makes() -> None:
    said = [(case["prompt"], int(case["seed"]), case["max_new_tokens"], case["options"]) for case in GOLDEN]
    assert said == CASES


def test_the_cases_show_every_option_every_end_and_bytes_that_are_no_character() -> None:
    options = [set(case["options"]) for case in GOLDEN]
    for name in sampling.Rows._fields:
        assert sum(used == {name} for used in options) > 1, name
    assert {case["finish_reason"] for case in GOLDEN} == {"stop", "length"}
    texts = [case["text"] for case in GOLDEN]
    assert len(set(texts)) > 0.8 * len(texts)
    for sign in ("\N{REPLACEMENT CHARACTER}", "\n", "。", "the"):
        assert any(sign in text for text in texts), sign


def test_equal_seeds_of_64_bits_write_equal_texts() -> None:
    texts = {case["seed"]: case["text"] for case in GOLDEN if case["prompt"] == "The sea "}
    assert texts["-1"] == texts[str(2**64 - 1)]
    assert len(set(texts.values())) == len(texts) - 1


def test_the_committed_files_are_small_and_name_no_place_of_the_machine_that_made_them() -> None:
    committed = [path for path in RUN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in committed) < 300_000
    assert not [path for path in committed if b"/tmp" in path.read_bytes() or b"/home" in path.read_bytes()]


def test_the_python_command_writes_the_golden_texts_too(tmp_path: Path) -> None:
    """One case through the command line itself, where the folder ``export`` was copied to."""
    shutil.copytree(Path(tflite_client.__file__).parents[1], tmp_path / "export")
    case = next(case for case in GOLDEN if len(case["options"]) > 3)
    for name, model in (("tflite", TFLITE), ("onnx", ONNX)):
        assert command(sys.executable, tmp_path / f"export/{name}/generate.py", model)(case) == case["text"]


README = Path(tflite_client.__file__).with_name("README.md")


def test_the_commands_of_the_page_print_what_it_shows(tmp_path: Path) -> None:
    """Those that need nothing but the golden model. What stands on standard error is shown where nothing else is."""
    text, program = README.read_text(encoding="utf-8"), c_client.program(tmp_path)
    shown = re.findall(r"^    \$ (.*\$model.*)\n((?:    (?!\$).*\n)+)", text, re.MULTILINE)
    assert len(shown) > 5
    for line, output in shown:
        line = line.replace("$model", str(TFLITE)).replace("export/tflite/build/generate", str(program))
        words = [sys.executable if word == "python" else word for word in shlex.split(line)]
        done = subprocess.run(words, cwd=README.parents[2], capture_output=True, text=True, encoding="utf-8")
        assert (done.stdout or done.stderr) == re.sub("^    ", "", output, flags=re.MULTILINE), line
