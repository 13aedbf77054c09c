"""Modules in the working directory that leave a mark when they are executed, one of every name that is imported."""

import importlib.metadata
import sys
from pathlib import Path

MARK = "executed.txt"
PLANTED = """
with open({path!r}, "ab") as file:
    file.write(f"{{__name__}}\\n".encode())
raise ImportError("this file stands in the working directory")
"""


def installed() -> set[str]:
    """The names of all modules that are imported here, that Python has, or that a package has installed."""
    names = {*sys.modules, *sys.stdlib_module_names, *importlib.metadata.packages_distributions()}
    tops = {name.partition(".")[0] for name in names} | {"sitecustomize", "usercustomize"}
    return {name for name in tops if name.isidentifier() and not name.startswith("__")}


def plant(folder: Path, names: set[str]) -> Path:
    """Write such a module for each of ``names`` into ``folder``."""
    text = PLANTED.format(path=str(folder / MARK))
    for name in names:
        (folder / f"{name}.py").write_text(text)
    return folder


def executed(folder: Path) -> list[str]:
    """Return the names of the planted modules that were executed."""
    return (folder / MARK).read_text().split() if (folder / MARK).exists() else []
