"""Install the signal handlers with which the command line ends a training early."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras_lstmgen.distribution.stop_votes import StopRequest
from keras_lstmgen.system import signals


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Convert Ctrl-C and SIGTERM to requests that end the training inside the context.

    The first Ctrl-C ends the training after the current batch and a final validation. SIGTERM ends the training after
    the current batch without a validation, because schedulers kill a process that does not end soon after SIGTERM. In
    both cases a checkpoint is saved. A second Ctrl-C, or a signal while no training is running, ends the command at
    once.

    Yields:
        The stop request to pass to ``trainer.train``.
    """
    request = StopRequest()

    def interrupt(number: int, frame: Any) -> None:
        if not request.interrupt():
            signal.default_int_handler(number, frame)

    def terminate(number: int, frame: Any) -> None:
        if not request.terminate():
            signals.handle_sigterm(number, frame)

    with signals.installed({signal.SIGINT: interrupt, signal.SIGTERM: terminate}):
        yield request
