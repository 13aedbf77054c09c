"""Import modules that need TensorFlow when they are first used, without the messages of TensorFlow."""

import importlib
import os
import sys
from contextlib import nullcontext
from types import ModuleType
from typing import Any

from keras_lstmgen.system import cpu
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.utils.errors import UserError

BACKEND = "KERAS_BACKEND"


def import_module(name: str) -> ModuleType:
    """Import a module of this package that imports TensorFlow and Keras.

    The function sets the number of threads of TensorFlow before the first import of TensorFlow, and discards the
    messages of this import. Unlike the command line, it does not change the settings of Keras, because the process
    belongs to the program of the user.

    Args:
        name: full name of the module, such as ``"keras_lstmgen.layers.lstm"``.

    Raises:
        UserError: if Keras uses another backend than TensorFlow.
    """
    if (module := sys.modules.get(name)) is not None and not getattr(module.__spec__, "_initializing", False):
        return module
    backend = sys.modules["keras"].config.backend() if "keras" in sys.modules else os.environ.get(BACKEND, "tensorflow")
    if backend != "tensorflow":
        raise UserError(f"{BACKEND}={backend}: keras_lstmgen needs the backend 'tensorflow'; unset {BACKEND}")
    if "tensorflow" not in sys.modules:
        cpu.configure()
    with nullcontext() if "tensorflow" in sys.modules else captured_stderr():
        return importlib.import_module(name)


def attribute(package: str, modules: dict[str, str], name: str) -> Any:
    """Return a public name of a package from the module that defines it. Use this function in ``__getattr__``.

    Args:
        package: full name of the package.
        modules: the name of the module in the package for each public name.
        name: the name to look up.

    Raises:
        AttributeError: if ``modules`` does not contain the name.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(import_module(f"{package}.{modules[name]}"), name)
