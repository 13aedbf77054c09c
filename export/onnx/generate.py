"""Generate text with ``model.onnx``; requires numpy and onnxruntime.

python export/onnx/generate.py model.onnx --prompt "Once" --seed 1
"""

import base64
import os
import sys
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read on import; otherwise ONNX Runtime sends usage data
import onnxruntime

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for export/; last, to hide no other module
from export.client import THREADS, main
from export.contract import Floats, Step

sys.path.pop()


def load(path: Path) -> tuple[Step, bytes, bytes]:
    """Open the graph ``step``; return the step, the metadata and the tokenizer from its ``metadata_props``."""
    onnxruntime.set_default_logger_severity(4)  # errors are raised as exceptions too
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    carried = session.get_modelmeta().custom_metadata_map
    if not carried.keys() >= {"keras_lstmgen", "tokenizer"}:
        raise ValueError("it carries no metadata 'keras_lstmgen' and 'tokenizer'")

    def step(token: int, state: Floats) -> tuple[Floats, Floats]:
        feeds = {"ids": np.array([token], np.int32), "state": state[np.newaxis]}
        logits, next_state = session.run(["logits", "next_state"], feeds)
        return logits[0], next_state[0]

    return step, carried["keras_lstmgen"].encode(), base64.b64decode(carried["tokenizer"], validate=True)


if __name__ == "__main__":
    sys.exit(main(load, "an ONNX step graph (model.onnx)"))
