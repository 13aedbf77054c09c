"""A page that writes in the browser: a folder of static files, for any host that serves files.

The page's own code is the kit ``export/browser``. Beside it lie the graph ``step``, tokenizer and metadata, and ONNX
Runtime's build for browsers, which npm brings once: after that an export needs no network, and the page none at all.
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
from keras_lstmgen.files import atomic
from keras_lstmgen.files.data_folder import cache_folder
from keras_lstmgen.models import run_directory
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError

PATH = Path("web")
PAGE = (
    "index.html", "style.css", "loading.js", "page.js", "strip.js", "worker.js", "model.js", "contract.js",
    "tokenizer.js",
)  # fmt: skip
RUNTIME = "onnxruntime-web"  # in the lock of the kit, which holds its version and its checksum
# From npm's archive: where each file goes. Hosts know the type of .js better than that of .mjs.
VENDORED = {
    "package/dist/ort.wasm.bundle.min.mjs": "onnxruntime/ort.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "onnxruntime/ort-wasm-simd-threaded.wasm",
}
SECONDS = 600  # that a download may take


def kit() -> Path:
    """The folder of the page's own files: inside the package as it is installed, or in its repository."""
    inside = Path(__file__).parent / "browser"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "export" / "browser"


def write(run: Run, folder: Path) -> None:
    """Write the page and all that it loads into a run's folder."""
    _program("node")  # by which it is proved
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
        atomic.write_text(path / "package.json", '{"type": "module"}\n')  # so that Node reads .js as browsers do


def _program(name: str) -> str:
    """The path of a program of Node.js."""
    path = shutil.which(name)
    if path is None:
        raise UserError(f"--format web: {name} is not installed; install Node.js 20 or later, which brings it")
    return path


def _archive() -> bytes:
    """npm's archive of the runtime, from the cache folder or fetched into it, whole in either case."""
    locked = json.loads((kit() / "package-lock.json").read_text(encoding="utf-8"))["packages"][
        f"node_modules/{RUNTIME}"
    ]
    kept = cache_folder() / f"{RUNTIME}-{locked['version']}.tgz"
    if kept.is_file() and _is_whole(data := kept.read_bytes(), locked["integrity"]):
        return data
    data = _fetched(f"{RUNTIME}@{locked['version']}")
    if not _is_whole(data, locked["integrity"]):
        raise UserError(f"--format web: what npm fetched as {RUNTIME} is not what was published; try again")
    atomic.write_bytes(kept, data)
    return data


def _is_whole(data: bytes, integrity: str) -> bool:
    """Whether it has npm's checksum, ``sha512-`` and the digest in base64."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode() == integrity


def _fetched(package: str) -> bytes:
    """Fetch the archive of a package with npm, which reads no settings from the working directory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [_program("npm"), "pack", package, "--pack-destination", folder]
        command += ["--ignore-scripts", "--no-update-notifier"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS, cwd=folder)
            return next(Path(folder).glob("*.tgz")).read_bytes()
        except (subprocess.SubprocessError, OSError, StopIteration) as error:
            raise UserError(
                f"--format web: npm cannot fetch {package} ({_reason(error)}); check the network, it is needed once"
            ) from error


def _reason(error: BaseException) -> str:
    """What npm says is wrong, in a line; else what its end says."""
    said = getattr(error, "stderr", None) or ""
    return next((line.removeprefix("npm error ") for line in str(said).splitlines() if "npm error" in line), str(error))


def _unpacked(archive: bytes) -> dict[str, bytes]:
    """The files that the page loads, by where they go."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
        for member in packed:
            if member.name in VENDORED and (content := packed.extractfile(member)):
                found[VENDORED[member.name]] = content.read()
    return found


def open_artifact(folder: Path, threads: int = 1) -> Call:  # noqa: ARG001  # a page has one
    """Open it in Node, by the page's own code and runtime: what is proved is what a browser runs.

    The page begins every text anew: ``generate`` takes no ``state`` but zeros, and gives ``tokens`` alone.
    """
    # Node refuses modules below a folder with a backslash in its name, so that a link to such a folder has to stay one.
    options = ("--preserve-symlinks", str(kit() / "run.mjs"))
    command = [_program("node"), *options, str(folder / PATH), "--graphs"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def call(graph: str, **inputs: Any) -> Any:
        rows = _answer(
            process, {"graph": graph, "inputs": {name: np.asarray(x).tolist() for name, x in inputs.items()}}
        )
        return {name: np.array([row[name] for row in rows], _type(name)) for name in rows[0]}

    weakref.finalize(call, _close, process)
    return call


def _type(name: str) -> Any:
    return np.int32 if name == "tokens" else np.float32


def _answer(process: "subprocess.Popen[str]", question: dict[str, Any]) -> Any:
    """Send a line, and read one."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    answer = json.loads(line) if line else {"error": "Node ended"}
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["outputs"]


def _close(process: "subprocess.Popen[str]") -> None:
    """End Node, which ends with its input."""
    process.communicate()


EXPORTERS = {"web": Exporter("Web page", PATH, write, open_artifact)}
