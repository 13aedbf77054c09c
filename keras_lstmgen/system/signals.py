"""Install and restore signal handlers. Handlers are installed only while the command line runs a command."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from keras_lstmgen.utils.errors import Terminated

NUMBERS: dict[Any, int] = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}  # signal of each exception
RETRY = 0.1  # seconds until ``raise_terminated`` sends a lost signal again
Handler = Callable[[int, Any], Any]
_is_listening = False  # whether ``raise_terminated`` is active


@contextmanager
def raise_terminated() -> Iterator[None]:
    """Raise Terminated inside the context when SIGTERM arrives.

    Because Terminated is an exception, incomplete files are removed as after an error. The command line runs each
    command in this context. Python allows signal handlers only in the main thread. In other threads, the context
    does nothing.

    Python ignores an exception that a handler raises during ``__del__`` or during a callback of a weak reference. In
    this case, the context sends the signal, SIGTERM or SIGINT, again after ``RETRY`` seconds.
    """
    global _is_listening
    if not _in_main_thread():
        yield
        return
    before, hook, waiting = signal.signal(signal.SIGTERM, handle_sigterm), sys.unraisablehook, list[threading.Timer]()
    listened, _is_listening = _is_listening, True

    def send_again(ignored: Any) -> None:
        """Send the signal of an ignored exception again; pass other ignored exceptions to the previous hook."""
        number = NUMBERS.get(ignored.exc_type)
        if number is None:
            hook(ignored)
            return
        waiting.append(threading.Timer(RETRY, os.kill, (os.getpid(), number)))
        waiting[-1].start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        for timer in waiting:
            timer.cancel()
        sys.unraisablehook, _is_listening = hook, listened
        signal.signal(signal.SIGTERM, before)


@contextmanager
def installed(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Install signal handlers inside the context if the command line is running.

    In a program that uses this package as a library, and in threads other than the main thread, the context does
    nothing.

    Args:
        handlers: handler functions by signal number.
    """
    if not (_is_listening and _in_main_thread()):
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        _install(before)


@contextmanager
def restored(*numbers: int) -> Iterator[None]:
    """Restore the handlers of the given signals when the block ends, because a library may replace the handlers."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if _in_main_thread():
            _install(before)


def _install(handlers: Mapping[int, Any]) -> None:
    """Install handlers by signal number. None stands for a handler of native code and is skipped."""
    for number, handler in handlers.items():
        if handler is not None:
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    """Return whether this code runs in the main thread."""
    return threading.current_thread() is threading.main_thread()


def handle_sigterm(number: int, frame: Any) -> NoReturn:  # noqa: ARG001
    """Handle SIGTERM inside ``raise_terminated``: raise Terminated."""
    raise Terminated("stopped by SIGTERM; no earlier result is lost")
