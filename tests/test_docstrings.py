"""Docstrings: their examples run, and each begins with one sentence on a line of its own."""

import ast
import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import keras_lstmgen

PACKAGE = Path(keras_lstmgen.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
NEEDS_BEAM = "keras_lstmgen.preparation."


def modules() -> list[str]:
    """The modules of all packages; without the entry points, which run a command when they are imported."""
    found = [module.name for module in pkgutil.walk_packages(keras_lstmgen.__path__, "keras_lstmgen.")]
    return [name for name in found if ".native" not in name and name.count(".") > 1]


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """The place of each docstring of a file, and its text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 1)}", text


def first_line_problem(text: str) -> str:
    """Return the reason why a docstring does not begin with a sentence on its own line, or ""."""
    first, *rest = text.splitlines() or [""]
    if not first.endswith((".", ":")):
        return "the first line does not end with a period"
    return "a blank line is missing after the first line" if rest and rest[0].strip() else ""


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_run(name: str) -> None:
    if name.startswith(NEEDS_BEAM):
        pytest.importorskip("apache_beam", reason="needs the extra beam")
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_the_package_has_examples() -> None:
    with_examples = [path for path in FILES if any(">>> " in text for _, text in docstrings(path))]
    assert len(with_examples) >= 5


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_docstring_begins_with_one_sentence_on_a_line(path: Path) -> None:
    problems = [(place, problem) for place, text in docstrings(path) if (problem := first_line_problem(text))]
    assert problems == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Return the loss.", ""),
        ("Return the loss.\n\nIn nats.", ""),
        ("Return the loss", "period"),
        ("Return the loss of\nall tokens.", "period"),
        ("Return the loss.\nIn nats.", "blank line"),
        ("", "period"),
    ],
)
def test_a_problem_of_a_docstring_is_found(text: str, problem: str) -> None:
    assert problem in first_line_problem(text)
    assert bool(problem) == bool(first_line_problem(text))
