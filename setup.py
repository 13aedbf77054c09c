"""What setup.cfg cannot say: the code in C of LSTM and loss, and the web page's files. All else stands there."""

import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """Takes the files of the web page, which lie among the kits, into the package; an editable one finds them there."""

    def run(self) -> None:
        """Copy them after the modules."""
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
            optional=True,  # without a C compiler the rest is installed, and trains by Keras's own loop
        )
    ],
)
