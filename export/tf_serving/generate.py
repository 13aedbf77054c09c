"""Generate text with a SavedModel, loaded like in TensorFlow Serving; requires numpy, tensorflow, tensorflow-text.

python export/tf_serving/generate.py serving/1 --prompt "Once" --seed 1
"""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for export/; last, to hide no other module
from export.client import main, silence
from export.contract import Floats, Step

sys.path.pop()

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with silence():  # TensorFlow logs during its import regardless of the log level
    import tensorflow as tf
    import tensorflow_text  # noqa: F401 (its operators are in the graph)


def load(path: Path) -> tuple[Step, bytes, bytes]:
    """Load the version folder into a session; return the step, the metadata and the tokenizer from its assets."""
    tf.get_logger().setLevel("ERROR")
    carried = [(path / "assets" / name).read_bytes() for name in ("keras_lstmgen.json", "tokenizer.model")]
    # Run in the thread of the caller: passing the step of one text to another thread takes longer than the step.
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with contextlib.chdir(path):  # TensorFlow treats brackets and stars in a path as a pattern
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], ".")
    if "step" not in meta_graph.signature_def:
        raise ValueError("it has no signature 'step'")
    signature = meta_graph.signature_def["step"]
    run = session.make_callable(
        [signature.outputs[name].name for name in ("logits", "next_state")],
        feed_list=[signature.inputs[name].name for name in ("ids", "state")],
    )

    def step(token: int, state: Floats) -> tuple[Floats, Floats]:
        logits, next_state = run(np.array([token], np.int32), state[np.newaxis])
        return logits[0], next_state[0]

    return step, carried[0], carried[1]


if __name__ == "__main__":
    sys.exit(main(load, "the version folder of a SavedModel (serving/1)"))
