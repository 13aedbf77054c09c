"""Measure a server with the SavedModel: characters per second and memory, with 1 to 256 texts in parallel.

    python -m benchmarks.serving
    python -m benchmarks.serving --rows 1 1024

Each number of rows has a process of its own, which loads the SavedModel as a server does and asks ``serving_default``
for texts of 200 characters, in strings, all rows in one request.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from benchmarks import measure, peak
from benchmarks.measure import Table, console, publish
from benchmarks.workers import Worker

ROWS = (1, 16, 64, 256)


def main(argv: Sequence[str] | None = None) -> int:
    """Make a model, export it, ask it."""
    parser = measure.parser("serving", __doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, metavar="N", help="texts in progress at once")
    parser.add_argument("--units", type=int, default=512, metavar="H")
    parser.add_argument("--layers", type=int, default=2, metavar="L")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="X", help="least time of each measurement")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        console.print(f"{arguments.layers} x {arguments.units} units: made and exported")
        made = {"folder": folder, "units": arguments.units, "layers": arguments.layers}
        with closing(Worker("benchmarks.artifact_sides:make", **made)):
            results = [measured(folder, rows, arguments.seconds) for rows in arguments.rows]
    state = 4 * 2 * arguments.layers * arguments.units
    about = {"layers": arguments.layers, "units": arguments.units, "state_bytes": state, "rows": results}
    publish("serving", about | {"peak_gflops": peak.measured()}, [table(about)], arguments.results)
    return 0


def measured(folder: str, rows: int, seconds: float) -> dict[str, Any]:
    """Ask a fresh process for so many texts at once."""
    with closing(Worker("benchmarks.artifact_sides:served", folder=folder, B=rows)) as worker:
        return {"rows": rows, **worker.ask(seconds)}


def table(about: Mapping[str, Any]) -> Table:
    """A row a number of texts; memory beside that of the fewest."""
    title = (
        f"{about['layers']} x {about['units']} units, SavedModel in strings: texts of 200 characters; "
        f"the state of a text is {about['state_bytes']:,} bytes, however long it gets"
    )
    least = min(about["rows"], key=lambda entry: entry["rows"])
    cells = [
        [
            f"{entry['rows']:,}",
            f"{entry['characters_per_second']:,.0f}",
            f"{entry['seconds_per_request']:.3f}",
            f"{entry['peak_bytes'] / 1e6:,.0f}",
            f"{(entry['peak_bytes'] - least['peak_bytes']) / max(entry['rows'] - least['rows'], 1) / 1e3:,.0f}",
        ]
        for entry in about["rows"]
    ]
    return Table(title, ("texts at once", "characters/s", "seconds a request", "peak, MB", "more a text, kB"), cells)


if __name__ == "__main__":
    sys.exit(main())
