"""The packages: one direction of imports, a docstring that says what belongs in each, and limits of size."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_lstmgen"
PACKAGES = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)
MODULES = sorted(PACKAGE.rglob("*.py"))
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"


def linted(folder: Path) -> "subprocess.CompletedProcess[str]":
    """The result of import-linter for the package in a folder."""
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and of its configuration."""
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_packages_import_one_way(copy: Path) -> None:
    done = linted(copy)
    assert done.returncode == 0, done.stdout
    assert "Contracts: 1 kept, 0 broken." in done.stdout


@pytest.mark.parametrize(
    ("module", "imported"),
    [("utils/errors.py", "cli"), ("models/builder.py", "training"), ("data/splits.py", "models")],
)
def test_an_import_against_the_order_fails(copy: Path, module: str, imported: str) -> None:
    with (copy / PACKAGE.name / module).open("a", encoding="utf-8") as file:
        file.write(f"import keras_lstmgen.{imported}  # noqa\n")
    done = linted(copy)
    assert done.returncode == 1
    importer = f"keras_lstmgen.{module.removesuffix('.py').replace('/', '.')}"
    assert f"{importer} -> keras_lstmgen.{imported} " in done.stdout


def test_a_package_without_a_place_in_the_order_fails(copy: Path) -> None:
    (copy / PACKAGE.name / "misc").mkdir()
    (copy / PACKAGE.name / "misc" / "__init__.py").write_text('"""Anything."""\n', encoding="utf-8")
    done = linted(copy)
    assert done.returncode == 1
    assert "misc" in done.stdout


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_package_says_what_belongs_in_it_and_what_does_not(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    assert docstring
    paragraphs = docstring.split("\n\n")
    assert len(paragraphs) == 2
    assert all(len(paragraph.split()) > 3 for paragraph in paragraphs)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_package_has_at_most_ten_modules(package: Path) -> None:
    modules = [path.name for path in package.glob("*.py") if path.name != "__init__.py"]
    assert 1 <= len(modules) <= 10, modules


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_has_at_most_350_lines(module: Path) -> None:
    lines = module.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 350
