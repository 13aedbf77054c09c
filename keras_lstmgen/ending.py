"""SIGTERM and Ctrl-C end a command, wherever it is."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from keras_lstmgen.errors import Terminated

NUMBERS: dict[Any, int] = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
AGAIN = 0.1  # seconds until a signal comes again


@contextmanager
def heard() -> Iterator[None]:
    """Let SIGTERM raise Terminated in the block, so that what is half written is removed, as after an error.

    Python passes over what is raised in the callback of a weak reference or in ``__del__``, as if the signal had never
    come. From there, SIGTERM and Ctrl-C come again.
    """
    before, hook, waiting = signal.signal(signal.SIGTERM, _terminate), sys.unraisablehook, list[threading.Timer]()

    def passed_over(raised: Any) -> None:
        number = NUMBERS.get(raised.exc_type)
        if number is None:
            hook(raised)
            return
        waiting.append(threading.Timer(AGAIN, os.kill, (os.getpid(), number)))
        waiting[-1].start()

    sys.unraisablehook = passed_over
    try:
        yield
    finally:
        for timer in waiting:
            timer.cancel()
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: Any) -> NoReturn:  # noqa: ARG001
    raise Terminated("stopped by SIGTERM; nothing that was there before is lost")
