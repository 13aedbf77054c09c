"""Every client writes the texts of ``tests/golden/texts.json`` with the small model that lies beside it."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert.tools import flatbuffer_utils

from keras_lstmgen.exporters import onnx as onnx_exporter
from keras_lstmgen.exporters import saved_model, tflite, web
from keras_lstmgen.exporters.registry import Call
from keras_lstmgen.generation import sampling
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export import client, contract, tokenizer
from export.onnx import generate as onnx_client
from export.tf_serving import generate as tf_serving_client
from export.tf_serving import grpc_client, request, rest
from export.tflite import generate as tflite_client
from tests import c_client, npm, serving
from tests.golden.make import CASES, RUN, TEXTS

Case = dict[str, Any]  # an entry of texts.json
Write = Callable[[Case], tuple[str, str]]  # what a client writes in a case, and why the text ended
GOLDEN: list[Case] = json.loads(TEXTS.read_text(encoding="utf-8"))
TFLITE, ONNX = RUN / "tflite/model.tflite", RUN / "onnx/model.onnx"


@pytest.fixture(scope="module")
def exported(golden_exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the golden run with artifacts of today, to which a test adds a web page."""
    return Path(shutil.copytree(golden_exported, tmp_path_factory.mktemp("golden") / "run"))


@pytest.fixture(scope="module")
def served(exported: Path) -> Iterator[serving.Addresses]:
    """The stand-in for TF Serving with the golden model, behind its two ports."""
    server = serving.StandIn(exported / saved_model.PATH)
    with serving.ports(server) as addresses:
        yield addresses
    server.close()


def keras(_: pytest.FixtureRequest) -> Write:
    """Keras itself."""
    model = run_directory.load(RUN)
    generator = Generator(model)

    def write(case: Case) -> tuple[str, str]:
        options, seeds = sampling.Options(**case["options"]), [int(case["seed"])]
        limit = case["max_new_tokens"]
        sample = generator.generate(case["prompt"], GenerationConfig(limit, options), seeds=seeds)[0]
        return sample.text, sample.finish_reason

    return write


def by_step(step: contract.Step, json: str | bytes, model: bytes) -> Write:
    """The Python client's own sampling over a graph ``step``."""
    metadata, pieces = contract.read_metadata(json), tokenizer.read(model)

    def write(case: Case) -> tuple[str, str]:
        ids = contract.prompt_ids(tokenizer.encode(pieces, case["prompt"]), metadata)
        options, limit = contract.Options(**case["options"]), case["max_new_tokens"]
        seed = int(case["seed"])
        tokens = list(contract.generate(step, ids, metadata, options, seed=seed, max_new_tokens=limit))
        return tokenizer.decode(pieces, tokens), contract.finish_reason(tokens, metadata)

    return write


def by_graph(call: Call, json: str | bytes, model: bytes) -> Write:
    """The whole loop in an artifact's graph ``generate``."""
    metadata, pieces = contract.read_metadata(json), tokenizer.read(model)

    def write(case: Case) -> tuple[str, str]:
        ids = contract.prompt_ids(tokenizer.encode(pieces, case["prompt"]), metadata)
        noise = contract.noise(int(case["seed"]), case["max_new_tokens"])[np.newaxis]
        rows = sampling.rows([sampling.Options(**case["options"])])._asdict()
        state = np.zeros((1, metadata.state_size), np.float32)
        written = call("generate", ids=np.array([ids], np.int32), state=state, noise=noise, **rows)["tokens"][0]
        return tokenizer.decode(pieces, written.tolist()), contract.finish_reason(written.tolist(), metadata)

    return write


def strings(request: pytest.FixtureRequest) -> Write:
    """The SavedModel in a session of this process: text in, text out."""
    call = saved_model.open_artifact(request.getfixturevalue("exported"))

    def write(case: Case) -> tuple[str, str]:
        kinds = {name: kind.as_numpy_dtype for name, kind in grpc_client.KINDS.items()}
        columns = {name: np.array(column, kinds[name]) for name, column in inputs(case).items()}
        columns["prompt"] = np.array([case["prompt"].encode()], object)
        answer = call("serving_default", **columns)
        return answer["text"][0].decode(), answer["finish_reason"][0].decode()

    return write


def words(case: Case) -> list[str]:
    """A case as the options that all clients share."""
    values = {name: case[name] for name in ("prompt", "seed", "max_new_tokens")} | case["options"]
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]


def inputs(case: Case) -> request.Inputs:
    """What the clients of a server ask of it: one row."""
    return request.inputs_of(client.parser_of_texts("").parse_args(words(case)))


def asked(server: str, ask: Callable[[str, request.Inputs], request.Answers]) -> Write:
    """A client of TF Serving, and where that listens."""

    def write(case: Case) -> tuple[str, str]:
        answers = ask(server, inputs(case))
        return answers["text"][0], answers["finish_reason"][0]

    return write


def command(*program: str | Path) -> Write:
    """A client that is a command: its own words, then those of the case; the text, then a newline."""

    def write(case: Case) -> tuple[str, str]:
        done = subprocess.run([*program, *words(case)], capture_output=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().removesuffix("\n"), done.stderr.decode().split()[-1]

    return write


def javascript(request: pytest.FixtureRequest) -> Write:
    """The web page's modules over a page made here, in Node, which answers all cases at once."""
    folder = request.getfixturevalue("exported")
    npm.or_skip(lambda: web.write(run_directory.load(RUN), folder))
    asked = [{key: case[key] for key in ("prompt", "seed", "max_new_tokens", "options")} for case in GOLDEN]
    command = ["node", str(web.kit() / "run.mjs"), str(folder / web.PATH)]
    done = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)

    def write(case: Case) -> tuple[str, str]:
        answer = answers[GOLDEN.index(case)]
        return answer["text"], answer["finish_reason"]

    return write


# To add a client, add its line: a function of pytest's request that gives what writes a case.
CLIENTS: dict[str, Callable[[pytest.FixtureRequest], Write]] = {
    "keras": keras,
    "saved_model": strings,
    "saved_model_step": lambda request: by_step(
        *tf_serving_client.load(request.getfixturevalue("exported") / saved_model.PATH)
    ),
    "rest": lambda request: asked(request.getfixturevalue("served").rest, rest.ask),
    "grpc": lambda request: asked(request.getfixturevalue("served").grpc, grpc_client.ask),
    "tflite": lambda _: by_step(*tflite_client.load(TFLITE)),
    "tflite_graph": lambda _: by_graph(tflite.EXPORTERS["tflite"].open_artifact(RUN), *tflite_client.load(TFLITE)[1:]),
    "onnx": lambda _: by_step(*onnx_client.load(ONNX)),
    "onnx_graph": lambda request: by_graph(
        onnx_exporter.open_artifact(request.getfixturevalue("exported")), *onnx_client.load(ONNX)[1:]
    ),
    "javascript": javascript,
    "c": lambda request: command(c_client.program(request.getfixturevalue("tmp_path")), TFLITE),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIENTS)
def test_every_client_writes_the_golden_texts(name: str, request: pytest.FixtureRequest) -> None:
    write = CLIENTS[name](request)
    written = [write(case) for case in GOLDEN]
    told = [(case["text"], case["finish_reason"]) for case in GOLDEN]
    assert [one for one in zip(GOLDEN, written, told, strict=True) if one[1] != one[2]] == []


def operators(path: Path) -> Counter[tuple[Any, ...]]:
    """How often a TFLite file has which operator, with the types of its outputs."""
    content = flatbuffer_utils.read_model(str(path))
    codes = content.operatorCodes
    return Counter(
        (codes[one.opcodeIndex].builtinCode, *(graph.tensors[i].type for i in one.outputs))
        for graph in content.subgraphs
        for one in graph.operators
    )


def nodes(path: Path) -> tuple[Counter[str], dict[str, list[int]], dict[str, str]]:
    """How often an ONNX file has which operator; the shapes of its inputs and outputs; what it carries."""
    model = onnx.load(path)
    ends = [*model.graph.input, *model.graph.output]
    shapes = {one.name: [axis.dim_value for axis in one.type.tensor_type.shape.dim] for one in ends}
    carried = {one.key: one.value for one in model.metadata_props}
    return Counter(node.op_type for node in model.graph.node), shapes, carried


def test_the_committed_artifacts_are_what_the_exporters_make_today(exported: Path) -> None:
    """If not: ``python -m tests.golden.make --artifacts``."""
    made = exported / tflite.PRECISIONS["tflite"].path
    assert operators(TFLITE) == operators(made)
    assert tflite_client.metadata_buffers(TFLITE.read_bytes()) == tflite_client.metadata_buffers(made.read_bytes())
    assert nodes(ONNX) == nodes(exported / "onnx/model.onnx")


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
        written = command(sys.executable, tmp_path / f"export/{name}/generate.py", model)(case)
        assert written == (case["text"], case["finish_reason"])


MODEL = re.compile(r"\$model|localhost|rest\.py|grpc_client\.py")


def shown(page: Path) -> list[tuple[str, str]]:
    """The commands of a page that run the golden model, each with what stands under it; one may have two lines."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^    \$ (.*(?:\n    {2,}.*)*?)\n((?:    (?!\$| {2}).*\n)+)", text, re.MULTILINE)
    return [(line, re.sub("^    ", "", output, flags=re.MULTILINE)) for line, output in found if MODEL.search(line)]


def printed(line: str, places: dict[str, str]) -> str:
    """What a command prints, run as it stands but for places. What is on standard error is shown where it is alone."""
    for place, here in places.items():
        line = line.replace(place, here)
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    return done.stdout or done.stderr


ROOT = RUN.parents[2]
PYTHON = {"python ": f"{shlex.quote(sys.executable)} "}


def test_the_commands_of_the_page_of_tflite_print_what_it_shows(tmp_path: Path) -> None:
    program = str(c_client.program(tmp_path))
    commands = shown(ROOT / "export/tflite/README.md")
    assert len(commands) > 5
    for line, output in commands:
        places = {**PYTHON, "$model": str(TFLITE), "export/tflite/build/generate": program}
        assert printed(line, places) == output, line


def test_the_commands_of_the_page_of_onnx_print_what_it_shows() -> None:
    commands = shown(ROOT / "export/onnx/README.md")
    assert len(commands) > 2
    for line, output in commands:
        assert printed(line, {**PYTHON, "$model": str(ONNX)}) == output, line


@pytest.mark.slow
def test_the_commands_of_the_page_of_tf_serving_print_what_it_shows(exported: Path, served: serving.Addresses) -> None:
    """Asked of the stand-in. JSON may be laid out otherwise, and a sum may end otherwise on another processor."""
    commands = shown(ROOT / "export/tf_serving/README.md")
    assert len(commands) > 6
    for line, output in commands:
        places = {
            **PYTHON, "$model": str(exported / saved_model.PATH), "localhost:8501": served.rest,
            "rest.py": f"rest.py --server {served.rest}", "grpc_client.py": f"grpc_client.py --server {served.grpc}",
        }  # fmt: skip
        found = printed(line, places)
        if line.startswith("curl"):
            assert_alike(json.loads(found), json.loads(output), line)
        else:
            assert found == output.replace("http://localhost:8501", served.rest), line


def assert_alike(found: Any, shown: Any, line: str) -> None:
    """The same JSON, where numbers may differ in their last digits."""
    if isinstance(shown, dict):
        assert found.keys() == shown.keys(), line
        pairs: Sequence[tuple[Any, Any]] = [(found[key], shown[key]) for key in shown]
    elif isinstance(shown, list):
        pairs = list(zip(found, shown, strict=True))
    else:
        assert found == (pytest.approx(shown, rel=1e-4) if isinstance(shown, float) else shown), line
        return
    for one, other in pairs:
        assert_alike(one, other, line)
