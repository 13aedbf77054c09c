"""Train an LSTM text generator with Keras, and export it to TF Serving, TFLite, ONNX and the browser.

``docs/architecture.md`` shows how data flows through the packages.
"""

import os
import sys

__version__ = "0.1.0"


def _leave_out_working_directory() -> None:
    """Import nothing from the working directory if this process is ``python -m keras_lstmgen.VERB``.

    Python puts that directory first in ``sys.path``, so that a file ``numpy.py`` there would be executed.
    """
    is_being_located = sys.argv[:1] == ["-m"] and any(f"{__name__}." in word for word in sys.orig_argv)
    if is_being_located and not sys.flags.safe_path:
        del sys.path[0]


_leave_out_working_directory()
# For Keras, which reads it when it is imported; ``keras.json`` is no choice made for this package.
os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
