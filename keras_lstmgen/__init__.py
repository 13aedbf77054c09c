"""Train an LSTM text generator with Keras, and export it to TF Serving, TFLite, ONNX and the browser.

``docs/architecture.md`` shows how data flows through the packages.
"""

import os
import sys

__version__ = "0.1.0"


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
