"""Measure the speed of Apache Beam's local runner, in documents and MB per second, with one or more workers.

    python -m benchmarks.preparing
    python -m benchmarks.preparing --megabytes 48 --workers 1 2 --rounds 1

It needs the extra ``beam``. The corpus is that of ``growth``, a document a line; time is that of the whole command but
for imports: reading, vocabulary, encoding, checksums. ``train`` is what training does by itself with the same corpus.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.growth import write_corpus
from benchmarks.measure import Figures, Table, interleaved, publish

TYPES = ("char", "bpe")
ALONE = "train"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all of it."""
    parser = measure.parser("preparing", __doc__)
    parser.add_argument("--megabytes", type=float, default=200, metavar="N", help="size of the corpus")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N", help="processes of the runner")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each side")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        write_corpus(corpus, arguments.megabytes)
        with corpus.open("rb") as file:
            documents = sum(1 for _ in file)
        sides = {f"{kind}, {workers} workers": partial(prepared, corpus, kind, workers)
                 for kind in TYPES for workers in arguments.workers}  # fmt: skip
        sides |= {f"{kind}, {ALONE}": partial(alone, corpus, kind) for kind in TYPES}
        seconds = interleaved(sides, arguments.rounds)
    results = {"megabytes": arguments.megabytes, "documents": documents, "seconds": seconds}
    publish("preparing", results, [table(arguments.megabytes, documents, seconds)], arguments.results)
    return 0


def _recipe(corpus: Path, kind: str) -> Any:
    from keras_lstmgen.config import recipe

    values = {"corpus.source": str(corpus), "corpus.documents": "lines", "tokenizer.type": kind}
    return recipe.override(recipe.Recipe(), values)


def prepared(corpus: Path, kind: str, workers: int) -> float:
    """Seconds that Beam takes with so many processes."""
    from keras_lstmgen.preparation import pipeline

    mode = ["--direct_running_mode=multi_processing"] if workers > 1 else []
    options = [f"--direct_num_workers={workers}", *mode]
    return _timed(corpus.parent, lambda folder: pipeline.prepare(_recipe(corpus, kind), folder / "prepared", options))


def alone(corpus: Path, kind: str) -> float:
    """Seconds that training takes for the same ids, without Beam."""
    from keras_lstmgen.data.token_cache import encode

    return _timed(corpus.parent, lambda folder: encode(_recipe(corpus, kind), folder))


def _timed(parent: Path, work: Callable[[Path], Any]) -> float:
    folder = Path(tempfile.mkdtemp(dir=parent))
    began = time.perf_counter()
    work(folder)
    seconds = time.perf_counter() - began
    shutil.rmtree(folder)
    return seconds


def table(megabytes: float, documents: int, seconds: Figures) -> Table:
    """The medians as rates."""
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    rows = [
        [side, f"{value:,.1f}", f"{megabytes / value:,.2f}", f"{documents / value:,.0f}"]
        for side, value in medians.items()
    ]
    title = f"Preparing {megabytes:g} MB, {documents:,} documents"
    return Table(title, ("vocabulary, by what", "seconds", "MB/s", "documents/s"), rows)


if __name__ == "__main__":
    sys.exit(main())
