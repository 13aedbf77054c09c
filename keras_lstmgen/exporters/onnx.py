"""ONNX: ``model.onnx`` for step, ``generate.onnx``, ``score.onnx``, each complete in itself."""

import base64
import os
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when ONNX Runtime is imported; without it usage data are sent

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
    """Write the three files below a folder; metadata and tokenizer are their ``metadata_props``."""
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
    """One graph, by its name among ``FILES``, as an ONNX model of standard operators alone."""
    converted = _converted(graph)
    _check(converted, name)
    _import_standard_only(converted)
    return converted


def _converted(graph: Any) -> Any:
    """Convert one graph.

    Left to itself, tf2onnx makes seven operators of a choice between two numbers, and compares whole ones as float32.
    """

    def plain(_: Any, node: Any, *__: Any) -> Any:
        node.type = "Where" if node.type == "SelectV2" else node.type
        return node

    handlers: dict[str, Any] = {name: (plain, []) for name in ("SelectV2", "Greater", "Less")}
    proto, _ = tf2onnx.convert.from_function(
        graph, input_signature=graph.input_signature, opset=OPSET, custom_op_handlers=handlers
    )
    for node in proto.graph.node:
        if node.op_type == "Loop":
            _close_over_invariants(node)
    _add_where_scattered(proto)
    return proto


def _add_where_scattered(proto: Any) -> None:
    """Let what is scattered to one place be added up there, as TensorFlow does; tf2onnx lets the last one win."""
    for node in _nodes(proto.graph):
        if node.op_type == "ScatterND" and not any(one.name == "reduction" for one in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("reduction", "add"))


def _close_over_invariants(loop: Any) -> None:
    """Let the body of a loop take from outside what tf2onnx hands from turn to turn unchanged, the weights above all.

    Only then does a runtime see constants in them, which it lays out once as its products want them.
    """
    body = loop.attribute[0].g
    # A loop takes a number of turns, a condition and what it carries; its body is told the turn, the condition and
    # what is carried, and gives the condition and what it carries on.
    carried = list(zip(loop.input[2:], body.input[2:], body.output[1:], strict=True))
    kept = [number for number, (_, inside, out) in enumerate(carried) if inside.name != out.name]
    outside = {inside.name: name for name, inside, out in carried if inside.name == out.name}
    for node in body.node:
        node.input[:] = [outside.get(name, name) for name in node.input]
    results = list(loop.output)
    loop.input[2:] = [carried[number][0] for number in kept]
    loop.output[:] = [results[number] for number in kept]
    _keep(body.input, {body.input[0].name, body.input[1].name, *(carried[number][1].name for number in kept)})
    _keep(body.output, {body.output[0].name, *(carried[number][2].name for number in kept)})


def _keep(values: Any, names: set[str]) -> None:
    for value in [value for value in values if value.name not in names]:
        values.remove(value)


def _check(proto: Any, name: str) -> None:
    """Assert a valid graph of standard operators alone."""
    onnx.checker.check_model(proto, full_check=True)
    strange = sorted({node.domain for node in _nodes(proto.graph)} - {"", "ai.onnx"})
    if strange:
        raise UserError(f"ONNX {FILES[name]}: operators of unknown domains: {', '.join(strange)}")


def _import_standard_only(proto: Any) -> None:
    """Drop the imports of domains that no operator is of; a runtime might lack them."""
    for imported in [imported for imported in proto.opset_import if imported.domain]:
        proto.opset_import.remove(imported)


def _nodes(graph: Any) -> list[Any]:
    """All nodes, those of loop bodies too."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [*graph.node, *(node for body in inner for node in _nodes(body))]


def open_artifact(folder: Path, threads: int = 1) -> Call:
    """Open the three files in ONNX Runtime, on the CPU; ``threads`` work within an operator."""
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
