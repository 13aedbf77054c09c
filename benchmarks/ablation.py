"""Measure each regularization option: train the base recipe, and again with one option changed.

    python -m benchmarks.ablation
    python -m benchmarks.ablation --recipe benchmarks/subwords.toml --epochs 20 --seeds 0 1 2
    python -m benchmarks.ablation --recipe pipelines/shakespeare.toml --epochs 3 --seeds 0 1 2 --only model.weight_drop

An option that the base leaves off is turned on, one that it has is turned off. All train for the same number of epochs,
so that the learning rate falls alike, and start from the same seeds. The loss is that of the best epoch: the whole
held-out text, the state carried. Each recipe has a page of results of its own, on which rows that were measured before
stay, where epochs, seeds and the losses of the base are the same.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.growth import COMMAND
from benchmarks.measure import Table, publish
from benchmarks.workers import ROOT
from keras_lstmgen.config import recipe
from keras_lstmgen.files import atomic
from keras_lstmgen.models import run_directory

Value = float | str | bool
RECIPE = ROOT / "pipelines" / "quickstart.toml"
BASE = "base"
# Off and on of each. What is on is what the sources found good, scaled to one layer and a small text.
# Attention and members are no regularisation, but stand in the same question: what is it worth?
OPTIONS: dict[str, tuple[Value, Value]] = {
    "model.dropout": (0.0, 0.25),
    "model.input_dropout": (0.0, "auto"),
    "model.weight_drop": (0.0, 0.3),
    "model.embedding_dropout": (0.0, 0.1),
    "model.activation_regularization": (0.0, 2.0),
    "model.attention": (0, 256),
    "model.members": (1, 2),
    "training.random_offsets": (False, True),
    "training.average": (0, 50),  # updates: an epoch of a small text has about as many
    "training.weight_decay": (0.0, 0.01),
    "training.clip_norm": (0.0, 1.0),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train all, and compare each with the base."""
    parser = measure.parser("ablation", __doc__)
    parser.add_argument("--recipe", type=Path, default=RECIPE, metavar="FILE", help="the base")
    parser.add_argument("--epochs", type=int, default=7, metavar="N", help="of every training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="a training a row for each")
    parser.add_argument("--only", nargs="+", choices=OPTIONS, default=list(OPTIONS), metavar="KEY", help="these rows")
    arguments = parser.parse_args(argv)
    path, epochs = arguments.recipe.resolve(), arguments.epochs
    bases = [trained(path, {}, epochs, seed) for seed in arguments.seeds]
    changes = turned(bases[0]["settings"], arguments.only)
    rows = {BASE: bases} | {name: [trained(path, c, epochs, s) for s in arguments.seeds] for name, c in changes.items()}
    results = {"recipe": arguments.recipe.name, "epochs": arguments.epochs, "seeds": arguments.seeds, "rows": rows}
    name = f"ablation_{path.stem}"
    results = together(arguments.results / f"{name}.json", results)
    publish(name, results, [table(path.stem, epochs, results["rows"])], arguments.results)
    return 0


def together(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Add the rows of an earlier file to the results, where its base is the same."""
    old = atomic.read_json(path) if path.is_file() else {}

    def base(of: Mapping[str, Any]) -> Any:
        return [of["recipe"], of["epochs"], of["seeds"], [run["validation"] for run in of["rows"][BASE]]]

    return results | {"rows": old["rows"] | results["rows"]} if old and base(old) == base(results) else results


def turned(settings: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, Value]]:
    """For each option what turns over what a run has: ``{"model.dropout 0.0": {"model.dropout": 0.0}, ...}``.

    What its recipe left to choose and was not chosen is "auto" there still, and off where that is not how it is on.
    """
    changes = {}
    for name in names:
        section, key = name.split(".")
        off, on = OPTIONS[name]
        value = on if settings[section][key] in {off, recipe.AUTO_WORD} - {on} else off
        changes[f"{name} {_typed(value)}"] = {name: value}
    return changes


def _typed(value: Value) -> str:
    """As it is typed on the command line."""
    return str(value).lower()


def trained(path: Path, options: Mapping[str, Value], epochs: int, seed: int) -> dict[str, Any]:
    """Train by the command; what it reached."""
    fixed = {"training.epochs": epochs, "training.minutes": 0, "training.patience": 0, "training.seed": seed}
    words = [word for key, value in {**fixed, **options}.items() for word in (f"--{key}", _typed(value))]
    with tempfile.TemporaryDirectory() as runs:
        command = [*COMMAND, "train", str(path), "--name", "run", "--runs", runs, *words]
        subprocess.run(command, check=True, cwd=ROOT)
        metrics = atomic.read_json(Path(runs) / "run" / "metrics.json")
        history = atomic.read_json(Path(runs) / "run" / "history.json")
        settings = recipe.to_tables(recipe.load(Path(runs) / "run" / run_directory.RECIPE))
    return {
        "seed": seed,
        "validation": metrics["validation"]["nats_per_token"],
        "training": metrics["train_nats_per_token"],
        "minutes": metrics["minutes"],
        "history": history,
        "settings": settings,
    }


def table(name: str, epochs: int, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """A row an option: means over the seeds, and what it changes; below zero is better than the base."""

    def mean(row: str, key: str) -> float:
        return statistics.mean(float(run[key]) for run in rows[row])

    columns = ("one change", "validation, nats", "change", "training, nats", "minutes")
    cells = [
        [
            row,
            f"{mean(row, 'validation'):.4f}",
            "" if row == BASE else f"{mean(row, 'validation') - mean(BASE, 'validation'):+.4f}",
            f"{mean(row, 'training'):.4f}",
            f"{mean(row, 'minutes'):.1f}",
        ]
        for row in rows
    ]
    return Table(f"{name}, {epochs} epochs, mean of {len(rows[BASE])}", columns, cells)


if __name__ == "__main__":
    sys.exit(main())
