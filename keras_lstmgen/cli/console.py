"""What people see: progress, tables, hints, and the next command to type."""

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

from keras_lstmgen.files import atomic, folders
from keras_lstmgen.layers import lstm
from keras_lstmgen.utils.errors import UserError, readable, shell_quoted, visible


class _Terminal(Console):
    """A console that can print file names of any bytes."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print, with all bytes of file names readable."""
        super().print(*(readable(thing) if isinstance(thing, str) else thing for thing in objects), **how)


def console(**more: Any) -> Console:
    """A console of the package's style. It has the terminal's own width where a variable gives one that is none."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[0-9]{1,4}", os.environ.get(name, "80")):  # rich cannot read it
            del os.environ[name]
    return _Terminal(highlight=False, soft_wrap=True, **more)


# A pipe or a log has no width of its own; 80 columns would break the tables.
_width = None if sys.stdout and sys.stdout.isatty() else 120
out = console(width=_width)
notes = console(stderr=True)  # beside a text that goes to standard output


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; the first column is words, the others are numbers."""
    grid = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        grid.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(escape(visible(str(cell))) for cell in row))
    out.print(f"[bold]{escape(title)}[/bold]")  # not the table's own, which would be broken at its width
    out.print(grid, soft_wrap=False)


def next_command(*words: str | Path) -> None:
    """Print, last, what to type next."""
    out.print(_next(words))


def next_beside(*words: str | Path) -> None:
    """Print what to type next to standard error, where standard output is for something else."""
    notes.print(_next(words))


def _next(words: Iterable[str | Path]) -> str:
    return f"\n[bold]next:[/bold] {escape(' '.join(map(shell_quoted, words)))}"


def left_out(what: Iterable[folders.LeftOut]) -> None:
    """Say in one line, beside the output, what folders have that is not read."""
    if summary := folders.summary(what):
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


def prepared(folder: str, about: dict[str, Any], seconds: float) -> None:
    """What a prepared corpus holds, and how long it took."""
    sides = about["counts"]
    rows = [(name, *(f"{sides[side][name]:,}" for side in sides)) for name in sides["train"]]
    rows.append(("shards", *(f"{len(about['shards'][side]):,}" for side in sides)))
    table(f"{folder}: prepared in {seconds:.1f} s", ("counts", *sides), rows)


def exported(folder: Path, results: dict[str, Any]) -> None:
    """Print how each artifact compares with Keras.

    Args:
        folder: folder of the run.
        results: an ``export_run.Exported`` for each format.
    """
    columns = ("format", "file", "size", "largest logit difference", "loss", "texts identical", "tokens/s")
    table(f"{folder}: artifacts compared with Keras", columns, [_exported_row(result) for result in results.values()])
    for result in results.values():
        if result.max_loss_increase is not None:
            out.print(
                f"{result.title} does not generate the same texts as Keras. Its loss is within "
                f"{result.max_loss_increase:g} nats per token of Keras's, and a seed always gives the same text."
            )


def _exported_row(result: Any) -> tuple[str, ...]:
    """Return the row of one format."""
    proof = result.proof
    return (
        result.title,
        "discarded" if result.path is None else str(result.path),
        "" if result.path is None else f"{result.size / 1e6:.2f} MB",
        "not finite" if proof.difference is None else f"{proof.difference:.1e}",
        "" if proof.loss_difference is None else f"{proof.loss_difference:+.4f} nats",
        f"{proof.identical} of {proof.tried}",
        f"{proof.tokens_per_second:,.0f}",
    )


def list_runs(parent: Path) -> None:
    """A line a run: what it reached and which artifacts it has."""
    rows = [_in_a_line(path.parent) for path in sorted(parent.glob("*/recipe.toml"))]
    table(f"runs in {parent}", ("run", "nats per token", "minutes", "artifacts"), rows)


def _in_a_line(folder: Path) -> tuple[str, str, str, str]:
    """A run's row; one that is damaged does not hide the others."""
    try:
        atomic.check_inside(folder)
        artifacts = ", ".join(_artifacts(folder)) or "none"
        metrics = _read(folder / "metrics.json")
        if not metrics:
            return folder.name, "unfinished", "", artifacts
        return folder.name, f"{metrics['validation']['nats_per_token']:.3f}", f"{metrics['minutes']:.1f}", artifacts
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        return folder.name, "damaged", "", ""


def slow_training() -> None:
    """Say so where training is slow for lack of the compiled code."""
    if told := lstm.missing_kernel_warning():
        out.print(told, markup=False)


def describe(folder: Path, metadata: dict[str, Any]) -> None:
    """A run's recipe, measures and artifacts."""
    tables = metadata["recipe"].items()
    rows = [(f"{name}.{key}", _words(value)) for name, values in tables for key, value in values.items()]
    try:
        facts, proved = _facts(metadata), _proved(folder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: its metrics or export.json are damaged ({error}); copy the whole folder of the run"
        ) from error
    table(f"{folder}: recipe", ("value", ""), rows)
    table(f"{folder}: model", ("what", ""), facts)
    columns = ("artifact", "path", "bytes", "texts identical")
    table(f"{folder}: artifacts", columns, proved)


def _facts(metadata: dict[str, Any]) -> list[tuple[str, Any]]:
    """Sizes and losses of a model."""
    plain = [(key.replace("_", " "), metadata[key]) for key in ("vocab_size", "state_size", "start_id", "end_id")]
    measured = metadata["metrics"].get("validation", {}).items()
    loss = [(key.replace("_", " "), f"{value:,.4f}") for key, value in measured]
    return plain + loss


def _proved(folder: Path) -> list[tuple[str, ...]]:
    """A row for each artifact."""
    proofs = _artifacts(folder).items()
    return [
        (name, proof["path"], f"{proof['bytes']:,}", f"{proof['identical']} of {proof['tried']}")
        for name, proof in proofs
    ]


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _artifacts(folder: Path) -> dict[str, Any]:
    """What ``export.json`` says of the artifacts that are there."""
    proofs = _read(folder / "export.json").get("artifacts", {}).items()
    return {name: proof for name, proof in proofs if proof["path"] and (folder / proof["path"]).exists()}


def _read(path: Path) -> dict[str, Any]:
    return dict(atomic.read_json(path)) if path.is_file() else {}
