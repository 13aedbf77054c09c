"""Say how many threads work, to everything that has threads."""

import math
import os
import re

from keras_lstmgen.system import containers
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError


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
    _set("TF_NUM_INTRAOP_THREADS", available())
    _set("TF_NUM_INTEROP_THREADS", 2)


def _set(variable: str, threads: int) -> None:
    """Set a variable of TensorFlow that is not set; UserError for a value that would make TensorFlow abort."""
    given = os.environ.get(variable)
    if not given:
        os.environ[variable] = str(threads)
    elif not re.fullmatch("[0-9]{1,4}", given):
        raise UserError(
            f"{variable}: '{numerals.shortened(given)}' is no number of threads; give 1 to 9999, or unset it"
        )
