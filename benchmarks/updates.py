"""Profile a training update: the LSTM kernel and the operators around it.

    python -m benchmarks.updates
    python -m benchmarks.updates --shapes 1x512,32,64 --precision float32

Our sides of ``training``, watched by TensorFlow's profiler. Two operators may run at once and wait for each other,
and watched they take longer, so that the parts add up to more than the update. Their shares are of all parts together.
"""

import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from benchmarks import measure, peak
from benchmarks.measure import Table, console, publish
from benchmarks.shapes import SHAPES, Shape, parse
from benchmarks.workers import Worker

STEPS = 10  # updates that are watched
PARTS = {  # of an operator's name; the first that is found counts
    "LSTM's code, forward": "lstm_forward.*:PyFunc",
    "LSTM's code, backward": "lstm_backward.*:PyFunc",
    "softmax": "softmax_.*:PyFunc",
    "Adam and clipping": "/adam/",
    "output's products and casts": "/compile_loss/",
    "dropout": "/dropout_",
    "embedding": "/embedding_|UnsortedSegmentSum",
    "other operators": "^StatefulPartitionedCall/.*:",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Watch each shape."""
    parser = measure.parser("updates", __doc__)
    parser.add_argument("--shapes", type=parse, nargs="+", default=SHAPES, metavar="LxH,B,T[,V]")
    parser.add_argument("--precision", choices=peak.PRECISIONS, default="bfloat16")
    arguments = parser.parse_args(argv)
    results = [watched(shape, arguments.precision) for shape in arguments.shapes]
    publish("updates", {"steps": STEPS, "shapes": results}, [*map(table, results)], arguments.results)
    return 0


def watched(shape: Shape, precision: str) -> dict[str, Any]:
    """How long an update takes, with no profiler, and its parts with one: milliseconds."""
    console.print(f"{shape}: {STEPS} updates")
    options = {"shape": shape, "precision": precision}
    with closing(Worker("benchmarks.updates:side", peak.environment("cpu"), **options)) as worker:
        found = worker.ask(STEPS)
    return {"shape": str(shape), "precision": precision, **found}


def side(shape: list[int], precision: str) -> Callable[[int], dict[str, Any]]:
    """A worker's: trains so many steps without a profiler and as many with one."""
    from benchmarks import keras_sides

    s, train = Shape(*shape), keras_sides.ours(shape, precision)

    def answer(steps: int) -> dict[str, Any]:
        seconds = [s.B * s.T / train(steps) for _ in range(3)]
        parts = summed(_events(keras_sides.trace(lambda: train(steps))))
        return {"milliseconds": 1e3 * statistics.median(seconds), "parts": {n: ms / steps for n, ms in parts.items()}}

    return answer


def _events(trace: bytes) -> list[tuple[str, float]]:
    """All events of a profiler's trace: names and milliseconds."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(trace)
    return [
        (plane.event_metadata[event.metadata_id].name, event.duration_ps / 1e9)
        for plane in space.planes
        for line in plane.lines
        for event in line.events
    ]


def summed(events: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Milliseconds of each of PARTS; what is no operator has no part."""
    parts = dict.fromkeys(PARTS, 0.0)
    for name, milliseconds in events:
        part = next((part for part, pattern in PARTS.items() if re.search(pattern, name)), None)
        if part:
            parts[part] += milliseconds
    return parts


def table(result: Mapping[str, Any]) -> Table:
    """The parts of an update, each with its share."""
    whole = sum(result["parts"].values())
    rows = [[part, f"{ms:,.1f}", f"{ms / whole:.0%}"] for part, ms in result["parts"].items()]
    title = f"{result['shape']}, {result['precision']}: {result['milliseconds']:,.1f} ms an update without a profiler"
    return Table(title, ["part", "ms, watched", "share"], rows)


if __name__ == "__main__":
    sys.exit(main())
