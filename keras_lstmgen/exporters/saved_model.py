"""Export to a SavedModel for TF Serving, with one signature per graph and with signatures for strings."""

from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_text  # noqa: F401 (registers the operators of the tokenizer)
from tensorflow.core.protobuf import saved_model_pb2

from keras_lstmgen.exporters import warmup
from keras_lstmgen.exporters.graphs import Graphs, metadata_json
from keras_lstmgen.exporters.registry import Call, Exporter
from keras_lstmgen.exporters.string_signatures import Strings
from keras_lstmgen.files import atomic
from keras_lstmgen.models import run_directory
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import UserError

PATH = Path("serving/1")
# Operators of tensorflow-text that the graph may contain, because TF Serving has these operators too.
TEXT_OPERATORS = {f"Sentencepiece{name}Op" for name in ("", "Tokenize", "Detokenize", "StringToId")}


def write(run: Run, folder: Path) -> None:
    """Write the SavedModel to the subfolder ``serving/1``; its assets are the metadata and the tokenizer."""
    with atomic.replacing(folder / PATH) as path:
        graphs = Graphs(run, check_inputs=True)
        graphs.strings = Strings(run, graphs)
        assets = path.parent / "assets"
        assets.mkdir()
        atomic.write_text(assets / run_directory.METADATA, metadata_json(run))
        atomic.write_bytes(assets / run_directory.TOKENIZER, run.tokenizer.model)
        graphs.assets = [
            tf.saved_model.Asset(str(assets / name)) for name in (run_directory.METADATA, run_directory.TOKENIZER)
        ]
        tf.saved_model.save(graphs, str(path), signatures=graphs.signatures() | graphs.strings.signatures())
        warmup.write(run, path / warmup.PATH)
        _check_operators(path)


def _check_operators(path: Path) -> None:
    """Raise UserError if the graph contains operators that a server may not have, or that need a GPU."""
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    functions = {function.signature.name for function in graph.library.function}
    known = set(tf.raw_ops.__dict__) | TEXT_OPERATORS
    unknown = {node.op for node in nodes if node.op not in known and node.op not in functions}
    if unknown or any("cudnn" in node.op.lower() for node in nodes):
        names = ", ".join(sorted(unknown)) or "cuDNN"
        raise UserError(f"{path}: contains operators that a server may not support: {names}")


def open_artifact(folder: Path, threads: int = 1) -> Call:
    """Load the SavedModel in the same way as TF Serving: by its tag ``serve``, in a session of its own.

    The session runs the operators one after another in the thread of the caller. This is faster, because most
    operators take less time than the start of an operator in another thread. No operator runs on a GPU.

    Args:
        folder: folder that contains the subfolder ``serving/1``.
        threads: number of threads that compute one operator.

    Returns:
        A function that runs a signature, see ``registry.Call``.
    """
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=-1, device_count={"GPU": 0}
    )
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default(), atomic.plain_path(folder) as plain:
        signatures = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(plain / PATH)).signature_def

    def call(graph: str, **inputs: Any) -> Any:
        signature = signatures[graph]
        feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
        return session.run({name: info.name for name, info in signature.outputs.items()}, feeds)

    return call


EXPORTERS = {"saved_model": Exporter("SavedModel", PATH, write, open_artifact, string_signatures=True)}
