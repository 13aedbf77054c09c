"""Set up the process before TensorFlow and Keras are imported: backend, configuration and temporary folder."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from keras_lstmgen.utils.errors import UserError

BACKEND = "KERAS_BACKEND"
# Variables that make Keras stop a training early without a message, each with the option to use instead.
LIMITS = {"KERAS_MAX_EPOCHS": "--training.epochs", "KERAS_MAX_STEPS_PER_EPOCH": "--training.minutes"}


def configure() -> None:
    """Set the environment variables of Keras, and make sure that ``tempfile`` returns a folder.

    The variables make Keras ignore ``keras.json``, because other programs may have written it for their own needs.

    Raises:
        UserError: ``KERAS_BACKEND`` names another backend, or a variable would make Keras stop a training early.
    """
    if (chosen := os.environ.get(BACKEND, "tensorflow")) != "tensorflow":
        raise UserError(f"{BACKEND}={chosen}: keras-lstmgen needs the backend 'tensorflow'; unset {BACKEND}")
    check_limits()
    os.environ["KERAS_NNX_ENABLED"] = "0"  # only the JAX backend supports NNX
    os.environ["KERAS_HOME"] = os.devnull  # Keras looks for keras.json in this folder and cannot create it there
    _name_temporary_folder()


def check_limits() -> None:
    """Raise UserError if a variable would make Keras stop a training early."""
    for name, option in LIMITS.items():
        if name in os.environ:
            raise UserError(f"{name}={os.environ[name]}: would stop a training early; unset it, and use {option}")


def _name_temporary_folder() -> None:
    """Set ``tempfile.tempdir`` to ``/tmp`` if Python does not find a writable folder for temporary files.

    During its import, TensorFlow calls ``tempfile.gettempdir``, but does not write into the folder. If the folder is
    not writable, code that later writes temporary files fails with its own message.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = "/tmp"


@contextmanager
def without_matplotlib() -> Iterator[None]:
    """Make ``import matplotlib`` fail inside the context, so that Keras does not import Matplotlib for its own plots.

    Matplotlib cannot be imported if its configuration folder is not writable. Because Keras does not import it,
    commands that draw no plots work in this case too.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["matplotlib"]
