"""TFLite with weights of eight bits: a quarter of the size, several times as fast, and texts of its own.

Each output of a product has a scale for its weights; what it multiplies is brought to eight bits row by row as it
comes ("dynamic range"). States, gates, choice of a token stay float32.
"""

from pathlib import Path

import tensorflow as tf

from keras_lstmgen.exporters import tflite
from keras_lstmgen.exporters.graphs import Call
from keras_lstmgen.models.run_directory import Run

PLACE = Path("tflite/model_int8.tflite")
LARGEST_LOSS = 0.02  # nats a token that rounding the weights may cost


def write(model: Run, folder: Path) -> Path:
    """Write the artifact into a run's folder: signatures, metadata and tokenizer as in ``model.tflite``."""
    return tflite.write_file(model, folder / PLACE, [tf.lite.Optimize.DEFAULT])


def open_artifact(folder: Path, threads: int = 1) -> Call:
    """Open it in LiteRT's interpreter; ``threads`` work within an operator."""
    return tflite.open_file(folder / PLACE, threads)


def size(folder: Path) -> int:
    """Bytes on disk."""
    return (folder / PLACE).stat().st_size
