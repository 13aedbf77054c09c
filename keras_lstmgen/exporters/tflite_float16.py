"""TFLite with weights of sixteen bits: half the size of float32 on disk, and nearly its loss.

Products stay float32, of weights that are widened once, when the file is loaded.
"""

from pathlib import Path

import tensorflow as tf

from keras_lstmgen.exporters import tflite
from keras_lstmgen.exporters.graphs import Call
from keras_lstmgen.models.run_directory import Run

PLACE = Path("tflite/model_float16.tflite")
LARGEST_LOSS = 0.001  # nats a token that rounding the weights may cost


def write(model: Run, folder: Path) -> Path:
    """Write the artifact into a run's folder: signatures, metadata and tokenizer as in ``model.tflite``."""
    return tflite.write_file(model, folder / PLACE, [tf.lite.Optimize.DEFAULT], [tf.float16])


def open_artifact(folder: Path, threads: int = 1) -> Call:
    """Open it in LiteRT's interpreter; ``threads`` work within an operator."""
    return tflite.open_file(folder / PLACE, threads)


def size(folder: Path) -> int:
    """Bytes on disk."""
    return (folder / PLACE).stat().st_size
