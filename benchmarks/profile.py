"""Profile text generation in SavedModel and ONNX: calls per token and share of the time for each type of operator.

    python -m benchmarks.profile

The model of ``generation``, its artifacts' graph ``generate``, texts of 50 characters at temperature 1, one thread. The
runtimes' own profilers say how long each operator ran; of each the median over the tokens counts, which a busy machine
disturbs least. A watched operator takes longer than another: read the shares.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import artifact_sides, measure
from benchmarks.measure import Table, console, publish
from benchmarks.workers import Worker
from export import contract as kit

Event = tuple[str, str, float]  # an operator's kind and name, and the microseconds that it took
Feeds = Mapping[str, Any]
LENGTH = 50  # of a text
RUNS = 3  # of a text without a profiler; the fastest counts
OUTER = {"Loop", "If", "While", "StatelessWhile"}  # what their operators take is in theirs
SHOWN = 12  # kinds of operators in a table; the others are summed


def main(argv: Sequence[str] | None = None) -> int:
    """Make a model, export it, watch it write."""
    parser = measure.parser("profile", __doc__)
    parser.add_argument("--units", type=int, default=512, metavar="H")
    parser.add_argument("--layers", type=int, default=2, metavar="L")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], metavar="B", help="texts written at once")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        console.print(f"{arguments.layers} x {arguments.units} units: made and exported")
        made = {"folder": folder, "units": arguments.units, "layers": arguments.layers}
        with closing(Worker("benchmarks.artifact_sides:make", **made, formats=["saved_model", "onnx"])):
            results = [profiled(name, Path(folder), B) for B in arguments.batches for name in WATCHED]
    about = {"layers": arguments.layers, "units": arguments.units, "profiles": results}
    publish("profile", about, [*map(table, results)], arguments.results)
    return 0


def profiled(name: str, folder: Path, B: int, length: int = LENGTH) -> dict[str, Any]:
    """Watch one artifact write ``B`` texts."""
    plain, watched = WATCHED[name](folder)
    noise = np.stack([kit.noise(row, length) for row in range(B)])
    feeds = artifact_sides.feeds(artifact_sides.metadata(str(folder)), B) | {"noise": noise}
    plain(feeds)
    seconds = min(_seconds(plain, feeds) for _ in range(RUNS))
    return {"artifact": name, "batch": B, "tokens": length, "seconds": seconds, "kinds": summed(watched(feeds), length)}


def _seconds(run: Callable[[Feeds], Any], feeds: Feeds) -> float:
    began = time.perf_counter()
    run(feeds)
    return time.perf_counter() - began


def summed(events: Iterable[Event], tokens: int) -> list[dict[str, Any]]:
    """What each kind of operator is of a token: its count, its microseconds; the dearest first."""
    times = defaultdict[tuple[str, str], list[float]](list)
    for kind, name, microseconds in events:
        times[kind, name].append(microseconds)
    kinds: dict[str, Any] = {
        kind: {"kind": kind, "count": 0.0, "microseconds": 0.0} for kind, _ in times if kind not in OUTER
    }
    for (kind, _), each in times.items():
        if kind in kinds:
            kinds[kind]["count"] += len(each) / tokens
            kinds[kind]["microseconds"] += len(each) / tokens * statistics.median(each)
    return sorted(kinds.values(), key=lambda row: -row["microseconds"])


def _saved_model(folder: Path) -> tuple[Callable[[Feeds], Any], Callable[[Feeds], Iterable[Event]]]:
    """What runs the graph, and what runs it under TensorFlow's tracer."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401 (a loader needs its operators)

    from keras_lstmgen.exporters import saved_model

    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        found = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder / saved_model.PATH))
    signature = found.signature_def["generate"]
    fetches = {name: info.name for name, info in signature.outputs.items()}

    def run(feeds: Feeds, **options: Any) -> Any:
        return session.run(fetches, {signature.inputs[name].name: value for name, value in feeds.items()}, **options)

    def watched(feeds: Feeds) -> Iterator[Event]:
        told = tf.compat.v1.RunMetadata()
        full = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
        run(feeds, options=full, run_metadata=told)
        for device in told.step_stats.dev_stats:
            for node in device.node_stats:
                kind = node.timeline_label.partition(" = ")[2].partition("(")[0] or node.node_name
                yield kind, node.node_name, (node.op_end_rel_nanos - node.op_start_rel_nanos) / 1e3

    return run, watched


def _onnx(folder: Path) -> tuple[Callable[[Feeds], Any], Callable[[Feeds], Iterable[Event]]]:
    """What runs the graph, and what runs it under ONNX Runtime's profiler."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when ONNX Runtime is imported; without it usage data are sent
    import onnxruntime

    from keras_lstmgen.exporters import onnx

    def opened(prefix: str = "") -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling, options.profile_file_prefix = bool(prefix), prefix
        return onnxruntime.InferenceSession(
            folder / onnx.PATH / onnx.FILES["generate"], options, providers=["CPUExecutionProvider"]
        )

    plain = opened()

    def watched(feeds: Feeds) -> Iterator[Event]:
        with tempfile.TemporaryDirectory() as place:
            session = opened(f"{place}/profile")
            session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text())
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
                yield event["args"]["op_name"], event["name"], event["dur"]

    return lambda feeds: plain.run(None, feeds), watched


WATCHED = {"SavedModel": _saved_model, "ONNX": _onnx}


def table(result: Mapping[str, Any]) -> Table:
    """The dearest kinds of operators of an artifact, and the time that none of them has."""
    each = result["seconds"] / result["tokens"] * 1e6
    kinds, total = result["kinds"], sum(row["microseconds"] for row in result["kinds"])
    rest = kinds[SHOWN:]
    others = {key: sum(row[key] for row in rest) for key in ("count", "microseconds")} | {"kind": f"{len(rest)} others"}
    everything = {"kind": "all", "count": sum(row["count"] for row in kinds), "microseconds": total}
    rows = [
        [row["kind"], f"{row['count']:.1f}", f"{row['microseconds']:.1f}", f"{row['microseconds'] / total:.1%}"]
        for row in [*kinds[:SHOWN], others, everything]
    ]
    title = f"{result['artifact']}, batch {result['batch']}: {each:,.0f} µs a token without a profiler"
    return Table(title, ("operator", "a token", "µs a token, watched", "share"), rows)


if __name__ == "__main__":
    sys.exit(main())
