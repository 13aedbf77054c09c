"""How many threads work, said to everything that has threads, in one place."""

import os


def available() -> int:
    """Cores that this process may use: fewer than the machine has where it was pinned to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def configure() -> None:
    """Tell TensorFlow, before it is imported: one thread a core within an operator, and two operators at once.

    The LSTM's own threads work while TensorFlow's wait, so both may have all cores. A training step hardly ever has
    more than two operators to run at once, the LSTM and the input pipeline; each further thread is one more to wake
    up. Who has set TensorFlow's own variables keeps what was set.
    """
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(available()))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
