"""Stands in for TF Serving: answers requests from a SavedModel in a process that has neither Keras nor the package.

    python tests/model_server.py VERSION_FOLDER < requests > answers

A line of input is a JSON list of requests, each ``{"rest": body}`` or ``{"grpc": base64 of a PredictRequest}``; the
requests of a line are batched. A line of output is the JSON list of what each client gets: columns, or an error.

The rules are those of the server's sources: ``json_tensor.cc`` (a REST request has every input of its signature, in
rows or in columns), ``predict_util.cc`` (a gRPC request may leave out what has a default), batching (all inputs of the
requests of a batch are joined along their first dimension).
"""

import base64
import importlib.metadata
import json
import os
import sys
from typing import Any, TextIO

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.modules |= dict.fromkeys(("keras", "keras_lstmgen"))  # type: ignore[arg-type]  # whoever imports them fails
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

Columns = dict[str, Any]
Request = tuple[str, Columns]


class Server:
    """A version folder, loaded with the tag ``serve`` into a session."""

    def __init__(self, folder: str) -> None:
        """Load the operators of tensorflow-text, as the server is linked with them, and the model."""
        for file in importlib.metadata.files("tensorflow-text") or []:
            if file.suffix == ".so" and file.parent.name == "ops":
                tf.load_op_library(str(file.locate()))
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            loaded = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], folder)
        self.signatures = loaded.signature_def

    def read(self, request: dict[str, Any]) -> Request:
        """What a client sent, as arrays."""
        return self._of_grpc(request["grpc"]) if "grpc" in request else self._of_rest(request["rest"])

    def _of_rest(self, body: dict[str, Any]) -> Request:
        name = body.get("signature_name", "serving_default")
        wanted = self.signatures[name].inputs
        if "inputs" in body:
            columns = body["inputs"] if isinstance(body["inputs"], dict) else dict.fromkeys(wanted, body["inputs"])
        else:
            rows = [row if isinstance(row, dict) else dict.fromkeys(wanted, row) for row in body["instances"]]
            columns = {key: [row[key] for row in rows] for key in rows[0]}
        if columns.keys() != wanted.keys():
            raise ValueError(f"Missing named input: {sorted(wanted.keys() ^ columns.keys())}")
        return name, {key: _array(columns[key], wanted[key].dtype) for key in wanted}

    def _of_grpc(self, message: str) -> Request:
        request = predict_pb2.PredictRequest.FromString(base64.b64decode(message))
        name = request.model_spec.signature_name or "serving_default"
        given = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
        defaults = self.signatures[name].defaults
        missing = self.signatures[name].inputs.keys() - given.keys()
        return name, given | {key: tf.make_ndarray(defaults[key]) for key in missing}

    def run(self, name: str, inputs: Columns) -> Columns:
        """Feed and fetch by the names of the signature."""
        signature = self.signatures[name]
        feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
        outputs: Columns = self.session.run({key: info.name for key, info in signature.outputs.items()}, feeds)
        return outputs

    def answer(self, requests: list[dict[str, Any]]) -> list[Columns]:
        """Answer the requests of a batch, which are of one signature."""
        read = [self.read(request) for request in requests]
        (name,) = {name for name, _ in read}
        if len(read) == 1:
            return [_told(self.run(name, read[0][1]))]
        joined = {key: np.concatenate([inputs[key] for _, inputs in read]) for key in read[0][1]}
        ends = np.cumsum([len(next(iter(inputs.values()))) for _, inputs in read])[:-1]
        parts = {key: np.split(column, ends) for key, column in self.run(name, joined).items()}
        return [_told({key: part[i] for key, part in parts.items()}) for i in range(len(read))]


def _array(value: Any, kind: int) -> Any:
    dtype = tf.as_dtype(kind)
    if dtype != tf.string:
        return np.array(value, dtype.as_numpy_dtype)
    return np.vectorize(lambda text: text.encode(), otypes=[object])(np.array(value, object))


def _told(outputs: Columns) -> Columns:
    """Columns as JSON, whose strings have to be UTF-8."""

    def told(column: Any) -> Any:
        return [text.decode() for text in column] if column.dtype == object else column.tolist()

    return {key: told(column) for key, column in outputs.items()}


def _answered(server: Server, requests: list[dict[str, Any]]) -> Any:
    try:
        return server.answer(requests)
    except (ValueError, tf.errors.OpError) as error:
        return {"error": str(error)}


def main(requests: TextIO, answers: TextIO) -> None:
    """Answer line by line; the first line says which signatures there are."""
    server = Server(sys.argv[1])
    print(json.dumps(sorted(server.signatures)), file=answers, flush=True)
    for line in requests:
        print(json.dumps(_answered(server, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
