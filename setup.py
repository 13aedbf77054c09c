"""Build steps that setup.cfg cannot declare: the C extension, the recipes and the clients."""

import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

PACKAGED = ("pipelines", "export")  # keras_lstmgen/files/packaged.py reads these folders
IGNORED = ("node_modules", "__pycache__", ".*")


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


setup(
    cmdclass={"build_py": BuildPy},
    ext_modules=[
        Extension(
            "keras_lstmgen.native.lstm",
            sources=["keras_lstmgen/native/lstm.c", "keras_lstmgen/native/softmax.c"],
            depends=sorted(map(str, Path("keras_lstmgen", "native").glob("*.h"))),
            extra_compile_args=["-std=gnu11", "-O3", "-Wno-psabi", "-pthread"],
            optional=True,  # without a C compiler, the package is installed without it and uses the loop of Keras
        )
    ],
)
