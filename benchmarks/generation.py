"""Compare the generation speed, in characters per second, of every artifact, Keras and PyTorch with the same weights.

    python -m benchmarks.generation
    python -m benchmarks.generation --batches 1 --rounds 3 --sides PyTorch int8

Every side writes whole texts of 200 characters at temperature 1, each character drawn from the model's probabilities.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from typing import Any

from benchmarks import measure, peak
from benchmarks.measure import Figures, Table, best, console, interleaved, publish, ratio
from benchmarks.workers import Worker, WorkerError

Side = tuple[str, dict[str, Any]]  # what a worker runs, and its arguments beside folder and batch

TORCH = "PyTorch"  # how the names of its sides begin
FORMATS = {"saved_model": "SavedModel", "tflite": "TFLite", "tflite_int8": "TFLite int8", "onnx": "ONNX"}
OURS = {name: ("benchmarks.artifact_sides:generated", {"name": key}) for key, name in FORMATS.items()}
CLIENTS = {f"{name}, client": ("benchmarks.artifact_sides:by_client", {"name": key}) for key, name in FORMATS.items()}
CELLS, LAYERS = {"kind": "cells"}, {"kind": "layers"}
WRITTEN, ALONE = "benchmarks.torch_writer:written", "benchmarks.torch_writer:weights_alone"
# As they stand in PyTorch's documentation, and what makes them faster than that.
PLAIN: dict[str, Side] = {
    f"{TORCH} LSTMCell": (WRITTEN, CELLS),
    f"{TORCH} LSTMCell int8": (WRITTEN, CELLS | {"int8": True}),
    f"{TORCH} nn.LSTM": (WRITTEN, LAYERS),
    f"{TORCH} nn.LSTM int8": (WRITTEN, LAYERS | {"int8": True}),
}
TUNED: dict[str, Side] = {
    f"{TORCH} LSTMCell scripted": (WRITTEN, CELLS | {"form": "scripted"}),
    f"{TORCH} LSTMCell compiled": (WRITTEN, CELLS | {"form": "compiled"}),
    f"{TORCH} LSTMCell looped": (WRITTEN, CELLS | {"form": "looped"}),
    f"{TORCH} LSTMCell int8 scripted": (WRITTEN, CELLS | {"int8": True, "form": "scripted"}),
    f"{TORCH} LSTMCell int8 looped": (WRITTEN, CELLS | {"int8": True, "form": "looped"}),
    f"{TORCH} nn.LSTM scripted": (WRITTEN, LAYERS | {"form": "scripted"}),
    f"{TORCH} nn.LSTM int8 scripted": (WRITTEN, LAYERS | {"int8": True, "form": "scripted"}),
    f"{TORCH} nn.LSTM int8 looped": (WRITTEN, LAYERS | {"int8": True, "form": "looped"}),
}
ONE = {"threads": 1}  # TensorFlow's threads are set once a process: each number of them is a side
OTHERS: dict[str, Side] = {
    "Keras, step by step": ("benchmarks.artifact_sides:keras_step_by_step", {}),
    "Keras, step by step, one thread": ("benchmarks.artifact_sides:keras_step_by_step", ONE),
    "the tutorial way": ("benchmarks.artifact_sides:tutorial", {}),
    "the tutorial way, one thread": ("benchmarks.artifact_sides:tutorial", ONE),
}
# No sides, but what no side can do without: at batch 1 that all weights are read, else one product with them.
READ, PRODUCT = "weights read,", "product alone,"


def main(argv: Sequence[str] | None = None) -> int:
    """Make a model, export it, measure every batch; 2 where PyTorch is not here."""
    arguments = _arguments(argv)
    if not find_spec("torch"):
        print("benchmarks.generation: PyTorch is not installed; 'make bench' installs it", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        console.print(f"{arguments.layers} x {arguments.units} units: made and exported")
        made = {"folder": folder, "units": arguments.units, "layers": arguments.layers}
        with closing(Worker("benchmarks.artifact_sides:make", **made)) as worker:
            facts = worker.ask(0)
        results = [measured(folder, B, facts, arguments) for B in arguments.batches]
    about = {"layers": arguments.layers, "units": arguments.units, **facts, "rounds": arguments.rounds}
    about["peak_gflops"] = peak.measured()
    publish("generation", about | {"batches": results}, [*map(table, results)], arguments.results)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = measure.parser("generation", __doc__)
    parser.add_argument("--units", type=int, default=512, metavar="H")
    parser.add_argument("--layers", type=int, default=2, metavar="L")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], metavar="B", help="texts written at once")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each side")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="X", help="length of a turn")
    parser.add_argument("--sides", nargs="+", metavar="NAME", help="part of the sides' names; none: all")
    return parser.parse_args(argv)


def sides(folder: str, B: int, facts: Mapping[str, Any]) -> dict[str, Side]:
    """What takes turns. The clients write one text at a time."""
    bytes_of = {"float32": 4, "int8": 1} if B == 1 else {"float32": 4}
    bounds: dict[str, Side] = {
        f"{READ if B == 1 else PRODUCT} {kind}": (ALONE, {"megabytes": facts["read"] * size / 1e6})
        for kind, size in bytes_of.items()
    }
    writers = {**OURS, **(CLIENTS if B == 1 else {}), **OTHERS, **PLAIN, **TUNED}
    alone = {name: (target, options | {"folder": folder}) for name, (target, options) in writers.items()}
    batched = {name: (t, o if "client" in name else o | {"B": B}) for name, (t, o) in alone.items()}
    return batched | {name: (target, options | {"B": B}) for name, (target, options) in bounds.items()}


def measured(folder: str, B: int, facts: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides in turns; what cannot run is told with its error."""
    console.print(f"batch {B}: {arguments.rounds} rounds")
    wanted = {
        name: side
        for name, side in sides(folder, B, facts).items()
        if not arguments.sides or any(part in name for part in arguments.sides)
    }
    with ExitStack() as stack:
        workers, failed = _started(stack, wanted)
        threads = {name: int(worker.ask(0)) for name, worker in workers.items()}
        turns = {name: _turn(worker, arguments.seconds) for name, worker in workers.items()}
        figures = interleaved(turns, arguments.rounds)
    return summary(B, figures) | {"threads": threads, "failed": failed}


def _turn(worker: Worker, seconds: float) -> Callable[[], float]:
    return lambda: float(worker.ask(seconds))


def _started(stack: ExitStack, wanted: Mapping[str, Side]) -> tuple[dict[str, Worker], dict[str, str]]:
    """The sides, made and warm; and the errors of those that did not start."""
    workers, failed = {}, {}
    for name, (target, options) in wanted.items():
        try:
            workers[name] = Worker(target, **options)
        except WorkerError as error:
            failed[name] = str(error)
        else:
            stack.enter_context(closing(workers[name]))
    return workers, failed


def summary(B: int, figures: Figures) -> dict[str, Any]:
    """What the rounds of a batch say: medians, and medians of the ratios of each round to PyTorch's best."""
    everyone = _among(figures, PLAIN | TUNED)
    peers = {"best": everyone, "float32": [side for side in everyone if "int8" not in side]}
    rivals = {key: best(figures, names) for key, names in peers.items() if names}
    return {
        "batch": B,
        "characters_per_second": {side: list(rates) for side, rates in figures.items()},
        "median": {side: statistics.median(rates) for side, rates in figures.items()},
        "rivals": rivals,
        "times": {key: {side: ratio(figures, side, rival) for side in figures} for key, rival in rivals.items()},
    }


def _among(figures: Figures, names: Mapping[str, Side]) -> list[str]:
    return [side for side in figures if side in names]


def table(result: Mapping[str, Any]) -> Table:
    """A row a side, the fastest first; what failed last."""
    rivals = result["rivals"]
    columns = ["side", "threads", "characters/s", *(f"× {rival}" for rival in dict.fromkeys(rivals.values()))]
    keys = {rival: key for key, rival in reversed(rivals.items())}
    rows = [
        [
            side,
            str(result["threads"].get(side, "")),
            f"{rate:,.0f}",
            *(f"{result['times'][keys[rival]][side]:.2f}" for rival in dict.fromkeys(rivals.values())),
        ]
        for side, rate in sorted(result["median"].items(), key=lambda item: -item[1])
    ]
    rows += [[side, "", error, *[""] * (len(columns) - 3)] for side, error in result["failed"].items()]
    return Table(f"characters per second, batch {result['batch']}", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
