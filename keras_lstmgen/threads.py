"""Say how many threads work, to everything that has threads."""

import math
import os

from keras_lstmgen import containers


def available() -> int:
    """Count the cores that this process may use: by its affinity, and by the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, containers.cores())))


def configure() -> None:
    """Tell TensorFlow, before it is imported: one thread a core within an operator, and two operators at once.

    The LSTM's own threads work while TensorFlow's wait, so both may have all cores. A training step hardly ever has
    more than two operators to run at once, the LSTM and the input pipeline; each further thread is one more to wake
    up. Who has set TensorFlow's own variables keeps what was set.
    """
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(available()))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
