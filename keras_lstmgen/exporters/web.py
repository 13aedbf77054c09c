"""Export to a web page that generates text in the browser: a folder of static files for any web server.

The folder contains the code of the page (from ``export/browser``), the graph ``step``, the tokenizer, the
metadata and ONNX Runtime Web. The first export downloads ONNX Runtime Web with npm. Later exports need no network, and
the page does not connect to other servers.
"""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from keras_lstmgen.exporters import onnx
from keras_lstmgen.exporters.graphs import Graphs, metadata_json
from keras_lstmgen.exporters.registry import Call, Exporter
from keras_lstmgen.files import atomic, packaged
from keras_lstmgen.files.data_folder import cache_folder
from keras_lstmgen.models import run_directory
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError

PATH = Path("web")
PAGE = (
    "index.html", "style.css", "loading.js", "page.js", "strip.js", "worker.js", "model.js", "contract.js",
    "tokenizer.js",
)  # fmt: skip
RUNTIME = "onnxruntime-web"  # npm package; package-lock.json contains its version and its checksum
# Paths of files in the npm archive, and their paths in the page. The suffix .mjs becomes .js, because some web servers
# do not know the content type of .mjs files.
VENDORED = {
    "package/dist/ort.wasm.bundle.min.mjs": "onnxruntime/ort.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "onnxruntime/ort-wasm-simd-threaded.wasm",
}
DOWNLOAD_TIMEOUT = 600  # seconds


def kit() -> Path:
    """Return the folder with the source files of the page, in the installed package or in the checkout."""
    return packaged.folder("export") / "browser"


def write(run: Run, folder: Path) -> None:
    """Write the page and all files that it loads to the subfolder ``web`` of a folder."""
    _program("node")  # fails early, because the comparison with Keras needs Node.js
    runtime = _unpacked(_archive())
    with atomic.replacing(folder / PATH) as path:
        path.mkdir()
        for name in PAGE:
            shutil.copyfile(kit() / name, path / name)
        (path / "onnxruntime").mkdir()
        for name, data in runtime.items():
            atomic.write_bytes(path / name, data)
        atomic.write_bytes(path / onnx.FILES["step"], onnx.model_of(Graphs(run).step, "step").SerializeToString())
        atomic.write_bytes(path / run_directory.TOKENIZER, run.tokenizer.model)
        atomic.write_text(path / run_directory.METADATA, metadata_json(run))
        atomic.write_text(
            path / "package.json", '{"type": "module"}\n'
        )  # Node treats .js files as modules, like browsers


def _program(name: str) -> str:
    """Return the path of the program ``node`` or ``npm``; raise UserError if it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise UserError(f"--format web: {name} is not installed; install Node.js 20 or later")
    return path


def _archive() -> bytes:
    """Return the npm archive of the runtime from the cache folder, or download it.

    Raises:
        UserError: if the checksum of the downloaded archive is wrong.
    """
    locked = json.loads((kit() / "package-lock.json").read_text(encoding="utf-8"))["packages"][
        f"node_modules/{RUNTIME}"
    ]
    cached = cache_folder() / f"{RUNTIME}-{locked['version']}.tgz"
    if cached.is_file() and _matches(data := cached.read_bytes(), locked["integrity"]):
        return data
    data = _download(f"{RUNTIME}@{locked['version']}")
    if not _matches(data, locked["integrity"]):
        raise UserError(f"--format web: the checksum of the downloaded package {RUNTIME} is wrong; try again")
    atomic.write_bytes(cached, data)
    return data


def _matches(data: bytes, integrity: str) -> bool:
    """Return whether the checksum of the data is ``integrity``, in the format of npm: ``sha512-`` and base64."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode() == integrity


def _download(package: str) -> bytes:
    """Download the archive of a package with npm.

    npm runs in a temporary folder, so it does not read npm settings in the working directory of the user.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [_program("npm"), "pack", package, "--pack-destination", folder]
        command += ["--ignore-scripts", "--no-update-notifier"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT, cwd=folder)
            return next(Path(folder).glob("*.tgz")).read_bytes()
        except (subprocess.SubprocessError, OSError, StopIteration) as error:
            raise UserError(
                f"--format web: npm cannot download {package} ({_reason(error)}); check the network"
            ) from error


def _reason(error: BaseException) -> str:
    """Return the first error line of npm, or the message of the exception."""
    output = getattr(error, "stderr", None) or ""
    return next(
        (line.removeprefix("npm error ") for line in str(output).splitlines() if "npm error" in line), str(error)
    )


def _unpacked(archive: bytes) -> dict[str, bytes]:
    """Return the files of the archive that the page needs, as a dictionary from path in the page to content."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
        for member in packed:
            if member.name in VENDORED and (content := packed.extractfile(member)):
                files[VENDORED[member.name]] = content.read()
    return files


def open_artifact(folder: Path, threads: int = 1) -> Call:  # noqa: ARG001 (a page has one thread)
    """Run the code of the page in Node, with the same runtime as in a browser.

    The page starts each text with a zero state, so the graph ``generate`` ignores its input ``state``. The graph
    returns only ``tokens``.

    Args:
        folder: folder that contains the subfolder ``web``.
        threads: ignored, because the page always uses one thread.

    Returns:
        A function that runs a graph, see ``registry.Call``.
    """
    # Node cannot load modules from a folder with a backslash in its path. In this case, ``folder`` is a link without a
    # backslash in its path, and the first option prevents Node from resolving the link.
    options = ("--preserve-symlinks", str(kit() / "run.mjs"))
    command = [_program("node"), *options, str(folder / PATH), "--graphs"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def call(graph: str, **inputs: Any) -> Any:
        rows = _request(
            process, {"graph": graph, "inputs": {name: np.asarray(x).tolist() for name, x in inputs.items()}}
        )
        return {name: np.array([row[name] for row in rows], _dtype(name)) for name in rows[0]}

    weakref.finalize(call, _close, process)
    return call


def _dtype(name: str) -> Any:
    """Return the dtype of an output."""
    return np.int32 if name == "tokens" else np.float32


def _request(process: "subprocess.Popen[str]", request: dict[str, Any]) -> Any:
    """Send a request to Node as a line of JSON, and return the outputs of its response."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    response = json.loads(line) if line else {"error": "Node exited"}
    if "error" in response:
        raise RuntimeError(response["error"])
    return response["outputs"]


def _close(process: "subprocess.Popen[str]") -> None:
    """Close the standard input of Node, and wait until Node exits."""
    process.communicate()


EXPORTERS = {"web": Exporter("Web page", PATH, write, open_artifact)}
