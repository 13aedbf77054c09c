"""Build steps that setup.cfg cannot declare: the C extension, the recipes and the clients."""

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

PACKAGED = ("pipelines", "export")  # keras_lstmgen/files/packaged.py reads these folders
IGNORED = ("node_modules", "__pycache__", ".*")
NATIVE = Path("keras_lstmgen", "native")
SOURCES = [str(NATIVE / f"{name}.c") for name in ("lstm", "softmax", "plain", "softmax_plain")]


class BuildPy(build_py):
    """Copies the recipes and the clients into the package. An editable installation reads them from the checkout."""

    def run(self) -> None:
        """Build the Python modules, and copy the folders."""
        super().run()
        if not self.editable_mode:
            for name in PACKAGED:
                place = Path(self.build_lib, "keras_lstmgen", "packaged", name)
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(name, place, ignore=shutil.ignore_patterns(*IGNORED))


class BuildExt(build_ext):
    """Compiles one object file per instruction set, each with its own compiler options."""

    def build_extension(self, ext: Extension) -> None:
        """Build the extension. If this fails, write the reason to ``missing.txt`` for ``layers/native_ops.py``."""
        folder = NATIVE if self.editable_mode else Path(self.get_ext_fullpath(ext.name)).parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "missing.txt").unlink(missing_ok=True)
        try:
            self._compile_instruction_sets(ext)
            super().build_extension(ext)
        except Exception:
            (folder / "missing.txt").write_text(_reason(self.compiler), encoding="utf-8")
            raise

    def _compile_instruction_sets(self, ext: Extension) -> None:
        """Compile the files for the target processor. A file that the compiler cannot compile is left out."""
        sets = tomllib.loads((NATIVE / "instruction_sets.toml").read_text(encoding="utf-8"))
        for name, options in sets.get(_machine(self.compiler), {}).items():
            given = {"output_dir": self.build_temp, "extra_postargs": [*ext.extra_compile_args, *options]}
            try:
                ext.extra_objects += self.compiler.compile([str(NATIVE / f"{name}.c")], **given)
                ext.define_macros.append((f"HAS_{name.upper()}", "1"))
            except CompileError as error:
                print(f"without {name}: {error}")


def _machine(compiler: Any) -> str:
    """Return the processor for which the compiler compiles, such as "x86_64"; "" if there is no compiler."""
    try:
        command = [*compiler.compiler_so, "-dumpmachine"]
        name = subprocess.run(command, capture_output=True, text=True).stdout.partition("-")[0].strip()
    except OSError:
        return ""
    return {"arm64": "aarch64"}.get(name, name)


def _reason(compiler: Any) -> str:
    """Return why the extension could not be built."""
    program = compiler.compiler_so[0]
    if shutil.which(program) is None:
        return "no C compiler was found during installation"
    return f"the C compiler '{program}' failed during installation"


setup(
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt},
    ext_modules=[
        Extension(
            "keras_lstmgen.native.lstm",
            sources=SOURCES,
            depends=sorted(str(path) for kind in ("*.[ch]", "*.toml") for path in NATIVE.glob(kind)),
            extra_compile_args=["-std=gnu11", "-O3", "-Wno-psabi", "-Wno-unused-function", "-pthread"],
            optional=True,  # without a C compiler, the package is installed without it and uses the loop of Keras
        )
    ],
)
