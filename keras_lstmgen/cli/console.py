"""Print to the terminal: tables, progress bars, messages, and the command that the user can type next."""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from keras_lstmgen.files import folders
from keras_lstmgen.utils.errors import readable, shell_quoted, visible


class _Terminal(Console):
    """A console that can print file names that are not valid UTF-8."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects; in strings, replace each byte that is not UTF-8 by an escape sequence."""
        super().print(*(readable(item) if isinstance(item, str) else item for item in objects), **options)


def console(**options: Any) -> Console:
    """Return a console without automatic highlighting or hard line wraps.

    The environment variables COLUMNS and LINES are removed if they are not numbers, because rich would fail.

    Args:
        options: further arguments of ``rich.console.Console``.
    """
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[0-9]{1,4}", os.environ.get(name, "80")):  # rich raises an exception for other values
            del os.environ[name]
    return _Terminal(highlight=False, soft_wrap=True, **options)


# A pipe or a file has no width. The default of rich is 80 columns. This width is too small for the tables.
_width = None if sys.stdout and sys.stdout.isatty() else 120
out = console(width=_width)
notes = console(stderr=True)  # for messages that must not be mixed with generated text on standard output


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table, and omit columns without content.

    Args:
        title: a line above the table.
        columns: headers of the columns. The first column is aligned to the left, the other columns to the right.
        rows: the rows. Each row contains a value for each column.
    """
    cells = [[escape(visible(str(cell))) for cell in row] for row in rows]
    filled = [number for number in range(len(columns)) if not cells or any(row[number] for row in cells)]
    grid = Table(box=box.SIMPLE_HEAD)
    for number in filled:
        grid.add_column(columns[number], justify="right" if number else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(row[number] for number in filled))
    out.print(f"[bold]{escape(title)}[/bold]")  # a title inside the table would wrap at the width of the table
    out.print(grid, soft_wrap=False)


def next_command(*words: str | Path) -> None:
    """Print the command that the user can type next. Verbs call this function last."""
    out.print(_next(words))


def next_beside(*words: str | Path) -> None:
    """Print the command that the user can type next to standard error.

    Commands that write generated text or JSON to standard output use this function instead of ``next_command``.
    """
    notes.print(_next(words))


def _next(words: Iterable[str | Path]) -> str:
    """Return the line that shows the next command."""
    return f"\n[bold]next:[/bold] {escape(' '.join(map(shell_quoted, words)))}"


def left_out(files: Iterable[folders.LeftOut]) -> None:
    """Print to standard error one line with the skipped files and the reasons."""
    if summary := folders.summary(files):
        notes.print(f"Skipped: {visible(summary)}", markup=False)


def progress_bar() -> Progress:
    """Return a progress bar with percentage, elapsed time, remaining time, and figures such as the speed.

    Each task of this bar needs a field ``figures`` with a sequence of strings. If the terminal is too narrow for all
    figures, the bar omits the last ones.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(Column(no_wrap=True)), TextColumn("left"),
        TimeRemainingColumn(table_column=Column(no_wrap=True)), _Figures(),
    )  # fmt: skip
    return Progress(*columns, console=out, transient=True, refresh_per_second=4, speed_estimate_period=60, expand=True)


class _Figures(ProgressColumn):
    """A column that shows the strings in the field ``figures`` of a task. A narrow terminal hides the last strings."""

    OTHER_COLUMNS = 42  # characters: a bar of 10, percentage, times, and the spaces between columns

    def __init__(self) -> None:
        """Create a column that never wraps."""
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """Return the figures, without the last ones if the line is too narrow."""
        room = out.width - self.OTHER_COLUMNS - cell_len(task.description)
        figures: list[str] = list(task.fields["figures"])
        while figures and cell_len("  ".join(figures)) > room:
            figures.pop()
        return Text("  ".join(figures))
