"""Count the available CPU cores, and set the number of threads of TensorFlow."""

import math
import os
import re

from keras_lstmgen.system import containers
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError


def available() -> int:
    """Return the number of cores that this process may use.

    The CPU affinity of the process and the CPU quota of its container limit this number.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, containers.cores())))


def configure() -> None:
    """Set the environment variables for the number of threads of TensorFlow.

    Each operator uses one thread per core, and two operators may run at the same time. Call this function before
    TensorFlow is imported. Variables that the user has set are not changed.

    TensorFlow's operators and the native LSTM operator may each use all cores, because they do not run at the same
    time. A training step seldom runs more than two operators at once: the LSTM and the input pipeline. More threads
    would make the step slower.

    Raises:
        UserError: a variable that the user has set is not a number of threads.
    """
    _set("TF_NUM_INTRAOP_THREADS", available())
    _set("TF_NUM_INTEROP_THREADS", 2)


def _set(variable: str, threads: int) -> None:
    """Set an environment variable if it is not set; raise UserError if TensorFlow would abort with its value."""
    given = os.environ.get(variable)
    if not given:
        os.environ[variable] = str(threads)
    elif not re.fullmatch("[0-9]{1,4}", given):
        raise UserError(
            f"{variable}: '{numerals.shortened(given)}' is not a number of threads; give 1 to 9999, or unset it"
        )
