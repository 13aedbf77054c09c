"""Prepare the environment for TensorFlow and Keras before they are imported: backend, configuration, folders."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from keras_lstmgen.utils.errors import UserError

BACKEND = "KERAS_BACKEND"
# Variables with which Keras silently shortens a training, and the options to use instead.
LIMITS = {"KERAS_MAX_EPOCHS": "--training.epochs", "KERAS_MAX_STEPS_PER_EPOCH": "--training.minutes"}


def configure() -> None:
    """Set the variables of Keras, and name a folder for temporary files.

    ``keras.json`` is neither read nor written: this package sets every precision and shape explicitly, so that an
    invalid file, or the file of another program, has no effect.

    Raises:
        UserError: the user has set another backend, or a variable that would shorten a training.
    """
    if (chosen := os.environ.get(BACKEND, "tensorflow")) != "tensorflow":
        raise UserError(f"{BACKEND}={chosen}: keras-lstmgen needs the backend 'tensorflow'; unset {BACKEND}")
    for name, option in LIMITS.items():
        if name in os.environ:
            raise UserError(f"{name}={os.environ[name]}: would cut a training short; unset it, and use {option}")
    os.environ["KERAS_NNX_ENABLED"] = "0"  # NNX is for the JAX backend
    os.environ["KERAS_HOME"] = os.devnull  # folder of keras.json; no file can be below the null device
    _name_temporary_folder()


def _name_temporary_folder() -> None:
    """Set a name for the folder for temporary files if Python finds no writable one.

    TensorFlow needs the name when it is imported, and writes nothing there. Code that writes there fails later.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = "/tmp"


@contextmanager
def without_matplotlib() -> Iterator[None]:
    """Hide Matplotlib from Keras, which otherwise imports it for its own plots.

    Matplotlib fails if it cannot write to its configuration folder, and few commands need it.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["matplotlib"]
