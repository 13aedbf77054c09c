"""Compute, without a run, the cost of a large corpus, a large model and many texts in parallel.

    python -m benchmarks.costs
    python -m benchmarks.costs --terabytes 0.1 --units 1024 --gpus 1 4 --share 0.1

Rates of this machine are those that the other benchmarks have left in ``results/``. What a GPU and a network do was not
measured here: it is assumed, by the options, and stands in the title. No work overlaps: a worker adds up its gradients
when all of them are there, as ``keras_lstmgen.distribution.workers`` does.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import measure
from benchmarks.measure import RESULTS, Table, publish
from keras_lstmgen.config.recipe import Model
from keras_lstmgen.models.builder import parameters

TB, GB, MB = 1e12, 1e9, 1e6
DAY = 86_400.0  # seconds
BOX = 8  # GPUs that share the fast links of one machine
SHAPE = "2x1024,64,128"  # of the training benchmark, whose rate stands for this machine's


class Update(NamedTuple):
    """One update of N GPUs."""

    tokens: int
    computing: float  # seconds
    moved: float  # bytes that each GPU sends in the all-reduce
    moving: float  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Compute and publish the tables."""
    parser = measure.parser("costs", __doc__)
    parser.add_argument("--terabytes", type=float, default=1.0, metavar="X", help="of text")
    parser.add_argument("--bytes-per-token", type=float, default=4.0, metavar="X", help="of text, in subwords")
    parser.add_argument("--units", type=int, default=2048, metavar="H", help="of two layers, their output tied")
    parser.add_argument("--vocab-size", type=int, default=16_000, metavar="V")
    parser.add_argument("--rows", type=int, default=64, metavar="B", help="of each GPU")
    parser.add_argument("--window", type=int, default=128, metavar="T")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], metavar="N")
    parser.add_argument("--tflops", type=float, default=989.0, metavar="X", help="a GPU's peak: an H100's, bfloat16")
    parser.add_argument("--share", type=float, default=0.2, metavar="X", help="of the peak that training reaches")
    parser.add_argument("--link", type=float, default=450.0, metavar="X", help="GB/s a GPU sends within a machine")
    parser.add_argument("--network", type=float, default=50.0, metavar="X", help="GB/s a GPU sends to another machine")
    parser.add_argument("--texts", type=int, default=10_000, metavar="N", help="in progress at once in TF Serving")
    parser.add_argument("--reading", type=float, default=20.0, metavar="X", help="characters/s that each of them wants")
    options = parser.parse_args(argv)
    tables = [corpus(options), training(options), serving(options)]
    results = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    del results["results"]
    publish("costs", {"assumed": results, "tables": [table._asdict() for table in tables]}, tables, options.results)
    return 0


def read(name: str) -> dict[str, Any]:
    """The figures that a benchmark has left."""
    figures: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return figures


def corpus(options: argparse.Namespace) -> Table:
    """What encoding takes, at the rate of one process that encodes the largest corpus of the growth benchmark."""
    entries = [entry for entry in read("growth")["corpora"] if entry["work"] == "encode"]
    largest = max(entries, key=lambda entry: float(entry["megabytes"]))
    rate = largest["megabytes"] * MB / largest["seconds"]
    seconds = options.terabytes * TB / rate
    ids = 2 if options.vocab_size <= 1 << 16 else 4
    rows = [
        ["tokens", f"{tokens(options) / 1e9:,.0f} billion"],
        ["ids on the disk", f"{tokens(options) * ids / GB:,.0f} GB"],
        *(
            [f"encoding at {rate / MB:.1f} MB/s a process, {n} of them", f"{seconds / n / 3600:,.1f} hours"]
            for n in (1, 16, 128)
        ),
    ]
    return Table(f"{options.terabytes:g} TB of text, {options.bytes_per_token:g} bytes a token", ("what", ""), rows)


def tokens(options: argparse.Namespace) -> float:
    """Tokens in the corpus."""
    return float(options.terabytes * TB / options.bytes_per_token)


def weights(options: argparse.Namespace) -> int:
    """Numbers of the model."""
    H = options.units
    return parameters(Model(embedding_size=H, units=H, layers=2, dropout=0.0, tied=True), options.vocab_size)


def flop(options: argparse.Namespace) -> float:
    """FLOP of a token in training: 6 for each weight of a product, of the two layers (8 H^2 each) and the output."""
    H = options.units
    return 6.0 * (2 * 8 * H * H + options.vocab_size * H)


def update(options: argparse.Namespace, N: int) -> Update:
    """One update of N GPUs, each with its rows; the gradients, float32, go round a ring.

    Source of the ring, in which each sends 2 (N - 1) / N of the bytes: Patarasuk and Yuan, "Bandwidth Optimal
    All-reduce Algorithms for Clusters of Workstations", 2009.
    """
    of_one = options.rows * options.window
    moved = 4.0 * weights(options) * 2 * (N - 1) / N
    speed = (options.link if N <= BOX else options.network) * GB
    return Update(N * of_one, of_one * flop(options) / (options.tflops * 1e12 * options.share), moved, moved / speed)


def training(options: argparse.Namespace) -> Table:
    """A pass over the corpus, by N GPUs and by this machine."""
    rows = [_of_gpus(options, N) for N in options.gpus]
    rate = _measured_flops() / flop(options)
    rows.append(["this machine, measured", "", "", "", "", "", f"{rate:,.0f}", _days(options, rate)])
    title = (
        f"{weights(options) / 1e6:,.1f} million weights (2 x {options.units}, V {options.vocab_size:,}), "
        f"B {options.rows} a GPU, T {options.window}; assumed: {options.tflops:g} TFLOP/s a GPU, "
        f"{options.share:.0%} of it reached, {options.link:g} GB/s within a machine of {BOX}, "
        f"{options.network:g} GB/s between machines"
    )
    of_update = ("tokens an update", "computing, ms", "all-reduce, MB a GPU", "all-reduce, ms", "share of the time")
    return Table(title, ("GPUs", *of_update, "tokens/s", "days for all"), rows)


def _of_gpus(options: argparse.Namespace, N: int) -> list[str]:
    made = update(options, N)
    seconds = made.computing + made.moving
    figures = [f"{made.computing * 1e3:,.1f}", f"{made.moved / MB:,.0f}", f"{made.moving * 1e3:,.1f}"]
    rate = made.tokens / seconds
    return [f"{N}", f"{made.tokens:,}", *figures, f"{made.moving / seconds:.0%}", f"{rate:,.0f}", _days(options, rate)]


def _days(options: argparse.Namespace, rate: float) -> str:
    return f"{tokens(options) / rate / DAY:,.1f}"


def _measured_flops() -> float:
    """FLOP/s of this machine's fastest training."""
    shape = next(entry for entry in read("training")["shapes"] if entry["shape"] == SHAPE)
    medians: Mapping[str, float] = shape["median"]
    return shape["flop_per_token"] * max(rate for side, rate in medians.items() if side.startswith("ours"))


def serving(options: argparse.Namespace) -> Table:
    """Memory and machines for so many texts at once, from the serving benchmark's first and last row."""
    measured = read("serving")
    first, last = measured["rows"][0], measured["rows"][-1]
    a_text = (last["peak_bytes"] - first["peak_bytes"]) / (last["rows"] - first["rows"])
    rate = last["characters_per_second"]
    here, machines = f"{rate / options.texts:.1f} characters/s", f"{options.texts * options.reading / rate:.1f}"
    rows = [
        ["their states alone", f"{options.texts * measured['state_bytes'] / MB:,.0f} MB"],
        ["memory of a server that has all of them", f"{(first['peak_bytes'] + options.texts * a_text) / GB:.2f} GB"],
        [f"each of them, if this machine's {rate:,.0f} characters/s are shared out", here],
        [f"machines like this one, for {options.reading:g} characters/s each", machines],
    ]
    title = f"{options.texts:,} texts in progress in TF Serving, {measured['layers']} x {measured['units']} units"
    return Table(title, ("what", ""), rows)


if __name__ == "__main__":
    sys.exit(main())
