"""Count the available cores, and set the number of TensorFlow's threads."""

import math
import os
import re

from keras_lstmgen.system import containers
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError


def available() -> int:
    """Return the number of cores that the affinity of this process and the CPU quota of its container allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, containers.cores())))


def configure() -> None:
    """Set TensorFlow's environment variables: one thread for each core within an operator, and two operators at once.

    Call this function before TensorFlow is imported. Variables that the user has set are kept. TensorFlow and the
    native LSTM operator use all cores, because they do not work at the same time. A training step seldom has more than
    two operators to run at once, the LSTM and the input pipeline, and further threads would only cost time.

    Raises:
        UserError: a variable that the user has set is not a number of threads.
    """
    _set("TF_NUM_INTRAOP_THREADS", available())
    _set("TF_NUM_INTEROP_THREADS", 2)


def _set(variable: str, threads: int) -> None:
    """Set a variable that is not set; raise UserError for a value with which TensorFlow would abort."""
    given = os.environ.get(variable)
    if not given:
        os.environ[variable] = str(threads)
    elif not re.fullmatch("[0-9]{1,4}", given):
        raise UserError(
            f"{variable}: '{numerals.shortened(given)}' is no number of threads; give 1 to 9999, or unset it"
        )
