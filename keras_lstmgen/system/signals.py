"""Handle signals. Only the command line installs handlers, while it runs a command in the main thread."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from keras_lstmgen.utils.errors import Terminated

NUMBERS: dict[Any, int] = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
RETRY = 0.1  # seconds until a lost signal is sent again
Handler = Callable[[int, Any], Any]
_is_listening = False  # whether ``raise_terminated`` is active


@contextmanager
def raise_terminated() -> Iterator[None]:
    """Raise Terminated in the block on SIGTERM, so that incomplete files are removed as after an error.

    The command line runs each command in this context. Python allows signal handlers only in the main thread; in other
    threads the context does nothing.

    Python ignores exceptions in ``__del__`` and in callbacks of weak references, and the signal would be lost. SIGTERM
    and Ctrl-C are then sent again.
    """
    global _is_listening
    if not _in_main_thread():
        yield
        return
    before, hook, waiting = signal.signal(signal.SIGTERM, handle_sigterm), sys.unraisablehook, list[threading.Timer]()
    listened, _is_listening = _is_listening, True

    def send_again(ignored: Any) -> None:
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
    """Install signal handlers for the block if the command line runs it.

    In a program that uses this package as a library, the context does nothing.

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
    """Restore the handlers of these signals when the block ends, after a library has replaced them."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if _in_main_thread():
            _install(before)


def _install(handlers: Mapping[int, Any]) -> None:
    """Install handlers, except those of native code, which Python cannot represent."""
    for number, handler in handlers.items():
        if handler is not None:
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def handle_sigterm(number: int, frame: Any) -> NoReturn:  # noqa: ARG001
    """Raise Terminated: the handler of SIGTERM inside ``raise_terminated``."""
    raise Terminated("stopped by SIGTERM; no earlier result is lost")
