"""Report messages and progress to the program that uses the library.

Library code calls ``message``, ``status`` and ``progress``. These functions call the methods of the current
``Reporter``. By default, all reports are discarded. The command line installs a reporter that shows all reports on the
terminal.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar


def _discard(_: object) -> None:
    """Accept an update and do nothing."""


class Reporter:
    """Receives messages and progress reports. This base class discards all reports; a subclass can show them."""

    def message(self, text: str) -> None:
        """Receive a message, such as a default value that the library has selected.

        Args:
            text: one line of plain text.
        """

    def status(self, text: str) -> AbstractContextManager[Callable[[str], None]]:  # noqa: ARG002
        """Return a context for a task whose duration is unknown.

        Args:
            text: description of the task.

        Returns:
            A context manager that yields a function. The library calls this function with a new text to replace
            ``text``.
        """
        return nullcontext(_discard)

    def progress(self, text: str, total: int) -> AbstractContextManager[Callable[[int], None]]:  # noqa: ARG002
        """Return a context for a task that consists of a known number of units.

        Args:
            text: description of the task.
            total: number of units, such as batches or bytes.

        Returns:
            A context manager that yields a function. The library calls this function with the number of units that were
            completed since the previous call.
        """
        return nullcontext(_discard)


_current: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def use(reporter: Reporter) -> Iterator[None]:
    """Make ``reporter`` the current reporter of this thread inside the context."""
    token = _current.set(reporter)
    try:
        yield
    finally:
        _current.reset(token)


def message(text: str) -> None:
    """Send a message to the current reporter.

    Args:
        text: one line of plain text.
    """
    _reporter().message(text)


def status(text: str) -> AbstractContextManager[Callable[[str], None]]:
    """Report to the current reporter that a task of unknown duration begins. See ``Reporter.status``."""
    return _reporter().status(text)


def progress(text: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Report to the current reporter that a task with ``total`` units begins. See ``Reporter.progress``."""
    return _reporter().progress(text, total)


def _reporter() -> Reporter:
    """Return the current reporter, or one that discards all reports."""
    return _current.get() or Reporter()
