"""Print the report of an evaluation as tables."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_lstmgen.cli import console
from keras_lstmgen.evaluation.task import Figures

COUNTS = ("documents", "tokens", "characters", "words", "unknown")


def show(folder: Path, report: dict[str, Any]) -> None:
    """Print the report of an evaluation.

    Args:
        folder: folder of the run; the title contains its path.
        report: the return value of ``evaluation.report.evaluate``.
    """
    rows = [(_words(name), f"{value:,.4f}") for name, value in report["loss"].items()]
    rows += [(name, f"{report['counts'][name]:,}") for name in COUNTS]
    console.table(f"{folder}: {report['text']}", ("measure", "value"), rows)
    for name, figures in report.get("measures", {}).items():
        _show_measure(name, figures)
    if "samples" in report:
        _show_samples(report["samples"])


def _show_measure(name: str, figures: Figures) -> None:
    """Print the result of a metric: its numbers as a table, and its texts below the table.

    Args:
        name: name of the metric.
        figures: the rows of the table by name. Each row maps the names of columns to numbers or texts.
    """
    cells = [cell for values in figures.values() for cell in values.items()]
    columns = list(dict.fromkeys(column for column, value in cells if not isinstance(value, str)))
    rows = [(row, *(_number(values.get(column, "")) for column in columns)) for row, values in figures.items()]
    console.table(_words(name), ("compared", *map(_words, columns)), rows)
    for column, value in dict.fromkeys(cell for cell in cells if isinstance(cell[1], str)):
        console.out.print(f"{column}: {value}", markup=False)


def _show_samples(samples: dict[str, Any]) -> None:
    """Print how much the samples copy from the training text. If there are sources, also print each with its answer."""
    rows = [
        ("longest passage copied, characters", str(samples["longest_copy_characters"])),
        ("whole lines seen in training", f"{samples['lines_seen_in_training']} of {samples['lines']}"),
    ]
    title = f"{len(samples['texts'])} samples compared with the training text"
    console.table(title, ("measure", "value"), rows)
    for line in _sample_lines(samples):
        console.out.print(line, markup=False)


def _sample_lines(samples: dict[str, Any]) -> Iterator[str]:
    """Yield the lines below the table of the samples."""
    yield f"longest copied passage: {samples['longest_copy']!r}"
    for source, text in zip(samples.get("sources", []), samples["texts"], strict=False):
        yield f"{source!r} → {text!r}"


def _words(key: str) -> str:
    """Return a key of the report as words, with spaces instead of underscores."""
    return key.replace("_", " ")


def _number(value: Any) -> str:
    """Format a number for a table; return other values as strings."""
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
