"""Show the messages and progress reports of the library on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.markup import escape

from keras_lstmgen.cli import console
from keras_lstmgen.reporting.reporter import Reporter
from keras_lstmgen.utils.errors import readable


class ConsoleReporter(Reporter):
    """Prints messages, and shows the progress of a task with a spinner or a progress bar."""

    def message(self, text: str) -> None:
        """Print one line of plain text to standard output."""
        console.out.print(text, markup=False)

    @contextmanager
    def status(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show a spinner with a text inside the context, and yield a function that replaces the text."""
        with console.out.status(_plain(text)) as spinner:
            yield lambda new: spinner.update(_plain(new))

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a progress bar inside the context, and yield a function that advances it by a number of units."""
        with console.progress_bar() as bar:
            task = bar.add_task(_plain(text), total=total, figures=())
            yield lambda done: bar.advance(task, done)


def _plain(text: str) -> str:
    """Escape a text so that rich prints it without interpreting markup."""
    return escape(readable(text))
