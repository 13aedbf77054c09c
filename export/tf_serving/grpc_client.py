"""Request text from TF Serving by gRPC; requires tensorflow-serving-api.

python export/tf_serving/grpc_client.py --prompt "Once" --seed 1
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))  # contains export/; as the last path, it hides no module
from export.client import silence
from export.tf_serving.request import NAME, Answers, Inputs, main

sys.path.pop()

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with silence():  # TensorFlow logs during its import regardless of the log level
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

# Types of the inputs of all signatures, see docs/contract.md. The server does not convert types.
KINDS = {
    "prompt": tf.string, "text": tf.string, "seed": tf.int64, "max_new_tokens": tf.int32,
    "repetition_penalty": tf.float32, "temperature": tf.float32, "top_k": tf.int32, "top_p": tf.float32,
    "min_p": tf.float32, "ids": tf.int32, "state": tf.float32, "noise": tf.float32,
}  # fmt: skip
TIMEOUT = 60.0  # seconds


def message(inputs: Mapping[str, Any], signature: str = "serving_default") -> Any:
    """Build a request for one or more texts.

    A server with batching requires that all inputs have the same number of rows. The default value of an input has only
    one row, so a request with several prompts must contain all inputs.

    Args:
        inputs: values of the inputs by name, with one entry per text.
        signature: name of the signature.

    Returns:
        A ``PredictRequest``.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = NAME, signature
    for name, column in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(column, KINDS[name]))
    return request


def call(server: str, request: Any) -> dict[str, Any]:
    """Send a request to a server and return the outputs by name.

    Args:
        server: address of the server, such as ``localhost:8500``.
        request: a ``PredictRequest``.

    Raises:
        ValueError: with the error message of the server.
    """
    with grpc.insecure_channel(server) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            answer = stub.Predict(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            raise ValueError(error.details()) from error
    return {name: entries(tf.make_ndarray(tensor)) for name, tensor in answer.outputs.items()}


def ask(server: str, inputs: Inputs) -> Answers:
    """Request texts from a server with the signature ``serving_default``."""
    return call(server, message(inputs))


def entries(column: Any) -> list[Any]:
    """Convert an array to nested lists; convert bytes in a one-dimensional array to strings."""
    return [entry.decode() if isinstance(entry, bytes) else entry for entry in column.tolist()]


if __name__ == "__main__":
    sys.exit(main(ask, "gRPC", "localhost:8500"))
