"""Train an LSTM text generator with Keras, and export it to TF Serving, TFLite, ONNX and the browser.

``docs/python.md`` describes the Python API. ``docs/architecture.md`` shows how data flows through the packages.
"""

import importlib
import os
import sys

# The standard module ``typing`` is not imported, because it could be a file of the working directory at this point.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from keras_lstmgen import layers as layers
    from keras_lstmgen.api.own_model import export_model as export_model
    from keras_lstmgen.api.text_generator import TextGenerator as TextGenerator
    from keras_lstmgen.tokenizers.tokenizer import Tokenizer as Tokenizer
    from keras_lstmgen.utils.errors import UserError as UserError

__version__ = "0.1.0"
__all__ = ["TextGenerator", "Tokenizer", "UserError", "export_model", "layers"]

# The module of each public name. ``import keras_lstmgen`` imports none of these modules, so that it is fast. None of
# them may import TensorFlow when it is imported.
_MODULES = {
    "TextGenerator": "keras_lstmgen.api.text_generator",
    "Tokenizer": "keras_lstmgen.tokenizers.tokenizer",
    "UserError": "keras_lstmgen.utils.errors",
    "export_model": "keras_lstmgen.api.own_model",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name == "layers":
        return importlib.import_module("keras_lstmgen.layers")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the names of the module, including the public names that are not imported yet."""
    return sorted({*globals(), *__all__})


def _leave_out_working_directory() -> None:
    """Remove the working directory from ``sys.path`` if this process is ``python -m keras_lstmgen.VERB``.

    With ``-m``, Python puts the working directory first in ``sys.path``. Without this function, ``import numpy`` would
    execute a file ``numpy.py`` in the working directory.
    """
    is_being_located = sys.argv[:1] == ["-m"] and any(f"{__name__}." in word for word in sys.orig_argv)
    if is_being_located and not sys.flags.safe_path:
        del sys.path[0]


_leave_out_working_directory()
# Keras reads this variable when it is imported. If it is set, Keras ignores the backend in ``keras.json``.
os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
