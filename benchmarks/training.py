"""Compare training speed, in tokens per second, of this package, ``keras.layers.LSTM`` and PyTorch's ``nn.LSTM``.

    python -m benchmarks.training
    python -m benchmarks.training --device gpu
    python -m benchmarks.training --rounds 3 --shapes 1x512,32,64 2x512,64,128

Every side does whole steps: loss, gradient, clipping by the global norm, Adam, the state carried from window to window.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from typing import Any

from benchmarks import measure, peak
from benchmarks.measure import Figures, Table, best, console, interleaved, publish, ratio, ratios
from benchmarks.shapes import SHAPES, Shape, flop_per_token, parse
from benchmarks.workers import Worker, WorkerError

Side = tuple[str, dict[str, Any]]  # what a worker runs, and its arguments beside the shape

OURS, KERAS, TORCH = "ours", "Keras", "PyTorch"  # how the names of the sides begin ...
KEPT = "memory kept"  # ... and end where they have of ours what is beside the kernel
SIDES: dict[str, dict[str, Side]] = {
    "cpu": {
        f"{OURS} float32": ("benchmarks.keras_sides:ours", {"precision": "float32"}),
        f"{OURS} bfloat16": ("benchmarks.keras_sides:ours", {"precision": "bfloat16"}),
        f"{KERAS} as it is": ("benchmarks.keras_sides:of_keras", {"unroll": False}),
        f"{KERAS} as it is, {KEPT}": ("benchmarks.keras_sides:of_keras", {"unroll": False, "kept": True}),
        f"{KERAS} unrolled": ("benchmarks.keras_sides:of_keras", {"unroll": True}),
        f"{TORCH} float32": ("benchmarks.torch_side:train", {"precision": "float32"}),
        f"{TORCH} bfloat16": ("benchmarks.torch_side:train", {"precision": "bfloat16"}),
        f"{TORCH} float32, {KEPT}": ("benchmarks.torch_side:train", {"precision": "float32", "kept": True}),
        f"{TORCH} bfloat16, {KEPT}": ("benchmarks.torch_side:train", {"precision": "bfloat16", "kept": True}),
        f"{TORCH} float32 compiled": ("benchmarks.torch_side:train", {"precision": "float32", "compiled": True}),
        f"{TORCH} bfloat16 compiled": ("benchmarks.torch_side:train", {"precision": "bfloat16", "compiled": True}),
    },
    "gpu": {
        f"{OURS} float32": ("benchmarks.keras_sides:ours", {"precision": "float32"}),
        f"{OURS} bfloat16": ("benchmarks.keras_sides:ours", {"precision": "bfloat16"}),
        f"{TORCH} float32": ("benchmarks.torch_side:train", {"precision": "float32", "device": "cuda"}),
        f"{TORCH} bfloat16": ("benchmarks.torch_side:train", {"precision": "bfloat16", "device": "cuda"}),
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every shape; 2 where what is asked for is not here."""
    arguments = _arguments(argv)
    if missing := _missing(arguments.device):
        print(f"benchmarks.training: {missing}", file=sys.stderr)
        return 2
    results = [measured(shape, arguments) for shape in arguments.shapes]
    peaks = {name: max(result["peak_gflops"][name] for result in results) for name in peak.PRECISIONS}
    name = "training" if arguments.device == "cpu" else "training_gpu"
    about = {"peak_gflops": peaks, "rounds": arguments.rounds, "shapes": results}
    publish(name, about, [*map(table, results)], arguments.results)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = measure.parser("training", __doc__)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each side")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="X", help="length of a turn")
    parser.add_argument("--shapes", type=parse, nargs="+", default=SHAPES, metavar="LxH,B,T[,V]")
    parser.add_argument("--sides", nargs="+", metavar="NAME", help="part of the sides' names; none: all")
    return parser.parse_args(argv)


def _missing(device: str) -> str:
    """What keeps the benchmark from running here."""
    if not find_spec("torch"):
        return "PyTorch is not installed; 'make bench' installs it (the extra 'bench')"
    if device == "gpu" and not _asked_once("benchmarks.keras_sides:gpus", "gpu"):
        return "TensorFlow sees no GPU on this machine; nothing was measured"
    return ""


def _asked_once(target: str, device: str, **arguments: Any) -> Any:
    with closing(Worker(target, peak.environment(device), **arguments)) as worker:
        return worker.ask(0)


def measured(shape: Shape, arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides, and the machine's peak, in turns; what cannot run is told with its error."""
    console.print(f"{shape}: {arguments.rounds} rounds")
    device = arguments.device
    wanted = {name: side for name, side in SIDES[device].items() if _is_wanted(name, arguments.sides)}
    with ExitStack() as stack:
        turns, starts, failed = _started(stack, wanted, shape, arguments)
        figures = interleaved(turns | peak.sides(stack, device), arguments.rounds)
    result = summary(shape, figures) | {"start_seconds": starts, "failed": failed}
    if device == "gpu":
        result["cudnn"] = _asked_once("benchmarks.keras_sides:cudnn_kernels", device, shape=shape)
    return result


def _is_wanted(name: str, parts: Iterable[str] | None) -> bool:
    return not parts or any(part in name for part in parts)


def _started(
    stack: ExitStack, sides: Mapping[str, Side], shape: Shape, arguments: argparse.Namespace
) -> tuple[dict[str, Callable[[], float]], dict[str, float], dict[str, str]]:
    """A turn of each side, and how long it took to come to its first steps; the errors of those that did not start."""
    turns: dict[str, Callable[[], float]] = {}
    seconds, failed = {}, {}
    for name, (target, options) in sides.items():
        began = time.perf_counter()
        try:
            worker = Worker(target, peak.environment(arguments.device), shape=shape, **options)
        except WorkerError as error:
            failed[name] = str(error)
        else:
            stack.enter_context(closing(worker))
            seconds[name] = time.perf_counter() - began
            turns[name] = worker.turn(arguments.seconds, shape.B * shape.T)
        console.print(f"  {name}: {failed.get(name) or f'started in {seconds[name]:.0f} s'}", markup=False)
    return turns, seconds, failed


def summary(shape: Shape, figures: Figures) -> dict[str, Any]:
    """What the rounds of a shape say: medians, and medians of the ratios of each round."""
    flop, peaks = flop_per_token(shape), peak.by_precision(figures)
    sides = [side for side in figures if not side.startswith("peak ")]
    others, peers = _others(sides, figures), _peers(sides)[0]
    shares: Figures = {
        side: [rate * flop / most for rate, most in zip(figures[side], peaks[precision_of(side)], strict=True)]
        for side in sides
    }
    return {
        "shape": str(shape),
        "flop_per_token": flop,
        "peak_gflops": peak.gflops(peaks),
        "tokens_per_second": {side: list(figures[side]) for side in sides},
        "median": {side: statistics.median(figures[side]) for side in sides},
        "share_of_peak": {side: statistics.median(share) for side, share in shares.items()},
        "times": {other: {side: ratio(figures, side, other) for side in sides} for other in others},
        "spread": {other: {side: _ends(ratios(figures, side, [other])) for side in sides} for other in others},
        "times_best_of_round": {side: statistics.median(ratios(figures, side, peers)) for side in sides if peers},
    }


def _ends(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)]


def precision_of(side: str) -> str:
    """The precision in a side's name; Keras's own is float32."""
    return "bfloat16" if "bfloat16" in side else "float32"


def _of(sides: Iterable[str], start: str) -> list[str]:
    return [side for side in sides if side.startswith(start)]


def _peers(sides: Iterable[str]) -> tuple[list[str], list[str]]:
    """The sides of PyTorch: as it is installed, and with memory that is kept."""
    of_torch = _of(sides, TORCH)
    return [side for side in of_torch if KEPT not in side], [side for side in of_torch if KEPT in side]


def _others(sides: Sequence[str], figures: Figures) -> list[str]:
    """What the others are compared with: PyTorch's best setting, its best with memory kept, and Keras as it is."""
    best_torch = [best(figures, peers) for peers in _peers(sides) if peers]
    return best_torch + [side for side in sides if side == f"{KERAS} as it is"]


def table(result: Mapping[str, Any]) -> Table:
    """The sides of a shape, each against PyTorch's best setting and Keras as it is."""
    others = list(result["times"])
    columns = ["side", "tokens/s", "lowest to highest", "start, s", "GFLOP/s", "share of peak"]
    columns += [f"× {name}, lowest to highest" for name in others]
    columns += [f"× {TORCH}'s best of each round"] if result["times_best_of_round"] else []
    rows = [
        [
            side,
            f"{median:,.0f}",
            f"{min(rates):,.0f} to {max(rates):,.0f}",
            f"{result['start_seconds'][side]:.0f}",
            f"{median * result['flop_per_token'] / 1e9:,.0f}",
            f"{result['share_of_peak'][side]:.0%}",
            *(_with_ends(result["times"][other][side], *result["spread"][other][side]) for other in others),
            *(f"{times:.2f}" for name, times in result["times_best_of_round"].items() if name == side),
        ]
        for side, median in result["median"].items()
        for rates in [result["tokens_per_second"][side]]
    ]
    rows += [[side, "did not start", error, *[""] * (len(columns) - 3)] for side, error in result["failed"].items()]
    peaks = ", ".join(f"{value:,.0f} {name}" for name, value in result["peak_gflops"].items())
    title = f"{result['shape']}: {result['flop_per_token'] / 1e6:.1f} MFLOP a token, peak in GFLOP/s {peaks}"
    return Table(title + _proof(result), columns, rows)


def _with_ends(median: float, low: float, high: float) -> str:
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _proof(result: Mapping[str, Any]) -> str:
    """What the trace of our side says of cuDNN."""
    if "cudnn" not in result:
        return ""
    names = ", ".join(result["cudnn"]) or "none"
    return f"; operators and kernels of cuDNN's RNN in the trace of ours: {names}"


if __name__ == "__main__":
    sys.exit(main())
