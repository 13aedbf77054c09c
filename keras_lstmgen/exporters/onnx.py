"""ONNX: ``model.onnx`` for step, ``generate.onnx``, ``score.onnx``, each complete in itself."""

import base64
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import tf2onnx

from keras_lstmgen import files
from keras_lstmgen.errors import UserError
from keras_lstmgen.exporters import contract
from keras_lstmgen.exporters.contract import Call, Graphs
from keras_lstmgen.run import Run

PLACE = Path("onnx")
FILES = {"step": "model.onnx", "generate": "generate.onnx", "score": "score.onnx"}
OPSET = 18


def write(model: Run, folder: Path) -> Path:
    """Write the three files into a run's folder; metadata and tokenizer are their ``metadata_props``."""
    carried = {
        "keras_lstmgen": contract.metadata_json(model),
        "tokenizer": base64.b64encode(model.tokenizer.model).decode("ascii"),
    }
    graphs = Graphs(model, B=None)
    with files.replacing(folder / PLACE) as path:
        path.mkdir()
        for name, graph in graphs.signatures().items():
            proto, _ = tf2onnx.convert.from_function(graph, input_signature=graph.input_signature, opset=OPSET)
            _check(proto, name)
            _import_standard_only(proto)
            onnx.helper.set_model_props(proto, carried)
            files.write_bytes(path / FILES[name], proto.SerializeToString())
    return folder / PLACE


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


def open_artifact(folder: Path) -> Call:
    """Open the three files in ONNX Runtime, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a step is too small to be shared between threads
    sessions = {
        name: onnxruntime.InferenceSession(folder / PLACE / file, options, providers=["CPUExecutionProvider"])
        for name, file in FILES.items()
    }

    def call(graph: str, **inputs: Any) -> Any:
        names = [output.name for output in sessions[graph].get_outputs()]
        return dict(zip(names, sessions[graph].run(names, inputs), strict=True))

    return call


def size(folder: Path) -> int:
    """Bytes on disk."""
    return sum((folder / PLACE / file).stat().st_size for file in FILES.values())
