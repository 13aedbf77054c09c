"""Export to ONNX: one file per graph, ``model.onnx`` (the graph ``step``), ``generate.onnx`` and ``score.onnx``."""

import base64
import os
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # set before the import; otherwise ONNX Runtime sends usage data

import onnx
import onnxruntime
import tf2onnx

from keras_lstmgen.exporters.graphs import Graphs, metadata_json
from keras_lstmgen.exporters.registry import Call, Exporter
from keras_lstmgen.files import atomic
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError

PATH = Path("onnx")
FILES = {"step": "model.onnx", "generate": "generate.onnx", "score": "score.onnx"}
OPSET = 18


def write(run: Run, folder: Path) -> None:
    """Write the three files to the subfolder ``onnx`` of a folder.

    Each file contains the metadata and the tokenizer as ``metadata_props``.
    """
    properties = {
        "keras_lstmgen": metadata_json(run),
        "tokenizer": base64.b64encode(run.tokenizer.model).decode("ascii"),
    }
    graphs = Graphs(run)
    with atomic.replacing(folder / PATH) as path:
        path.mkdir()
        for name, graph in graphs.signatures().items():
            proto = model_of(graph, name)
            onnx.helper.set_model_props(proto, properties)
            atomic.write_bytes(path / FILES[name], proto.SerializeToString())


def model_of(graph: Any, name: str) -> Any:
    """Convert a graph to an ONNX model with standard operators only.

    Args:
        graph: a ``tf.function`` with an input signature.
        name: name of the graph, a key of ``FILES``.

    Returns:
        The ``onnx.ModelProto``.

    Raises:
        UserError: if the converted model contains operators that are not part of the ONNX standard.
    """
    converted = _converted(graph)
    _check_operators(converted, name)
    _remove_other_imports(converted)
    return converted


def _converted(graph: Any) -> Any:
    """Convert one graph with tf2onnx.

    By default, tf2onnx replaces each ``SelectV2`` by seven operators, and casts integers to float32 before a
    comparison. The custom handlers convert each of these operators to a single ONNX operator instead.
    """

    def keep(_: Any, node: Any, *__: Any) -> Any:
        node.type = "Where" if node.type == "SelectV2" else node.type
        return node

    handlers: dict[str, Any] = {name: (keep, []) for name in ("SelectV2", "Greater", "Less")}
    proto, _ = tf2onnx.convert.from_function(
        graph, input_signature=graph.input_signature, opset=OPSET, custom_op_handlers=handlers
    )
    for node in proto.graph.node:
        if node.op_type == "Loop":
            _capture_invariants(node)
    _sum_in_scatters(proto)
    return proto


def _sum_in_scatters(proto: Any) -> None:
    """Set each ScatterND operator to add up values with the same index.

    TensorFlow adds up these values. ONNX keeps only the last of the values if the attribute ``reduction`` is missing.
    """
    for node in _nodes(proto.graph):
        if node.op_type == "ScatterND" and not any(attribute.name == "reduction" for attribute in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("reduction", "add"))


def _capture_invariants(loop: Any) -> None:
    """Change a loop so that its body uses constant values, such as weights, directly from outside the loop.

    In the output of tf2onnx, the loop passes these values from iteration to iteration. A runtime then cannot know that
    the weights are constant, and cannot optimize the memory layout of the weights before the loop.
    """
    body = loop.attribute[0].g
    # The inputs of a loop are the number of iterations, the condition and the carried values. The inputs of its body
    # are the number of the iteration, the condition and the carried values. The outputs of its body are the condition
    # and the carried values.
    carried = list(zip(loop.input[2:], body.input[2:], body.output[1:], strict=True))
    changing = [number for number, (_, inside, out) in enumerate(carried) if inside.name != out.name]
    outside = {inside.name: name for name, inside, out in carried if inside.name == out.name}
    for node in body.node:
        node.input[:] = [outside.get(name, name) for name in node.input]
    results = list(loop.output)
    loop.input[2:] = [carried[number][0] for number in changing]
    loop.output[:] = [results[number] for number in changing]
    _keep(body.input, {body.input[0].name, body.input[1].name, *(carried[number][1].name for number in changing)})
    _keep(body.output, {body.output[0].name, *(carried[number][2].name for number in changing)})


def _keep(values: Any, names: set[str]) -> None:
    """Remove all values whose names are not in ``names``."""
    for value in [value for value in values if value.name not in names]:
        values.remove(value)


def _check_operators(proto: Any, name: str) -> None:
    """Raise an exception of ``onnx`` for an invalid model, and UserError for operators outside the ONNX standard."""
    onnx.checker.check_model(proto, full_check=True)
    unknown = sorted({node.domain for node in _nodes(proto.graph)} - {"", "ai.onnx"})
    if unknown:
        raise UserError(f"ONNX {FILES[name]}: operators of unknown domains: {', '.join(unknown)}")


def _remove_other_imports(proto: Any) -> None:
    """Remove the imports of unused operator domains, because a runtime may not support them."""
    for imported in [imported for imported in proto.opset_import if imported.domain]:
        proto.opset_import.remove(imported)


def _nodes(graph: Any) -> list[Any]:
    """Return all nodes of a graph, including the nodes of loop bodies."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [*graph.node, *(node for body in inner for node in _nodes(body))]


def open_artifact(folder: Path, threads: int = 1) -> Call:
    """Open the three files in ONNX Runtime on the CPU.

    Args:
        folder: folder that contains the subfolder ``onnx``.
        threads: number of threads that compute one operator.

    Returns:
        A function that runs a graph, see ``registry.Call``.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    sessions = {
        name: onnxruntime.InferenceSession(folder / PATH / file, options, providers=["CPUExecutionProvider"])
        for name, file in FILES.items()
    }

    def call(graph: str, **inputs: Any) -> Any:
        names = [output.name for output in sessions[graph].get_outputs()]
        return dict(zip(names, sessions[graph].run(names, inputs), strict=True))

    return call


EXPORTERS = {"onnx": Exporter("ONNX", PATH, write, open_artifact)}
