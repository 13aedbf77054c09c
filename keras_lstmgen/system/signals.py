"""Signals: the command line alone installs handlers, and only while it runs a command in the main thread."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from keras_lstmgen.utils.errors import Terminated

NUMBERS: dict[Any, int] = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
AGAIN = 0.1  # seconds until a signal comes again
Handler = Callable[[int, Any], Any]
_is_listening = False  # whether ``raise_terminated`` is at work


@contextmanager
def raise_terminated() -> Iterator[None]:
    """Let SIGTERM raise Terminated in the block, so that what is half written is removed, as after an error.

    The command line runs every command in it. Python allows signal handlers in the main thread alone; in any other
    thread the block changes nothing.

    Python passes over what is raised in the callback of a weak reference or in ``__del__``, as if the signal had never
    come. From there, SIGTERM and Ctrl-C come again.
    """
    global _is_listening
    if not _in_main_thread():
        yield
        return
    before, hook, waiting = signal.signal(signal.SIGTERM, handle_sigterm), sys.unraisablehook, list[threading.Timer]()
    listened, _is_listening = _is_listening, True

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
        sys.unraisablehook, _is_listening = hook, listened
        signal.signal(signal.SIGTERM, before)


@contextmanager
def installed(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Install signal handlers for the block if it is part of a command of the command line.

    In a program that uses this package as a library the block changes nothing: its signals are its own.
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
    """Give the handlers of these signals back when the block ends, to undo what a library installs in it."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if _in_main_thread():
            _install(before)


def _install(handlers: Mapping[int, Any]) -> None:
    """Install handlers, but those that Python cannot know because native code installed them."""
    for number, handler in handlers.items():
        if handler is not None:
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def handle_sigterm(number: int, frame: Any) -> NoReturn:  # noqa: ARG001
    """Raise Terminated: the handler of SIGTERM inside ``raise_terminated``."""
    raise Terminated("stopped by SIGTERM; nothing that was there before is lost")
