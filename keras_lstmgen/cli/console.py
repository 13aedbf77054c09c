"""The terminal: tables, progress bars, notes, and the next command to type."""

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
    """A console that prints file names that are not UTF-8."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, with an escape in place of each byte that is not UTF-8."""
        super().print(*(readable(item) if isinstance(item, str) else item for item in objects), **options)


def console(**options: Any) -> Console:
    """Return a console in the package's style; COLUMNS and LINES are ignored if they are not numbers."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[0-9]{1,4}", os.environ.get(name, "80")):  # rich would fail
            del os.environ[name]
    return _Terminal(highlight=False, soft_wrap=True, **options)


# A pipe or a file has no width; rich's default of 80 columns would break the tables.
_width = None if sys.stdout and sys.stdout.isatty() else 120
out = console(width=_width)
notes = console(stderr=True)  # keeps notes apart from generated text on standard output


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table without its empty columns; the first column is text, the others are numbers."""
    cells = [[escape(visible(str(cell))) for cell in row] for row in rows]
    filled = [number for number in range(len(columns)) if not cells or any(row[number] for row in cells)]
    grid = Table(box=box.SIMPLE_HEAD)
    for number in filled:
        grid.add_column(columns[number], justify="right" if number else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(row[number] for number in filled))
    out.print(f"[bold]{escape(title)}[/bold]")  # rich would break the title of a table at the table's width
    out.print(grid, soft_wrap=False)


def next_command(*words: str | Path) -> None:
    """Print the command to type next, as the last line of a verb."""
    out.print(_next(words))


def next_beside(*words: str | Path) -> None:
    """Print the command to type next to standard error, if standard output has generated text or JSON."""
    notes.print(_next(words))


def _next(words: Iterable[str | Path]) -> str:
    return f"\n[bold]next:[/bold] {escape(' '.join(map(shell_quoted, words)))}"


def left_out(files: Iterable[folders.LeftOut]) -> None:
    """Print one line to standard error about the files of folders that are not read."""
    if summary := folders.summary(files):
        notes.print(f"Left out: {visible(summary)}", markup=False)


def progress_bar() -> Progress:
    """Return a bar with percentage, elapsed and remaining time, and as many figures as the terminal has room for."""
    columns = (
        TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(Column(no_wrap=True)), TextColumn("left"),
        TimeRemainingColumn(table_column=Column(no_wrap=True)), _Figures(),
    )  # fmt: skip
    return Progress(*columns, console=out, transient=True, refresh_per_second=4, speed_estimate_period=60, expand=True)


class _Figures(ProgressColumn):
    """The field ``figures`` of a task: texts, of which the last ones are left out on a narrow terminal."""

    OTHER_COLUMNS = 42  # characters: a bar of 10, percentage, times, and the spaces between columns

    def __init__(self) -> None:
        """Create a column that is never broken into lines."""
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """Return the figures that fit beside the other columns."""
        room = out.width - self.OTHER_COLUMNS - cell_len(task.description)
        figures: list[str] = list(task.fields["figures"])
        while figures and cell_len("  ".join(figures)) > room:
            figures.pop()
        return Text("  ".join(figures))
