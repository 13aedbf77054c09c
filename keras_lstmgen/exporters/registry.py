"""Registry of the export formats: the path of each artifact, and the functions that write and open it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError

# A function that runs an opened artifact: call("step", ids=…, state=…) runs the graph ``step`` and returns its outputs
# by name.
Call = Callable[..., dict[str, np.ndarray[Any, Any]]]

# The module of each format. A module is imported on first use, because its converter is an optional dependency.
MODULES = {
    "saved_model": "saved_model",
    "tflite": "tflite",
    "tflite_float16": "tflite",
    "tflite_int8": "tflite",
    "onnx": "onnx",
    "web": "web",
}


@dataclass(frozen=True)
class Exporter:
    """One export format.

    Attributes:
        title: name of the format in messages and tables.
        path: path of the artifact, a file or a folder, relative to the folder of the run.
        write: function that takes a run and a folder, and writes the artifact to ``path`` in this folder.
        open_artifact: function that takes a folder and opens the artifact at ``path`` in its own runtime. Its optional
            argument ``threads`` is the number of threads that compute one operator.
        max_loss_increase: largest permitted increase of the loss over Keras in nats per token, for a format with
            rounded weights; None for a format that must generate the same texts as Keras.
        string_signatures: whether the artifact also has signatures that take and return strings.
    """

    title: str
    path: Path
    write: Callable[[Run, Path], None]
    open_artifact: Callable[..., Call]
    max_loss_increase: float | None = None
    string_signatures: bool = False

    def size(self, folder: Path) -> int:
        """Return the size in bytes of the artifact in ``folder``."""
        place = folder / self.path
        files = place.rglob("*") if place.is_dir() else [place]
        return sum(file.stat().st_size for file in files if file.is_file())


def exporter(name: str) -> Exporter:
    """Return the exporter of a format.

    Args:
        name: name of the format, as for the option ``--format``; a key of ``MODULES``.

    Raises:
        UserError: if the converter or the runtime of the format is not installed.
    """
    try:
        module = importlib.import_module(f"keras_lstmgen.exporters.{MODULES[name]}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"--format {name}: {error.name} is not installed; pip install 'keras_lstmgen[export]'"
        ) from error
    found: Exporter = module.EXPORTERS[name]
    return found
