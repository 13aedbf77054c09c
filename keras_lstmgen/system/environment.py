"""Settings that must be made before TensorFlow and Keras are imported: the backend, and folders for their files."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from keras_lstmgen.utils.errors import UserError

BACKEND = "KERAS_BACKEND"
# Variables by which Keras cuts a training short without a word, and the option to use in their place.
LIMITS = {"KERAS_MAX_EPOCHS": "--training.epochs", "KERAS_MAX_STEPS_PER_EPOCH": "--training.minutes"}


def configure() -> None:
    """Prepare TensorFlow and Keras for a command. Raises UserError for variables of Keras that cannot be obeyed.

    ``keras.json`` is neither read nor written: this package states every precision and shape itself, so that a file
    that is invalid, or made for another program, changes nothing.
    """
    if (chosen := os.environ.get(BACKEND, "tensorflow")) != "tensorflow":
        raise UserError(f"{BACKEND}={chosen}: keras-lstmgen needs the backend 'tensorflow'; unset {BACKEND}")
    for name, option in LIMITS.items():
        if name in os.environ:
            raise UserError(f"{name}={os.environ[name]}: would cut a training short; unset it, and use {option}")
    os.environ["KERAS_NNX_ENABLED"] = "0"  # which is for the JAX backend
    os.environ["KERAS_HOME"] = os.devnull  # where Keras looks for its file: there can be none below it
    _name_temporary_folder()


def _name_temporary_folder() -> None:
    """Let Python name a folder for temporary files even if none can be written to.

    TensorFlow asks for the name when it is imported, and writes nothing there. What does write there fails then.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = "/tmp"


@contextmanager
def without_matplotlib() -> Iterator[None]:
    """Hide Matplotlib from Keras, which imports it for plots of its own if it is there.

    Matplotlib fails without a folder that it can write to, and few commands draw.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["matplotlib"]
