"""The web page in a real browser: what npm brings for that, a folder served, and tasks for ``browser/drive.mjs``."""

import contextlib
import hashlib
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from keras_lstmgen.files import atomic, data_folder
from keras_lstmgen.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "export/browser"


def kit(folder: Path) -> Path:
    """Copy the kit of the web page and the scripts of its tests to a folder, with npm's packages beside them."""
    packages = _packages()
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(ROOT / "tests/browser", folder / "tests")
    (folder / "node_modules").symlink_to(packages)
    return folder


def _packages() -> Path:
    """npm's packages, a browser among them; the cache folder keeps them. UserError where npm cannot fetch them."""
    lock = (PAGE / "package-lock.json").read_bytes()
    kept = data_folder.cache_folder() / f"browser-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not kept.is_dir():
        with atomic.replacing(kept) as path:
            path.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(PAGE / name, path)
            _run(["npm", "ci", "--ignore-scripts"], "npm cannot fetch the browser", cwd=path)
    return kept / "node_modules"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder on this host, by Python's own server of files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def drive(kit: Path, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The answers to tasks, by name. UserError where no browser starts."""
    command = ["node", str(kit / "tests/drive.mjs")]
    answers: dict[str, Any] = json.loads(_run(command, "the browser does not start", input=json.dumps(tasks)))
    failed = {name: answer["failed"] for name, answer in answers.items() if "failed" in answer}
    assert not failed, "\n".join(failed.values())
    return answers


def _run(command: list[str], trouble: str, **options: Any) -> str:
    """What a command of Node.js prints; a UserError has the line in which it says what is wrong."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8", **options).stdout
    except (subprocess.CalledProcessError, OSError) as error:
        said = str(getattr(error, "stderr", None) or error).splitlines()
        raise UserError(f"{trouble}: {next((line for line in said if 'rror' in line), said[-1])}") from error
