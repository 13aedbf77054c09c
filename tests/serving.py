"""TF Serving for tests: the stand-in as a process, its two ports, and a real server where there is one."""

import base64
import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

ROOT = Path(__file__).resolve().parents[1]
KIT = ROOT / "export/tf_serving"
BATCHING = KIT / "batching.config"
HTTP = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404}  # as http_server.cc has it


class Addresses(NamedTuple):
    """Where a server listens, as the clients take it."""

    rest: str
    grpc: str


class StandIn:
    """``tests/model_server.py`` in a process of its own."""

    def __init__(self, folder: Path, batching: Path | None = BATCHING) -> None:
        """Start it and wait until it has loaded the SavedModel."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.model_server", *map(str, (folder, *([batching] if batching else [])))],
            text=True, encoding="utf-8", cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": "", "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
        self.lock = threading.Lock()  # the ports answer in threads
        self.signatures = self._read()

    def _read(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def batch(self, *requests: dict[str, Any]) -> list[Any]:
        """What the clients of requests get that came at the same time."""
        assert self.process.stdin
        with self.lock:
            print(json.dumps(requests), file=self.process.stdin, flush=True)
            answers: list[Any] = self._read()
        return answers

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def ports(server: StandIn) -> Iterator[Addresses]:
    """The stand-in behind HTTP and gRPC, on this host."""

    class Rest(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = _answered(server, self.path, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer, indent=4, ensure_ascii=False).encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Predict(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:
            (answer,) = server.batch({"grpc": base64.b64encode(request.SerializeToString()).decode()})
            if "error" in answer:
                context.abort(grpc.StatusCode[answer["code"]], answer["error"])
            return predict_pb2.PredictResponse.FromString(base64.b64decode(answer["grpc"]))

    by_grpc = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predict(), by_grpc)
    port = by_grpc.add_insecure_port("127.0.0.1:0")
    by_grpc.start()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rest) as by_http:
        thread = threading.Thread(target=by_http.serve_forever)
        thread.start()
        try:
            yield Addresses(f"http://127.0.0.1:{by_http.server_port}", f"127.0.0.1:{port}")
        finally:
            by_http.shutdown()
            thread.join()
            by_grpc.stop(None).wait()


def _answered(server: StandIn, path: str, body: bytes) -> tuple[int, Any]:
    """The status and the body of an answer by HTTP."""
    if path != "/v1/models/lstm:predict":
        return 404, {"error": f"Servable not found for request: {path}"}
    try:
        asked = json.loads(body)
    except ValueError as error:
        return 400, {"error": f"JSON Parse error: {error}"}
    (answer,) = server.batch({"rest": asked})
    return (HTTP[answer["code"]], {"error": answer["error"]}) if "error" in answer else (200, answer["rest"])


@contextlib.contextmanager
def real(base: Path) -> Iterator[Addresses]:
    """A real server with the versions in ``base``, or the one that TF_SERVING_REST names; skips where there is none."""
    named, program = os.environ.get("TF_SERVING_REST"), shutil.which("tensorflow_model_server")
    if named:
        yield Addresses(named, os.environ.get("TF_SERVING_GRPC", "localhost:8500"))
    elif program:
        with _started(program, base) as addresses:
            yield addresses
    else:
        pytest.skip("no TF Serving: tensorflow_model_server is not on the PATH, and TF_SERVING_REST names no server")


@contextlib.contextmanager
def _started(program: str, base: Path) -> Iterator[Addresses]:
    rest, by_grpc = _free_port(), _free_port()
    config = base.parent / "models.config"
    config.write_text((KIT / "models.config").read_text().replace("/models/lstm", str(base)))
    words = [f"--port={by_grpc}", f"--rest_api_port={rest}", f"--model_config_file={config}"]
    words += ["--enable_batching=true", f"--batching_parameters_file={BATCHING}"]
    with subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(f"http://127.0.0.1:{rest}/v1/models/lstm", process)
            yield Addresses(f"http://127.0.0.1:{rest}", f"127.0.0.1:{by_grpc}")
        finally:
            process.terminate()


def _wait(url: str, process: "subprocess.Popen[bytes]", seconds: float = 120) -> None:
    """Until the model is there."""
    for _ in range(int(seconds)):
        assert process.poll() is None, "tensorflow_model_server ended"
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url) as answer:
            if b"AVAILABLE" in answer.read():
                return
        time.sleep(1)
    raise TimeoutError(url)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port
