"""Build steps that setup.cfg cannot declare: the C extension and the files of the web page."""

import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """Copies the files of the web page into the package; an editable one reads ``export/browser``."""

    def run(self) -> None:
        """Build the Python modules, and copy the files."""
        super().run()
        if not self.editable_mode:
            place = Path(self.build_lib, "keras_lstmgen", "exporters", "browser")
            without = shutil.ignore_patterns("node_modules")
            shutil.copytree(Path("export", "browser"), place, ignore=without, dirs_exist_ok=True)


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
