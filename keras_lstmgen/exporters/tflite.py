"""TFLite (LiteRT): one file, three signatures, built-in operators only.

As the file lies, its inputs have one row; a caller that resizes them gets as many as it asks for.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from keras_lstmgen.exporters.graphs import GRAPHS, Call, Graphs, metadata_json
from keras_lstmgen.files import atomic
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError

PLACE = Path("tflite/model.tflite")


def write(model: Run, folder: Path) -> Path:
    """Write the artifact into a run's folder; metadata and tokenizer are metadata buffers of the file."""
    return write_file(model, folder / PLACE, [])


def write_file(model: Run, path: Path, optimizations: list[Any], types: Sequence[Any] = ()) -> Path:
    """Write one file with TensorFlow Lite's ``optimizations``, which may bring weights to one of ``types``."""
    content = flatbuffer_utils.convert_bytearray_to_object(bytearray(_converted(model, optimizations, types)))
    _check(content)
    _attach(content, "keras_lstmgen", metadata_json(model).encode())
    _attach(content, "tokenizer", model.tokenizer.model)
    atomic.write_bytes(path, bytes(flatbuffer_utils.convert_object_to_bytearray(content)))
    return path


def _converted(model: Run, optimizations: list[Any], types: Sequence[Any]) -> bytes:
    """Convert by way of a SavedModel, the way that shares the weights between signatures."""
    with tempfile.TemporaryDirectory() as place, atomic.plain_path(Path(place)) as folder:
        graphs = Graphs(model)
        tf.saved_model.save(graphs, str(folder), signatures=graphs.signatures())
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=list(GRAPHS))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.target_spec.supported_types = types
        converter.optimizations = optimizations
        return bytes(converter.convert())


def _check(content: Any) -> None:
    """Assert that no operator needs more than the runtime itself (Flex operators are custom ones)."""
    custom = [code.customCode for code in content.operatorCodes if code.builtinCode == schema.BuiltinOperator.CUSTOM]
    if custom:
        raise UserError(f"TFLite: operators that are not built in: {custom}")


def _attach(content: Any, name: str, data: bytes) -> None:
    """Add a named metadata buffer."""
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(data, np.uint8)
    entry.name, entry.buffer = name, len(content.buffers)
    content.buffers.append(buffer)
    content.metadata = [*(content.metadata or []), entry]


def open_artifact(folder: Path, threads: int = 1) -> Call:
    """Open it in LiteRT's interpreter; ``threads`` work within an operator."""
    return open_file(folder / PLACE, threads)


def open_file(path: Path, threads: int) -> Call:
    """Open one file; a signature runner gives its inputs the shapes that it is called with."""
    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    runners = {name: interpreter.get_signature_runner(name) for name in GRAPHS}

    def call(graph: str, **inputs: Any) -> Any:
        return {name: np.copy(value) for name, value in runners[graph](**inputs).items()}

    return call


def size(folder: Path) -> int:
    """Bytes on disk."""
    return (folder / PLACE).stat().st_size
