"""Measure how time, memory and tokens per second grow with corpus and model, and how fast each command responds.

    python -m benchmarks.growth
    python -m benchmarks.growth --megabytes 1 10

Every figure of memory is the peak (VmHWM) of a fresh process, pages of mapped files included. The corpus is Python's
language reference over and over, its lines numbered so that no two are equal.
"""

import pydoc_data.topics
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import measure, peak
from benchmarks.measure import Table, console, interleaved, publish
from benchmarks.shapes import WORDS, Shape
from benchmarks.workers import ROOT, Worker

MEGABYTES = (1, 10, 100, 1000)
B, T = 64, 128  # of the pass of the pipeline
WORK = {  # in this order: the first encodes, the others find its ids
    "encode": "benchmarks.growth:encoded",
    "one pass of the pipeline": "benchmarks.growth:one_pass",
    "train, 3 seconds of updates": "benchmarks.growth:trained",
}
SHAPES = {
    "V": [Shape(1, 256, 32, 64, V) for V in (65, 1_000, 10_000, WORDS)],
    "H": [Shape(1, H, 32, 64) for H in (128, 256, 512, 1024)],
    "T": [Shape(1, 256, 32, T) for T in (16, 64, 256)],
}
# What the installed command does.
COMMAND = [sys.executable, "-c", "import sys; from keras_lstmgen.cli.command_line import main; sys.exit(main())"]
RUN, TEXT = "small", "text.txt"
# To the first character, and to the loss of a text of 0.1 MB.
OPENS = (("info", ""), ("generate", "--max-new-tokens 1"), ("evaluate", f"{TEXT} --samples 0"))
VERBS = ("prepare", "train", "generate", "chat", "evaluate", "inspect", "export", "info")

Side = Callable[[Any], dict[str, float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all of it."""
    parser = measure.parser("growth", __doc__)
    parser.add_argument("--megabytes", type=float, nargs="+", default=MEGABYTES, metavar="N", help="sizes of corpora")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each side")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="X", help="length of a turn")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        corpora = [row for size in arguments.megabytes for row in of_corpus(size, Path(folder) / f"{size:g}")]
        waits = startup(commands(Path(folder) / f"{arguments.megabytes[0]:g}"), arguments.rounds)
    shapes = list(dict.fromkeys(shape for group in SHAPES.values() for shape in group))
    rates = speeds(shapes, arguments.rounds, arguments.seconds)
    results = {
        "peak_gflops": peak.measured(),
        "corpora": corpora,
        "startup_seconds": waits,
        "tokens_per_second": {str(shape): values for shape, values in rates.items()},
    }
    tables = [corpora_table(corpora), *(speeds_table(name, rates) for name in SHAPES), startup_table(waits)]
    publish("growth", results, tables, arguments.results)
    return 0


def of_corpus(megabytes: float, folder: Path) -> list[dict[str, Any]]:
    """Time and memory of each kind of work on a corpus of that size; a small run and a text are left in ``folder``."""
    folder.mkdir()
    corpus = folder / "corpus.txt"
    write_corpus(corpus, megabytes)
    rows = []
    for work, target in WORK.items():
        console.print(f"{megabytes:g} MB: {work}")
        with closing(Worker(target, peak.environment("cpu"), corpus=str(corpus), runs=str(folder))) as worker:
            rows.append({"megabytes": megabytes, "work": work, **worker.ask(0)})
    for path in (corpus, *folder.glob(".encoded/*/*.ids")):
        path.unlink()
    write_corpus(folder / TEXT, 0.1)
    return rows


def write_corpus(path: Path, megabytes: float) -> None:
    """Write so many million bytes, and a line more at most."""
    text = "".join(pydoc_data.topics.topics.values())
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    left = megabytes * 1e6
    with path.open("w", encoding="utf-8") as file:
        for number in count():
            line = f"{number} {lines[number % len(lines)]}"
            file.write(line)
            left -= len(line.encode())
            if left <= 0:
                return


def _recipe(corpus: str) -> Any:
    from keras_lstmgen.config import recipe

    return recipe.override(recipe.Recipe(), {"corpus.source": [corpus]})


def _encode(corpus: str, runs: str) -> Any:
    from keras_lstmgen.data.token_cache import encode

    return encode(_recipe(corpus), Path(runs) / ".encoded")


def encoded(corpus: str, runs: str) -> Side:
    """A side: learns the vocabulary of a corpus and writes its ids."""

    def side(_: Any) -> dict[str, float]:
        began = time.perf_counter()
        tokens = len(_encode(corpus, runs).train)
        return _figures(began, tokens)

    return side


def one_pass(corpus: str, runs: str) -> Side:
    """A side: takes every window of the training text out of the pipeline, once."""
    from keras_lstmgen.data import stream_windows

    ids = _encode(corpus, runs).train

    def side(_: Any) -> dict[str, float]:
        began = time.perf_counter()
        tokens = sum(int(window.shape[0]) * int(window.shape[1]) for window in _windows(stream_windows, ids))
        return _figures(began, tokens)

    return side


def _windows(streams: Any, ids: Any) -> Iterator[Any]:
    rows = min(B, (len(ids) - 1) // T)  # a corpus of a few lines has not even one window of all B rows
    return (window for window, _ in streams.dataset(ids, streams.Batching(rows, T, epochs=1, seed=0)))


def trained(corpus: str, runs: str) -> Side:
    """A side: the command, with a small model; all that it does before, around and after its updates."""
    from keras_lstmgen.cli import command_line

    options = {
        "name": RUN, "runs": runs, "training.minutes": 0.05, "training.epochs": 0, "training.batch_size": 4,
        "model.layers": 1, "model.units": 16, "model.embedding_size": 8,
    }  # fmt: skip

    def side(_: Any) -> dict[str, float]:
        began = time.perf_counter()
        code = command_line.main(
            ["train", corpus, *(word for name, value in options.items() for word in (f"--{name}", f"{value}"))]
        )
        if code:
            raise RuntimeError(f"keras-lstmgen train ended with {code}")
        return _figures(began)

    return side


def _figures(began: float, tokens: int = 0) -> dict[str, float]:
    """Seconds, tokens, the peak of this process in MB, and how much of its memory now is pages of mapped files."""
    return {
        "seconds": time.perf_counter() - began,
        "tokens": tokens,
        "peak_mb": measure.memory("VmHWM") / 1e6,
        "files_mb": measure.memory("RssFile") / 1e6,
    }


def speeds(shapes: Sequence[Shape], rounds: int, seconds: float) -> dict[Shape, list[float]]:
    """Training tokens per second of our side at each shape, in turns."""
    console.print(f"tokens per second at {len(shapes)} shapes")
    with ExitStack() as stack:
        turns = {}
        for shape in shapes:
            worker = Worker("benchmarks.keras_sides:ours", peak.environment("cpu"), shape=shape)
            stack.enter_context(closing(worker))
            turns[str(shape)] = worker.turn(seconds, shape.B * shape.T)
        figures = interleaved(turns, rounds)
    return {shape: figures[str(shape)] for shape in shapes}


def commands(runs: Path) -> dict[str, list[str]]:
    """What is typed: ``--help`` of each verb; what needs no more than is left in ``runs``."""
    helps = {f"{verb} --help": [verb, "--help"] for verb in VERBS}
    typed = {"info": ["info"]} | {
        f"{verb} RUN {options}".strip(): [verb, RUN, *options.split()] for verb, options in OPENS
    }
    here = {TEXT: str(runs / TEXT)}
    return helps | {name: [*(here.get(w, w) for w in words), "--runs", str(runs)] for name, words in typed.items()}


def startup(typed: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[float]]:
    """Seconds until each command is over."""
    return interleaved({name: lambda words=words: _seconds(words) for name, words in typed.items()}, rounds)  # type: ignore[misc]


def _seconds(words: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run([*COMMAND, *words], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - began


def corpora_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Time and memory by the size of the corpus."""
    columns = ("corpus and work", "seconds", "MB/s", "tokens/s", "peak memory, MB", "of it mapped files, MB")
    return Table(
        "Growth of the corpus, by character",
        columns,
        [
            [
                f"{row['megabytes']:g} MB, {row['work']}",
                f"{row['seconds']:,.1f}",
                f"{row['megabytes'] / row['seconds']:,.2f}" if row["tokens"] else "",
                f"{row['tokens'] / row['seconds']:,.0f}" if row["tokens"] else "",
                f"{row['peak_mb']:,.0f}",
                f"{row['files_mb']:,.0f}",
            ]
            for row in rows
        ],
    )


def speeds_table(name: str, rates: Mapping[Shape, Sequence[float]]) -> Table:
    """Tokens per second as one dimension grows, and how many times the first."""
    shapes = SHAPES[name]
    medians = {shape: statistics.median(rates[shape]) for shape in shapes}
    rows = [
        [f"{name} = {getattr(shape, name):,}", f"{medians[shape]:,.0f}", f"{medians[shape] / medians[shapes[0]]:.2f}"]
        for shape in shapes
    ]
    first = shapes[0]
    rest = ", ".join(f"{key} {value}" for key, value in first._asdict().items() if key != name)
    return Table(f"Growth of {name}: {rest}", (name, "tokens/s", "× the first"), rows)


def startup_table(seconds: Mapping[str, Sequence[float]]) -> Table:
    """How soon commands answer."""
    rows = [[f"keras-lstmgen {name}", f"{statistics.median(values):.2f}"] for name, values in seconds.items()]
    return Table("Start-up", ("command", "seconds"), rows)


if __name__ == "__main__":
    sys.exit(main())
