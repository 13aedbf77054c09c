"""Every example of the pages on the Python API runs in a new process, as it is printed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def titled(code: str) -> str:
    """The heading above an example."""
    return re.findall(r"^## (.*)", PAGE[: PAGE.index(code)], re.MULTILINE)[-1]


@pytest.fixture
def folder(tmp_path: Path, trained: Path, text: Path) -> Path:
    """A working directory with the run and the text that the page names."""
    shutil.copytree(trained, tmp_path / "saved_models" / "my_book")
    shutil.copy(text, tmp_path / "my_book.txt")
    return tmp_path


def run(code: str, folder: Path) -> str:
    """Return what a program prints; fail if it fails, or if it writes to standard error.

    If the program imports Keras itself, TensorFlow writes to standard error.
    """
    (folder / "example.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, "example.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" or "import keras\n" in code
    return done.stdout


def test_the_page_has_an_example_under_each_heading() -> None:
    assert len(EXAMPLES) == 6
    assert len({titled(code) for code in EXAMPLES}) == 6


@pytest.mark.slow
@pytest.mark.parametrize("code", EXAMPLES, ids=titled)
def test_an_example_runs_as_it_is_printed(code: str, folder: Path) -> None:
    assert run(code, folder)


@pytest.mark.slow
def test_the_example_of_the_readme_runs_as_it_is_printed(folder: Path) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"(?:^    .*\n)*^    import keras_lstmgen.*\n(?:^(?:    .*)?\n)*?(?=^\S)", page, re.MULTILINE)
    code = "".join(line.removeprefix("    ") for line in block.splitlines(keepends=True))
    assert "lm.generate" in code
    assert run(code, folder)
    assert (folder / "out" / "tflite" / "model.tflite").is_file()
