"""Compare a training that starts from the weights of another run with a training from random weights.

    python -m benchmarks.continuation

For each pair of texts, a small model is first trained on the old text. Then the new text is trained on from these
weights with several learning rates, and from random weights. All trainings on the new text have the same model size,
the same text and the same number of epochs. The number of updates differs if the old vocabulary lacks characters of the
new text, because such a character becomes several byte pieces. The losses are measured on held-out text: bits per
character on the new text, which do not depend on the vocabulary, and nats per token on the old text.
"""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import measure
from benchmarks.measure import Table, publish
from keras_lstmgen.config import recipe
from keras_lstmgen.files import atomic
from keras_lstmgen.models import continuation
from keras_lstmgen.training import continuation_report, trainer

SHARES = (1 / 4, 1 / 2, 1.0)  # learning rates as shares of the learning rate of the old run
MODEL = {"model.embedding_size": 32, "model.units": 128, "model.layers": 1, "model.dropout": 0.1}
TRAINING = {"training.batch_size": 16, "training.window": 64, "training.patience": 0}


class Pair(NamedTuple):
    """Two texts: the file in the data folder and the number of characters of each, and the number of epochs."""

    name: str
    old: tuple[str, int]
    new: tuple[str, int]
    epochs: int


PAIRS = (
    Pair("Shakespeare, then Grimm's tales", ("tinyshakespeare/input.txt", 600_000), ("grimm/tales.txt", 100_000), 4),
    Pair("Tang poems, then Chinese dialogues", ("tang-quatrains/train.txt", 100_000), ("kdconv/train.tsv", 40_000), 4),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and print and store the losses."""
    parser = measure.parser("continuation", __doc__)
    arguments = parser.parse_args(argv)
    data = Path(os.environ["KERAS_LSTMGEN_DATA"])
    with tempfile.TemporaryDirectory() as folder:
        results = {pair.name: measured(pair, data, Path(folder) / str(n)) for n, pair in enumerate(PAIRS)}
    tables = [table(name, rows) for name, rows in results.items()]
    publish("continuation", {"pairs": results}, tables, arguments.results)
    return 0


def measured(pair: Pair, data: Path, folder: Path) -> list[dict[str, Any]]:
    """Train on both texts of a pair, and return the losses of each training on the new text."""
    texts = [excerpt(data, *text, folder / f"{name}.txt") for name, text in (("old", pair.old), ("new", pair.new))]
    values = {"corpus.source": str(texts[0]), "training.epochs": 2, **MODEL, **TRAINING}
    old = trainer.train(recipe.override(recipe.Recipe(), values), folder, "old").folder
    new = {"corpus.source": str(texts[1]), "training.epochs": pair.epochs, **TRAINING}
    rate = recipe.load(old / "recipe.toml").training.learning_rate
    rows = []
    for share in SHARES:
        settings = recipe.override(continuation.defaults(old), {**new, "training.learning_rate": rate * share})
        metrics = atomic.read_json(trainer.train(settings, folder, "continued").folder / "metrics.json")
        rows.append(row(f"continued, learning rate {rate * share:g}", metrics, "after"))
    scratch = trainer.train(recipe.override(recipe.Recipe(), {**new, **MODEL}), folder, "scratch").folder
    rows.append(row("from random weights", atomic.read_json(scratch / "metrics.json"), ""))
    return [row("old model, not trained on the new text", metrics, "before"), *rows]


def excerpt(data: Path, name: str, characters: int, path: Path) -> Path:
    """Write the first characters of a text to a file, and return its path."""
    text = (data / name).read_text(encoding="utf-8")[:characters]
    atomic.write_text(path, text)
    return path


def row(name: str, metrics: Mapping[str, Any], when: str) -> dict[str, Any]:
    """Return the losses of a training, or of the old model if ``when`` is "before"."""
    validation = metrics["validation"]
    bits = validation["bits_per_character"]
    losses = metrics.get(continuation_report.KEY)
    if when == "before" and losses:
        bits *= losses["new"]["before"] / validation["nats_per_token"]
    updates = 0 if when == "before" else metrics["updates"]
    old = losses["old"][when] if losses else None
    return {"training": name, "updates": updates, "new_bits_per_character": bits, "old_nats_per_token": old}


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of a pair."""
    columns = ("training", "updates", "new text: bits per character", "old text: nats per token")
    cells = [
        (
            entry["training"],
            f"{entry['updates']:,}",
            f"{entry['new_bits_per_character']:.3f}",
            "" if entry["old_nats_per_token"] is None else f"{entry['old_nats_per_token']:.3f}",
        )
        for entry in rows
    ]
    return Table(title, columns, cells)


if __name__ == "__main__":
    sys.exit(main())
