"""Generate text with ``model.onnx``; requires numpy and onnxruntime.

python export/onnx/generate.py model.onnx --prompt "Once" --seed 1
"""

import base64
import os
import sys
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # set before the import; otherwise ONNX Runtime sends usage data
import onnxruntime

sys.path.append(str(Path(__file__).resolve().parents[2]))  # contains export/; as the last path, it hides no module
from export.client import THREADS, main
from export.contract import Floats, Step

sys.path.pop()


def load(path: Path) -> tuple[Step, bytes, bytes]:
    """Open ``model.onnx``; return its graph ``step``, and metadata and tokenizer from its ``metadata_props``."""
    onnxruntime.set_default_logger_severity(4)  # no logs of errors, which are raised as exceptions too
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    carried = session.get_modelmeta().custom_metadata_map
    if not carried.keys() >= {"keras_lstmgen", "tokenizer"}:
        raise ValueError("it does not contain the metadata 'keras_lstmgen' and 'tokenizer'")

    def step(token: int, state: Floats) -> tuple[Floats, Floats]:
        feeds = {"ids": np.array([token], np.int32), "state": state[np.newaxis]}
        logits, next_state = session.run(["logits", "next_state"], feeds)
        return logits[0], next_state[0]

    return step, carried["keras_lstmgen"].encode(), base64.b64decode(carried["tokenizer"], validate=True)


if __name__ == "__main__":
    sys.exit(main(load, "an ONNX step graph (model.onnx)"))
