"""Report messages and progress to the program that uses the library; by default nothing is shown.

Library code calls ``message``, ``status`` and ``progress``. The command line shows them with the reporter it installs.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar


def _discard(_: object) -> None:
    """Accept an update and do nothing."""


class Reporter:
    """Receives messages and progress. This class discards them; a subclass shows them."""

    def message(self, text: str) -> None:
        """Report one line of plain text, such as a choice that the library made.

        Args:
            text: the line, without markup.
        """

    def status(self, text: str) -> AbstractContextManager[Callable[[str], None]]:  # noqa: ARG002
        """Report work whose amount is unknown; the context's value replaces the text.

        Args:
            text: what the library is doing.
        """
        return nullcontext(_discard)

    def progress(self, text: str, total: int) -> AbstractContextManager[Callable[[int], None]]:  # noqa: ARG002
        """Report work of a known amount; call the context's value with the amount done since the last call.

        Args:
            text: what the library is doing.
            total: the amount of work, in units of the caller's choice.
        """
        return nullcontext(_discard)


_current: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def use(reporter: Reporter) -> Iterator[None]:
    """Send the reports of this thread to ``reporter`` inside the context."""
    token = _current.set(reporter)
    try:
        yield
    finally:
        _current.reset(token)


def message(text: str) -> None:
    """Send one line of plain text to the current reporter."""
    _reporter().message(text)


def status(text: str) -> AbstractContextManager[Callable[[str], None]]:
    """Tell the current reporter that work of an unknown amount begins; the context's value replaces the text."""
    return _reporter().status(text)


def progress(text: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Tell the current reporter that ``total`` units of work begin; call the context's value with the units done."""
    return _reporter().progress(text, total)


def _reporter() -> Reporter:
    return _current.get() or Reporter()
