"""The clients of TF Serving by HTTP and by gRPC: of the stand-in, and of a real server where there is one."""

import contextlib
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lstmgen.exporters import saved_model
from keras_lstmgen.exporters.registry import Call
from keras_lstmgen.generation import sampling
from keras_lstmgen.models import run_directory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export.tf_serving import grpc_client, request, rest
from tests import serving
from tests.golden.make import RUN

KIT = Path(rest.__file__).parent
B, P, N = 2, 3, 5
PROMPTS = ["The ", "月"]


@pytest.fixture(scope="module")
def folder(golden_exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the golden run with its SavedModel: a real server gets a file beside it."""
    return Path(shutil.copytree(golden_exported, tmp_path_factory.mktemp("golden") / "run"))


@pytest.fixture(scope="module", params=["stand_in", "real"])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[serving.Addresses]:
    """Where one listens that has the golden model and batches."""
    with contextlib.ExitStack() as stack:
        if request.param == "real":
            yield stack.enter_context(serving.real((folder / saved_model.PATH).parent))
        else:
            process = stack.enter_context(contextlib.closing(serving.StandIn(folder / saved_model.PATH)))
            yield stack.enter_context(serving.ports(process))


@pytest.fixture(scope="module")
def session(folder: Path) -> Call:
    """The same SavedModel in this process."""
    return saved_model.open_artifact(folder)


def columns() -> dict[str, dict[str, Any]]:
    """What each signature is asked for."""
    rows = {name: column.tolist() for name, column in sampling.rows([sampling.Options(top_k=5)] * B)._asdict().items()}
    ids, state = [[270, 266, 262], [271, 260, 275]], [[0.0] * run_directory.load_metadata(RUN).state_size] * B
    texts = {"prompt": PROMPTS, "seed": [2**40 + 1, -1], "max_new_tokens": [N, 9], **rows}
    return {
        "serving_default": texts,
        "complete": {"prompt": PROMPTS},
        "score_text": {"text": PROMPTS},
        "tokenize": {"text": PROMPTS},
        "detokenize": {"ids": ids},
        "step": {"ids": [270, 271], "state": state},
        "generate": {"ids": ids, "state": state, "noise": sampling.noise([7, 8], N).tolist(), **rows},
        "score": {"ids": ids, "state": state},
    }


def as_arrays(inputs: dict[str, Any]) -> dict[str, Any]:
    kinds = {name: kind.as_numpy_dtype for name, kind in grpc_client.KINDS.items()}
    texts = ("prompt", "text")
    return {
        name: np.array([text.encode() for text in column], object) if name in texts else np.array(column, kinds[name])
        for name, column in inputs.items()
    }


@pytest.mark.parametrize("name", columns())
def test_every_signature_answers_by_both_protocols(server: serving.Addresses, session: Call, name: str) -> None:
    inputs = columns()[name]
    expected = {key: grpc_client.entries(column) for key, column in session(name, **as_arrays(inputs)).items()}
    by_grpc = grpc_client.call(server.grpc, grpc_client.message(inputs, name))
    by_rest = rest.call(server.rest, rest.body(inputs, name))
    by_rest = by_rest if len(expected) > 1 else {next(iter(expected)): by_rest}
    for found in (by_grpc, by_rest):
        assert found.keys() == expected.keys()
        for key, column in expected.items():
            strings = isinstance(column[0], str)
            assert found[key] == column if strings else np.allclose(found[key], column, rtol=1e-4, atol=1e-5), key


def test_several_prompts_with_nothing_else_are_refused_but_by_complete(server: serving.Addresses) -> None:
    with pytest.raises(ValueError, match="equal 0th-dimension size"):
        grpc_client.call(server.grpc, grpc_client.message({"prompt": PROMPTS}))
    assert len(grpc_client.call(server.grpc, grpc_client.message({"prompt": PROMPTS[:1]}))["text"]) == 1


@pytest.mark.parametrize(("name", "protocol"), [("rest.py", "rest"), ("grpc_client.py", "grpc")])
def test_a_client_is_a_command(server: serving.Addresses, session: Call, name: str, protocol: str) -> None:
    words = ["--server", getattr(server, protocol), "--prompt", "月亮", "--seed", "-1", "--max-new-tokens", "12"]
    command = [sys.executable, str(KIT / name), *words, "--n", "2"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600)
    inputs = {"prompt": ["月亮"] * 2, "seed": [-1, 0], "max_new_tokens": [12] * 2}
    rows = sampling.rows([sampling.Options()] * 2)._asdict()
    one, other = (text.decode() for text in session("serving_default", **as_arrays(inputs), **rows)["text"])
    assert done.stdout == f"--- seed -1\n{one}\n--- seed 0\n{other}\n"
    assert " tokens, finish reason: " in done.stderr


@contextlib.contextmanager
def stranger(status: int, body: bytes) -> Iterator[str]:
    """An HTTP server that is no TF Serving."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


Ask = Callable[[str, request.Inputs], request.Answers]


def refused(ask: Ask, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a client says before it ends with status 2."""
    monkeypatch.setattr(sys, "argv", ["client", *words])
    assert request.main(ask, "REST", "") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize(("ask", "protocol"), [(rest.ask, "rest"), (grpc_client.ask, "grpc")])
def test_what_a_server_refuses_is_a_line(
    server: serving.Addresses,
    ask: Ask,
    protocol: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = getattr(server, protocol)
    said = refused(ask, ["--server", place, "--n", "257"], monkeypatch, capsys)
    assert said == f"client: {place}: Task size 257 is larger than maximum input batch size 256\n"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error": "two\\nlines"}', "two lines"),
        (500, b"<html>\nbroken", "<html> broken"),
        (503, b"", "HTTP Error 503"),
        (404, b"[]", "[]"),
        (200, b"", "Expecting value"),
        (200, b"{}", "not a response of TF Serving"),
        (200, b"[]", "not a response of TF Serving"),
    ],
)
def test_what_another_server_answers_is_a_line(
    status: int, body: bytes, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with stranger(status, body) as url:
        assert said in refused(rest.ask, ["--server", url], monkeypatch, capsys)


@pytest.mark.parametrize(
    ("ask", "words", "said"),
    [
        (rest.ask, ["--server", "http://127.0.0.1:1"], "Connection refused"),
        (rest.ask, ["--server", "localhost:8501"], "unknown url type"),
        (rest.ask, ["--top-p", "0"], "top_p is out of range"),
        (grpc_client.ask, ["--server", "127.0.0.1:1"], "Connection refused"),
        (grpc_client.ask, ["--temperature", "-1"], "temperature is out of range"),
    ],
)
def test_without_an_answer_a_client_says_a_line(
    ask: Ask, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(ask, words, monkeypatch, capsys)
