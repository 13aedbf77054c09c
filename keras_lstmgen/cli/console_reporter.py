"""Show the library's messages and progress on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.markup import escape

from keras_lstmgen.cli import console
from keras_lstmgen.reporting.reporter import Reporter
from keras_lstmgen.utils.errors import readable


class ConsoleReporter(Reporter):
    """Prints messages, and shows a spinner or a progress bar on a terminal."""

    def message(self, text: str) -> None:
        """Print one line of plain text to standard output."""
        console.out.print(text, markup=False)

    @contextmanager
    def status(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show a spinner with a text; the context's value replaces the text."""
        with console.out.status(_plain(text)) as spinner:
            yield lambda new: spinner.update(_plain(new))

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a progress bar; the context's value advances it."""
        with console.progress_bar() as bar:
            task = bar.add_task(_plain(text), total=total, figures=())
            yield lambda done: bar.advance(task, done)


def _plain(text: str) -> str:
    """Return a text that rich shows as it is."""
    return escape(readable(text))
