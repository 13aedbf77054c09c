"""Generate text with a SavedModel and without a server; requires numpy, tensorflow and tensorflow-text.

python export/tf_serving/generate.py serving/1 --prompt "Once" --seed 1
"""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2]))  # contains export/; as the last path, it hides no module
from export.client import main, silence
from export.contract import Floats, Step

sys.path.pop()

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with silence():  # TensorFlow logs during its import regardless of the log level
    import tensorflow as tf
    import tensorflow_text  # noqa: F401 (registers operators that the graph contains)


def load(path: Path) -> tuple[Step, bytes, bytes]:
    """Load a SavedModel into a session; return its graph ``step``, and metadata and tokenizer from its assets."""
    tf.get_logger().setLevel("ERROR")
    carried = [(path / "assets" / name).read_bytes() for name in ("keras_lstmgen.json", "tokenizer.model")]
    # The value -1 runs the operators in the thread of the caller. Starting them in another thread would take longer
    # than the step itself.
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with contextlib.chdir(path):  # TensorFlow would interpret brackets and stars in the path as a pattern
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
