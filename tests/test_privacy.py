"""Nothing that the package runs on reports on the person who uses it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("keras_lstmgen", "export", "benchmarks", "tests")
SETTING = 'os.environ["ORT_DISABLE_TELEMETRY"] = "1"'
FUNCTIONS = ("import_module", "importorskip", "__import__")


def names(node: ast.AST) -> list[str]:
    """The modules that a statement or call imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in FUNCTIONS and node.args:
        return [value.value for value in node.args if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return []


def imports(path: Path) -> list[int]:
    """The lines of a file that import ONNX Runtime."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.lineno for node in nodes if any(n.split(".")[0] == "onnxruntime" for n in names(node))]  # type: ignore[attr-defined]


def test_telemetry_of_onnx_runtime_is_off_before_each_import_of_it() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "node_modules" not in path.parts]
    found = {path: lines for path in paths if (lines := imports(path))}
    assert len(found) >= 3
    for path, lines in found.items():
        before = path.read_text(encoding="utf-8").splitlines()[: min(lines) - 1]
        assert any(line.strip().startswith(SETTING) for line in before), path


PACKAGE = """
import sys
from pathlib import Path

from keras_lstmgen.system import environment

environment.configure()
with environment.without_matplotlib():
    from keras_lstmgen.exporters import onnx

call = onnx.open_artifact(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("how", ["client", "package"])
def test_onnx_runtime_leaves_nothing_in_a_new_home(trained: Path, tmp_path: Path, how: str) -> None:
    client = [str(ROOT / "export/onnx/generate.py"), str(trained / "onnx/model.onnx"), "--max-new-tokens", "20"]
    words = client if how == "client" else ["-c", PACKAGE, str(trained)]
    hidden = ("XDG_", "ORT_")
    settings = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    subprocess.run([sys.executable, *words], env=settings | {"HOME": str(tmp_path)}, check=True, capture_output=True)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == []
