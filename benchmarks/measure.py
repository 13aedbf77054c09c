"""Shared functions of the benchmarks: alternating runs, medians of ratios, machine description and result files."""

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from keras_lstmgen.system import cpu
from keras_lstmgen.system.malloc import available as memory_available

RESULTS = Path(__file__).parent / "results"
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # that decide how fast a product is
PACKAGES = ("tensorflow", "keras", "torch", "numpy", "sentencepiece", "ai-edge-litert", "onnxruntime")

Figures = Mapping[str, Sequence[float]]  # of each side, one a round

console = Console(highlight=False, width=None if os.isatty(1) else 140)


class Table(NamedTuple):
    """Rows of text under a title; the first column is words, the others are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """The command line of ``python -m benchmarks.name``."""
    options = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the figures go")
    return options


def interleaved(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Ask every side once a round, so that what slows the machine for a while slows all of them.

    Every other round goes backwards: a machine that gets slower or faster steadily favours no side.
    """
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            figures[name].append(sides[name]())
    return figures


def ratio(figures: Figures, side: str, other: str) -> float:
    """How many times ``other`` is in ``side``: the median of the ratios of each round.

    ``ratio({"a": [2, 9, 8], "b": [1, 3, 2]}, "a", "b") == 3``: the median of 2, 3 and 4.
    """
    return statistics.median(ratios(figures, side, [other]))


def ratios(figures: Figures, side: str, others: Iterable[str]) -> list[float]:
    """How many times the fastest of ``others`` in a round is in ``side`` in that round, for each round."""
    fastest = [max(row) for row in zip(*(figures[other] for other in others), strict=True)]
    return [one / two for one, two in zip(figures[side], fastest, strict=True)]


def best(figures: Figures, sides: Iterable[str]) -> str:
    """Which of ``sides`` has the highest median."""
    return max(sides, key=lambda side: statistics.median(figures[side]))


def machine() -> dict[str, Any]:
    """What was measured on: processor, what of INSTRUCTIONS it has, cores, memory in GB, versions, a GPU if any."""
    facts: dict[str, Any] = {
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor(),
        "instructions": instructions(),
        "cores": cpu.available(),
        "memory_gb": round(memory_available() / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version()} | _versions(),
    }
    return facts | ({"gpu": gpu} if (gpu := _gpu()) else {})


def instructions() -> list[str]:
    """What this processor has of INSTRUCTIONS."""
    flags = _first("/proc/cpuinfo", "flags").split()
    return [name for name in INSTRUCTIONS if name in flags]


def _first(path: str, key: str) -> str:
    """The value of the first line ``key: value`` of a file below /proc."""
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "")


def memory(key: str) -> int:
    """A line of this process's status, ``VmHWM`` say, in bytes."""
    return int(_first("/proc/self/status", key).split()[0]) * 1024


def _versions() -> dict[str, str]:
    installed = {distribution.name.lower(): distribution.version for distribution in metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def _gpu() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def publish(name: str, results: Mapping[str, Any], tables: Sequence[Table], folder: Path) -> None:
    """Print the tables; write ``name.json``, the machine and all figures, and ``name.md``, what was printed."""
    facts = machine()
    line = _in_words(facts, results.get("peak_gflops", {}))
    console.print(line, markup=False)
    for table in tables:
        _show(table)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": facts, **results}, indent=1, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    page = "\n\n".join([line, *map(markdown, tables)])
    (folder / f"{name}.md").write_text(page + "\n", encoding="utf-8")


def _in_words(facts: Mapping[str, Any], peak: Mapping[str, float]) -> str:
    device = f"{facts['gpu']}; " if "gpu" in facts else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    measured = ", ".join(f"{value:,.0f} GFLOP/s {precision}" for precision, value in peak.items())
    peaks = f" Measured peak: {measured}." if measured else ""
    with_these = f" with {' '.join(facts['instructions'])}" if facts["instructions"] else ""
    return (
        f"{device}{facts['processor']}{with_these}, {facts['cores']} cores, {facts['memory_gb']} GB; {versions}.{peaks}"
    )


def _show(table: Table) -> None:
    grid = Grid(box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        grid.add_column(escape(column), justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*map(escape, row))
    console.print(f"[bold]{escape(table.title)}[/bold]")
    console.print(grid)


def markdown(table: Table) -> str:
    """A table as a page has it."""
    head = [" | ".join(table.columns), "|".join("---:" if number else "---" for number in range(len(table.columns)))]
    lines = [f"| {line} |" for line in (head[0], *(" | ".join(row) for row in table.rows))]
    return "\n".join([f"**{table.title}**", "", lines[0], f"|{head[1]}|", *lines[1:]])
