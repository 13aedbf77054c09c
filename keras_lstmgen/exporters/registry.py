"""Registry of the export formats: the path of each artifact in a run, and the functions that write and open it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError

# An opened artifact: maps the name of a graph and its inputs by name to its outputs by name.
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
        path: file or folder of the artifact, relative to the folder of the run.
        write: writes the artifact of a run below a folder.
        open_artifact: opens the artifact below a folder in its own runtime; takes ``threads``, the number of threads.
        max_loss_increase: for a format with rounded weights, the largest permitted increase of the loss over Keras, in
            nats per token. None for a format that must generate the same texts as Keras.
        string_signatures: whether the artifact also has signatures that read and generate strings.
    """

    title: str
    path: Path
    write: Callable[[Run, Path], None]
    open_artifact: Callable[..., Call]
    max_loss_increase: float | None = None
    string_signatures: bool = False

    def size(self, folder: Path) -> int:
        """Return the size of the artifact below ``folder`` in bytes."""
        place = folder / self.path
        files = place.rglob("*") if place.is_dir() else [place]
        return sum(file.stat().st_size for file in files if file.is_file())


def exporter(name: str) -> Exporter:
    """Return the exporter of a format.

    Args:
        name: value of the option ``--format``, a key of ``MODULES``.

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
