"""Every verb and client works, or says why not, where a standard stream is closed or full or has lost its reader."""

import json
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.cli import command_line

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export import client
from export.onnx import generate as onnx
from export.tf_serving import request
from export.tflite import generate as tflite
from tests import c_client, faulty_streams

GOLDEN = Path(__file__).parent / "golden"
TRAIN = shlex.split(
    "--model.units 8 --model.embedding_size 4 --training.batch_size 3 --training.window 5 --training.epochs 2 "
    "--name new --runs . --corpus.source"
)
LINE = "keras-lstmgen: standard output: could not be written (No space left on device); send it elsewhere\n"
FULL, CLOSED, LEFT = (("stdout",), "full"), (faulty_streams.NAMES, "closed"), (faulty_streams.NAMES[1:], "left")
# For each verb its words, what it leaves in its run, and the faults that it is tried with: of slow ones, but two.
VERBS: dict[str, tuple[list[str], str, list[tuple[tuple[str, ...], str]]]] = {
    "info": (["./run"], "keras_lstmgen.json", faulty_streams.TABLE),
    "generate": (["./run", "--max-new-tokens", "3"], "keras_lstmgen.json", faulty_streams.TABLE),
    "chat": (["./run", "--max-new-tokens", "3"], "keras_lstmgen.json", [CLOSED, LEFT]),
    "evaluate": (["./run", "--samples", "0"], "evaluation.json", [FULL, CLOSED, LEFT]),
    "inspect": (["./run", "--prompt", "the ", "--text", str(GOLDEN / "text.txt")], "inspect/text.html", [FULL, LEFT]),
    "export": (["./run", "--format", "tflite", "--texts", "1", "--tokens", "3"], "export.json", [FULL, LEFT]),
    "train": ([*TRAIN, str(GOLDEN / "text.txt")], "../new/metrics.json", [FULL, CLOSED]),
}
CASES = [
    pytest.param(verb, *case, id=f"{verb}, {' '.join(case[0])} {case[1]}")
    for verb, (_, _, faults) in VERBS.items()
    for case in faults
]


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed run, as ``run`` in the working directory."""
    place = Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    (tmp_path / "tests").symlink_to(GOLDEN.parent)  # its corpus is named from there
    monkeypatch.chdir(tmp_path)
    return place


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "streams", "fault"), CASES)
def test_a_verb_does_its_work_whatever_its_standard_streams_are(
    verb: str, streams: tuple[str, ...], fault: str, golden: Path, tmp_path: Path
) -> None:
    words, left, _ = VERBS[verb]
    said = tmp_path / "said"
    with faulty_streams.spoiled(streams, fault, said):
        status = command_line.main([verb, *words])
    lost = fault == "full" and "stdout" in streams
    told = said.read_text(encoding="utf-8")
    assert status == (2 if lost else 0), told
    assert "Traceback" not in told
    assert not lost or told.endswith(LINE)
    assert (golden / left).is_file()


def test_a_training_goes_on_to_its_end_after_its_reader_has_left(golden: Path, tmp_path: Path) -> None:
    """The reader takes one line, as ``head -n 1`` does."""
    reader, writer = os.pipe()

    def read_a_line() -> None:
        os.read(reader, 100)
        os.close(reader)

    head = threading.Thread(target=read_a_line)
    with faulty_streams.spoiled((), "", tmp_path / "said"):
        os.dup2(writer, 1)
        os.close(writer)
        head.start()
        status = command_line.main(["train", *VERBS["train"][0]])
    head.join()
    assert (status, (tmp_path / "said").read_text(encoding="utf-8")) == (0, "")
    assert len(json.loads((golden / "../new/history.json").read_text(encoding="utf-8"))) == 2


# As the interpreter finds them when it starts: without TensorFlow, so that each takes no time.


@pytest.mark.slow
@pytest.mark.parametrize(("streams", "fault"), faulty_streams.TABLE)
@pytest.mark.parametrize("words", [["train", "--help"], ["--version"], ["train", "--nothing"]])
def test_a_process_ends_well_whatever_it_was_started_with(
    words: list[str], streams: tuple[str, ...], fault: str, tmp_path: Path
) -> None:
    program = "import sys; from keras_lstmgen.cli.command_line import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *words]
    status = faulty_streams.ended(command, streams, fault, tmp_path / "said")
    lost = fault == "full" and "stdout" in streams
    assert status == (2 if lost or words[-1] == "--nothing" else 0)
    told = (tmp_path / "said").read_text(encoding="utf-8")
    assert told.count("\n") <= 1
    assert words[-1] == "--nothing" or told == (LINE if lost else "")


# The clients

STUB = {
    "contract.js": "export const NEUTRAL = {};",
    "model.js": "export async function open() {}\n"
    "export async function* write() { yield { id: 1, text: 'a'.repeat(100000), nats: 0, written: true }; }",
    "onnxruntime/ort.js": "export const env = { wasm: {} };",
    "onnxruntime/ort-wasm-simd-threaded.wasm": "",
}


def answers(_: str, inputs: Any) -> Any:
    """What a server says."""
    return {"text": ["a"] * len(inputs["seed"]), "token_count": [1], "finish_reason": ["stop"]}


CLIENTS: dict[str, Callable[[], int]] = {
    "tflite/model.tflite": lambda: client.main(tflite.load, "a TFLite file"),
    "onnx/model.onnx": lambda: client.main(onnx.load, "an ONNX graph"),
    "a server": lambda: request.main(answers, "REST", "http://localhost"),
}


@pytest.mark.parametrize(("streams", "fault"), faulty_streams.TABLE)
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_in_python_writes_whatever_its_standard_streams_are(
    name: str, streams: tuple[str, ...], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = [] if name == "a server" else [str(GOLDEN / "run" / name)]
    monkeypatch.setattr(sys, "argv", ["generate.py", *artifact, "--max-new-tokens", "3"])
    with faulty_streams.spoiled(streams, fault, tmp_path / "said"):
        status = CLIENTS[name]()
    lost, left = (streams, fault) == (("stdout",), "full"), "stdout" in streams and fault == "left"
    told = (tmp_path / "said").read_text(encoding="utf-8")
    assert (status, told.count("\n")) == (2 if lost else 0, 0 if left or "stderr" in streams else 1), told
    assert told.startswith("generate.py: standard output: No space left on device") == lost


@pytest.mark.parametrize(("streams", "fault"), faulty_streams.TABLE)
def test_the_client_in_node_writes_whatever_its_standard_streams_are(
    streams: tuple[str, ...], fault: str, tmp_path: Path
) -> None:
    if not shutil.which("node"):
        pytest.skip("there is no Node here")
    for file, text in STUB.items():
        (path := tmp_path / file).parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "requests").write_text("[{}]")
    with (tmp_path / "requests").open("rb") as requests:
        command: list[str | Path] = ["node", GOLDEN.parents[1] / "export/browser/run.mjs", tmp_path]
        status = faulty_streams.ended(command, streams, fault, tmp_path / "said", requests)
    told = (tmp_path / "said").read_text(encoding="utf-8")
    if "stdin" in streams:  # which has no request then
        assert status == 2
    else:
        assert (status, told[:9]) == ((2, "run.mjs: ") if (streams, fault) == (("stdout",), "full") else (0, ""))
    assert told.count("\n") <= 1


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client in C."""
    return c_client.program(tmp_path_factory.mktemp("c"))


@pytest.mark.parametrize(("streams", "fault"), faulty_streams.TABLE)
def test_the_client_in_c_writes_whatever_its_standard_streams_are(
    in_c: Path, streams: tuple[str, ...], fault: str, tmp_path: Path
) -> None:
    """A pipe without a reader ends it by SIGPIPE, as it ends ``cat``."""
    command: list[str | Path] = [in_c, GOLDEN / "run/tflite/model.tflite", "--max-new-tokens", "3"]
    status = faulty_streams.ended(command, streams, fault, tmp_path / "said")
    left = fault == "left" and streams != ("stdin",)
    assert status == (-signal.SIGPIPE if left else 2 if (streams, fault) == (("stdout",), "full") else 0)
