"""The notebook runs from its first to its last cell."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def test_the_notebook_is_committed_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert len(cells) > 10
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert NOTEBOOK.stat().st_size < 20_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_runs_in_two_minutes_of_processor_time(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra test")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra test")
    pytest.importorskip("ipykernel", reason="needs the extra test")
    shutil.copy(NOTEBOOK, tmp_path)
    notebook: Any = nbformat.read(tmp_path / NOTEBOOK.name, as_version=4)
    time_of = "import time; print(time.process_time())"
    notebook.cells.append(nbformat.v4.new_code_cell(time_of))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell["id"]: cell.get("outputs", []) for cell in notebook.cells}
    printed = {
        name: "".join(output.get("text", "") for output in entries if output["output_type"] == "stream")
        for name, entries in outputs.items()
    }
    assert not [output for entries in outputs.values() for output in entries if output.get("name") == "stderr"]
    assert printed["export"].startswith("tflite: 10 of 10 texts are identical")
    assert len(printed["generate"]) == 200
    assert [output for output in outputs["curve"] if "image/png" in output["data"]]
    assert [output for output in outputs["gates"] if "image/png" in output["data"]]
    assert float(printed[notebook.cells[-1]["id"]]) < 2 * 120  # two cores, two minutes
