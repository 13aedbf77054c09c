"""Stands in for TF Serving: answers requests from a SavedModel in a process that has neither Keras nor the package.

    python -m tests.model_server VERSION_FOLDER [BATCHING_PARAMETERS_FILE] < requests > answers

A line of input is a JSON list of requests that come at the same time, each ``{"rest": body}`` or ``{"grpc": base64 of
a PredictRequest}``. A line of output is the JSON list of what each client gets: ``{"rest": body}``, ``{"grpc": base64
of a PredictResponse}`` or ``{"error": message, "code": name}``. With a file of batching parameters requests of one
signature are joined as the server joins them; without, each runs alone.

The rules are those of the server's sources, and refuse what they refuse: ``json_tensor.cc`` (``tests/rest_json.py``),
``predict_util.cc`` (a gRPC request may leave out what has a default, and has the very types of the signature),
``batching_session.cc`` and ``shared_batch_scheduler.h`` (what may be joined).
"""

import base64
import importlib.metadata
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple, TextIO

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if __name__ == "__main__":  # before anything is imported: whoever wants these fails
    sys.modules |= dict.fromkeys(("keras", "keras_lstmgen"))  # type: ignore[arg-type]
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tests import rest_json
from tests.rest_json import Columns

MODEL = "lstm"  # what models.config calls it
# Of BatchingParameters in session_bundle_config.proto. What would split or pad requests is not imitated here.
KNOWN = {"max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"}


class RefusedError(Exception):
    """A request that the server does not answer: the name of a code of gRPC, and why."""

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT") -> None:
        """Most are the client's fault."""
        super().__init__(message)
        self.code = code


class Request(NamedTuple):
    """What a client asks."""

    signature: str
    inputs: Columns
    form: str  # instances, inputs or grpc: what the answer looks like

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


class Server:
    """A version folder, loaded with the tag ``serve`` into a session."""

    def __init__(self, folder: str, batching: dict[str, int] | None) -> None:
        """Load the operators of tensorflow-text, as the server is linked with them, and the model."""
        for file in importlib.metadata.files("tensorflow-text") or []:
            if file.suffix == ".so" and file.parent.name == "ops":
                tf.load_op_library(str(file.locate()))
        self.session, self.batching = tf.compat.v1.Session(graph=tf.Graph()), batching
        with self.session.graph.as_default():
            loaded = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], folder)
        self.signatures = loaded.signature_def

    def read(self, sent: dict[str, Any]) -> Request:
        """What a client sent, as arrays."""
        return self._of_grpc(sent["grpc"]) if "grpc" in sent else self._of_rest(sent["rest"])

    def _of_rest(self, body: Any) -> Request:
        if not isinstance(body, dict):
            raise RefusedError("JSON Value is not an object")
        name = body.get("signature_name", "serving_default")
        wanted = {key: tf.as_dtype(info.dtype) for key, info in self._signature(name).inputs.items()}
        try:
            return Request(name, *rest_json.read(body, {key: kind.as_numpy_dtype for key, kind in wanted.items()}))
        except ValueError as error:
            raise RefusedError(str(error)) from error

    def _of_grpc(self, message: str) -> Request:
        sent = predict_pb2.PredictRequest.FromString(base64.b64decode(message))
        if sent.model_spec.name != MODEL:
            raise RefusedError(f"Servable not found for request: Latest({sent.model_spec.name})", "NOT_FOUND")
        name = sent.model_spec.signature_name or "serving_default"
        signature = self._signature(name)
        missing, more = signature.inputs.keys() - sent.inputs.keys(), sent.inputs.keys() - signature.inputs.keys()
        if more or missing - signature.defaults.keys():
            raise RefusedError(f"input size does not match signature: sent extra {more}, missing {missing}")
        tensors = dict(sent.inputs) | {key: signature.defaults[key] for key in missing}
        for i, (key, info) in enumerate(sorted(signature.inputs.items())):
            kind, wanted = (tf.as_dtype(dtype).name for dtype in (tensors[key].dtype, info.dtype))
            if kind != wanted:
                raise RefusedError(f"Expects arg[{i}] to be {wanted} but {kind} is provided: {key}")
        return Request(name, {key: tf.make_ndarray(tensor) for key, tensor in tensors.items()}, "grpc")

    def _signature(self, name: str) -> Any:
        if name not in self.signatures:
            raise RefusedError(f'Serving signature key "{name}" not found.', "FAILED_PRECONDITION")
        return self.signatures[name]

    def run(self, name: str, inputs: Columns) -> Columns:
        """Feed and fetch by the names of the signature."""
        signature = self.signatures[name]
        feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
        try:
            outputs: Columns = self.session.run({key: info.name for key, info in signature.outputs.items()}, feeds)
        except (ValueError, tf.errors.OpError) as error:
            raise RefusedError(str(getattr(error, "message", error))) from error
        return outputs

    def check(self, request: Request) -> None:
        """What may be batched at all, alone too."""
        if self.batching is None:
            return
        if any(value.ndim == 0 for value in request.inputs.values()):
            raise RefusedError("Batching Run() input tensors must have at least one dimension")
        if len({len(value) for value in request.inputs.values()}) > 1:
            raise RefusedError("Batching Run() input tensors must have equal 0th-dimension size")
        if request.rows > self.batching["max_batch_size"]:
            most = self.batching["max_batch_size"]
            raise RefusedError(f"Task size {request.rows} is larger than maximum input batch size {most}")

    def batches(self, requests: list[tuple[int, Request]]) -> list[list[tuple[int, Request]]]:
        """Requests with their numbers, those of one batch together: of one signature, as many rows as it takes."""
        joined: list[list[tuple[int, Request]]] = []
        for number, request in requests:
            fits = [batch for batch in joined if self.fits(request, [other for _, other in batch])]
            if fits:
                fits[0].append((number, request))
            else:
                joined.append([(number, request)])
        return joined

    def fits(self, request: Request, others: list[Request]) -> bool:
        """Whether a request may join a batch."""
        if self.batching is None or request.signature != others[0].signature:
            return False
        return request.rows + sum(other.rows for other in others) <= self.batching["max_batch_size"]

    def joined(self, requests: list[Request]) -> list[Columns]:
        """The answers of a batch: its inputs joined along their first dimension, its outputs cut up again."""
        if self.batching is None:
            return [self.run(request.signature, request.inputs) for request in requests]
        columns = {key: [request.inputs[key] for request in requests] for key in requests[0].inputs}
        for key, column in columns.items():
            if len({part.shape[1:] for part in column}) > 1:
                why = "from different tasks have different shapes and padding is turned off"
                raise RefusedError(f"Tensors with name '{key}' {why}", "FAILED_PRECONDITION")
        outputs = self.run(requests[0].signature, {key: np.concatenate(column) for key, column in columns.items()})
        ends = np.cumsum([request.rows for request in requests])
        if any(column.ndim == 0 or len(column) != ends[-1] for column in outputs.values()):
            raise RefusedError("Batched output tensor's 0th dimension does not equal the sum", "FAILED_PRECONDITION")
        parts = {key: np.split(column, ends[:-1]) for key, column in outputs.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(len(requests))]

    def answer(self, sent: list[dict[str, Any]]) -> list[Any]:
        """What each client gets whose requests come at the same time; an error in a batch is that of all in it."""
        answers, read = list[Any]([None] * len(sent)), list[tuple[int, Request]]()
        for number, one in enumerate(sent):
            try:
                request = self.read(one)
                self.check(request)
                read.append((number, request))
            except RefusedError as error:
                answers[number] = {"error": str(error), "code": error.code}
        for batch in self.batches(read):
            try:
                outputs = self.joined([request for _, request in batch])
                told = [_told(request, columns) for (_, request), columns in zip(batch, outputs, strict=True)]
            except RefusedError as error:
                told = [{"error": str(error), "code": error.code}] * len(batch)
            for (number, _), answer in zip(batch, told, strict=True):
                answers[number] = answer
        return answers


def _told(request: Request, outputs: Columns) -> Any:
    """The answer as its client reads it."""
    if request.form != "grpc":
        return {"rest": rest_json.told(outputs, request.form)}
    response = predict_pb2.PredictResponse()
    for key, column in outputs.items():
        response.outputs[key].CopyFrom(tf.make_tensor_proto(column))
    return {"grpc": base64.b64encode(response.SerializeToString()).decode()}


def parameters(text: str) -> dict[str, int]:
    """A file of batching parameters; those that would change what is asked here are not known to this stand-in."""
    found = {name: int(value) for name, value in re.findall(r"^(\w+) \{ value: (\d+) \}", text, re.MULTILINE)}
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert found.keys() <= KNOWN, found
    assert len(found) == len(lines), lines
    return found


def main(requests: TextIO, answers: TextIO) -> None:
    """Answer line by line; the first line says which signatures there are."""
    folder, *batching = sys.argv[1:]
    server = Server(folder, parameters(Path(batching[0]).read_text()) if batching else None)
    print(json.dumps(sorted(server.signatures)), file=answers, flush=True)
    for line in requests:
        print(json.dumps(server.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
