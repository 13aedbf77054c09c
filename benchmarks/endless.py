"""Generate a million characters in one text; record memory and speed, and check that all numbers are finite.

    python -m benchmarks.endless RUN
    python -m benchmarks.endless RUN --tokens 100000

The text goes nowhere. Memory is that of the process (VmRSS) after each tenth of the text.
"""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import Table, console, publish
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory

PARTS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Write, and look now and then."""
    parser = measure.parser("endless", __doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--tokens", type=int, default=1_000_000, metavar="N", help="length of the text")
    arguments = parser.parse_args(argv)
    model = run_directory.load(arguments.run)
    results = written(model, arguments.tokens)
    parameters = model.model.count_params()
    publish("endless", {"parameters": parameters, **results}, [table(results, parameters)], arguments.results)
    return 0 if math.isfinite(results["logprob"]) else 1


def written(model: run_directory.Run, tokens: int) -> dict[str, Any]:
    """Write a text of so many tokens: characters and memory after each part of it, its log-probability, seconds."""
    generator = Generator(model)
    generator.generate("", GenerationConfig(64))  # traced before memory is looked at
    rows = [{"characters": 0, "megabytes": measure.memory("VmRSS") / 1e6}]
    characters, pieces = 0, 0

    def emit(_: int, text: str) -> None:
        nonlocal characters, pieces
        characters, pieces = characters + len(text), pieces + 1
        if characters >= len(rows) * tokens / PARTS:
            rows.append({"characters": characters, "megabytes": measure.memory("VmRSS") / 1e6})
            console.print(f"{characters:,} characters, {rows[-1]['megabytes']:,.1f} MB")

    began = time.perf_counter()
    options = Options(temperature=0.8)
    (sample,) = generator.generate("", GenerationConfig(tokens, options, keep_text=False), emit=emit)
    seconds = time.perf_counter() - began
    return {"tokens": sample.length, "logprob": sample.logprob, "seconds": seconds, "memory": rows}


def table(results: dict[str, Any], parameters: int) -> Table:
    """Memory by the length of the text."""
    per_token = results["logprob"] / results["tokens"]
    title = (
        f"One text of {results['tokens']:,} tokens, {parameters:,} parameters: "
        f"{results['tokens'] / results['seconds']:,.0f} tokens/s, {per_token:.3f} nats a token on average"
    )
    first = results["memory"][0]["megabytes"]
    rows = [
        [f"{row['characters']:,}", f"{row['megabytes']:,.1f}", f"{row['megabytes'] - first:+,.1f}"]
        for row in results["memory"]
    ]
    return Table(title, ("characters", "memory, MB", "more than at first"), rows)


if __name__ == "__main__":
    sys.exit(main())
