"""Write warm-up requests for TF Serving, so that the first user request is not slow.

TF Serving runs these requests when it loads a model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from keras_lstmgen.generation import sampling
from keras_lstmgen.models.run_directory import Run

PATH = Path("assets.extra/tf_serving_warmup_requests")
NAME = "lstm"  # name of the model in export/tf_serving/models.config
ROWS = (1, 16)  # batch sizes
# Typical prompts: words, an empty prompt, sentences and another script. Every vocabulary can encode them.
PROMPTS = ("The old man", "", "It was late in the evening, and the rain had not stopped.\nShe", "床前明月光，")
TOKENS = 8  # tokens per generated text
Request = tuple[str, dict[str, Any]]  # signature name and inputs


def write(run: Run, path: Path) -> None:
    """Write the requests to a TFRecord file of ``PredictionLog`` messages."""
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as records:
        for signature, inputs in requests(run):
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=_message(signature, inputs))
            )
            records.write(log.SerializeToString(deterministic=True))


def requests(run: Run) -> Iterator[Request]:
    """Iterate over requests for every signature, with one prompt and with a batch of prompts of different lengths."""
    for B in ROWS:
        prompts = np.resize(np.array([prompt.encode() for prompt in PROMPTS], object), B)
        rows = sampling.rows([sampling.Options()] * B)._asdict()
        mixed = rows | {"top_k": np.full(B, 5, np.int32), "top_p": np.full(B, 0.9, np.float32)}
        limits = {"max_new_tokens": np.full(B, TOKENS, np.int32), "seed": np.arange(B)}
        yield from (("serving_default", {"prompt": prompts, **limits, **options}) for options in (rows, mixed))
        yield from ((name, {"text": prompts}) for name in ("score_text", "tokenize"))
        ids, state = (
            np.full((B, 2), run.metadata.start_id, np.int32),
            np.zeros((B, run.metadata.state_size), np.float32),
        )
        yield "detokenize", {"ids": ids}
        yield "step", {"ids": ids[:, 0], "state": state}
        yield "score", {"ids": ids, "state": state}
        yield "generate", {"ids": ids, "state": state, "noise": sampling.noise([0] * B, TOKENS), **rows}
    yield "complete", {"prompt": prompts[:1]}


def _message(signature: str, inputs: dict[str, Any]) -> Any:
    """Return a ``PredictRequest`` for a signature with the given inputs."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = NAME, signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request
