"""AutoGraph, which writes a file for each function that it converts, converts no function of this project."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [path for name in ("keras_lstmgen", "export") for path in sorted((ROOT / name).rglob("*.py"))]


def functions(module: Path) -> list[ast.expr]:
    """All uses of ``tf.function`` as a decorator or as a call."""
    nodes = list(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
    called = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "tf.function"]
    bare = [one for node in nodes for one in getattr(node, "decorator_list", []) if ast.unparse(one) == "tf.function"]
    return [*called, *bare]


@pytest.mark.parametrize("module", [path for path in MODULES if functions(path)], ids=lambda path: path.name)
def test_every_tf_function_is_traced_without_autograph(module: Path) -> None:
    for function in functions(module):
        assert "autograph=False" in ast.unparse(function), ast.unparse(function)
