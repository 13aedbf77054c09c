"""Export to TFLite (LiteRT): one file with three signatures, with float32, float16 or int8 weights.

The file contains only built-in operators. The inputs of its graphs have one row. For larger
batches, the interpreter resizes the inputs.
"""

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from keras_lstmgen.exporters.graphs import GRAPHS, Graphs, metadata_json
from keras_lstmgen.exporters.registry import Call, Exporter
from keras_lstmgen.files import atomic
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError


@dataclass(frozen=True)
class Precision:
    """Options of the converter for one type of weights.

    Attributes:
        title: name of the format in messages and tables.
        file: name of the file.
        optimizations: optimizations of the converter. If this is empty, the weights stay float32.
        types: permitted types of the weights. If this is empty, an optimization converts the weights to int8.
        max_loss_increase: largest permitted increase of the loss over Keras in nats per token; None for float32
            weights.
    """

    title: str
    file: str
    optimizations: Sequence[Any] = ()
    types: Sequence[Any] = ()
    max_loss_increase: float | None = None

    @property
    def path(self) -> Path:
        """The path of the file, relative to the folder of the run."""
        return Path("tflite") / self.file


PRECISIONS = {
    "tflite": Precision("TFLite", "model.tflite"),
    # This file has half the size of the float32 file. The runtime converts the weights to float32 when it loads the
    # file, and computes matrix products in float32.
    "tflite_float16": Precision(
        "TFLite float16", "model_float16.tflite", [tf.lite.Optimize.DEFAULT], [tf.float16], max_loss_increase=0.001
    ),
    # This file has a quarter of the size of the float32 file. It uses "dynamic range" quantization: the weights are
    # int8 with one scale per output of a matrix product, and the runtime quantizes each row of the other operand.
    # States, gates and sampling are float32.
    "tflite_int8": Precision(
        "TFLite int8", "model_int8.tflite", [tf.lite.Optimize.DEFAULT], max_loss_increase=0.02
    ),
}  # fmt: skip


def write(precision: Precision, run: Run, folder: Path) -> None:
    """Write the file of one precision to a folder; the file contains metadata and tokenizer as metadata buffers."""
    content = flatbuffer_utils.convert_bytearray_to_object(bytearray(_converted(precision, run)))
    _check_operators(content)
    _attach(content, "keras_lstmgen", metadata_json(run).encode())
    _attach(content, "tokenizer", run.tokenizer.model)
    atomic.write_bytes(folder / precision.path, bytes(flatbuffer_utils.convert_object_to_bytearray(content)))


def _converted(precision: Precision, run: Run) -> bytes:
    """Convert the graphs to TFLite.

    The function first writes a SavedModel, because the converter then stores only one copy of the weights for all
    signatures.
    """
    with tempfile.TemporaryDirectory() as temporary, atomic.plain_path(Path(temporary)) as folder:
        graphs = Graphs(run)
        tf.saved_model.save(graphs, str(folder), signatures=graphs.signatures())
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=list(GRAPHS))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.target_spec.supported_types = list(precision.types)
        converter.optimizations = list(precision.optimizations)
        return bytes(converter.convert())


def _check_operators(content: Any) -> None:
    """Raise UserError for custom operators, including Flex operators, because the runtime does not contain them."""
    custom = [code.customCode for code in content.operatorCodes if code.builtinCode == schema.BuiltinOperator.CUSTOM]
    if custom:
        raise UserError(f"TFLite: operators that are not built in: {custom}")


def _attach(content: Any, name: str, data: bytes) -> None:
    """Add a named metadata buffer to a model."""
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(data, np.uint8)
    entry.name, entry.buffer = name, len(content.buffers)
    content.buffers.append(buffer)
    content.metadata = [*(content.metadata or []), entry]


def open_artifact(precision: Precision, folder: Path, threads: int = 1) -> Call:
    """Open the file of one precision in the interpreter of LiteRT.

    Args:
        precision: the precision.
        folder: folder that contains the subfolder ``tflite``.
        threads: number of threads that compute one operator.

    Returns:
        A function that runs a signature, see ``registry.Call``.
    """
    interpreter = Interpreter(model_path=str(folder / precision.path), num_threads=threads)
    runners = {name: interpreter.get_signature_runner(name) for name in GRAPHS}

    def call(graph: str, **inputs: Any) -> Any:
        return {name: np.copy(value) for name, value in runners[graph](**inputs).items()}

    return call


def _exporter(precision: Precision) -> Exporter:
    """Return the exporter of one precision."""
    return Exporter(
        precision.title,
        precision.path,
        functools.partial(write, precision),
        functools.partial(open_artifact, precision),
        precision.max_loss_increase,
    )


EXPORTERS = {name: _exporter(precision) for name, precision in PRECISIONS.items()}
