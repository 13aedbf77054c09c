"""Compare a recipe of pairs with attention, trained with and without a pointer-generator.

    python -m benchmarks.pointer
    python -m benchmarks.pointer --epochs 6 --change model.units=256 'corpus.field=["1", "3"]' --name pointer_titles

Both sides have the same layers, seed, batches, epochs and rate; ``model.copy`` is all that differs. Both are measured
as ``keras-lstmgen evaluate`` measures.
"""

import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import Table, publish
from benchmarks.workers import ROOT
from keras_lstmgen.config import recipe
from keras_lstmgen.evaluation.report import evaluate
from keras_lstmgen.files import atomic
from keras_lstmgen.models import run_directory as runs
from keras_lstmgen.training import trainer

RECIPE = ROOT / "pipelines" / "summary.toml"
SIDES = {"without": False, "with a pointer": True}


def main(argv: Sequence[str] | None = None) -> int:
    """Train both, and measure each on the held-out pairs."""
    parser = measure.parser("pointer", __doc__)
    parser.add_argument("--recipe", type=Path, default=RECIPE, metavar="FILE", help="of pairs, with attention")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="of both trainings")
    parser.add_argument("--change", nargs="+", default=[], metavar="KEY=VALUE", help="of the recipe, as TOML has it")
    parser.add_argument("--tokens", type=int, default=60, metavar="N", help="most in an answer")
    parser.add_argument("--name", default="pointer", help="of the files of results")
    arguments = parser.parse_args(argv)
    settings = changed(recipe.load(arguments.recipe), arguments.epochs, arguments.change)
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: side(settings, copies, Path(folder), arguments.tokens) for name, copies in SIDES.items()}
    about = {"recipe": arguments.recipe.name, "epochs": arguments.epochs, "changes": arguments.change}
    results = about | {"sides": sides}
    publish(arguments.name, results, tables(results), arguments.results)
    return 0


def changed(base: recipe.Recipe, epochs: int, changes: Sequence[str]) -> recipe.Recipe:
    """The recipe with so many epochs, whatever the clock says, and with ``["model.units=256"]``, for one."""
    fixed = {"training.epochs": epochs, "training.minutes": 0, "training.patience": 0}
    given = tomllib.loads("\n".join(changes))
    return recipe.override(
        base, fixed | {f"{table}.{key}": value for table in given for key, value in given[table].items()}
    )


def side(settings: recipe.Recipe, copies: bool, place: Path, tokens: int) -> dict[str, Any]:
    """Train one side and measure its best epoch: loss, answers, what each epoch reached, minutes."""
    folder = trainer.train(recipe.override(settings, {"model.copy": copies}), place, f"copy_{copies}").folder
    report = evaluate(runs.load(folder), [], 0, tokens, recipe.Evaluate(("rouge",)))
    history = atomic.read_json(folder / "history.json")
    reached = {"minutes": history[-1]["seconds"] / 60, "epochs_nats": [row["val_loss"] for row in history]}
    return {"loss": report["loss"], "rouge": report["measures"]["rouge"], **reached}


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Both sides' loss, after each epoch and of the best; ROUGE in percent of their answers and of trivial ones."""
    changes = "".join(f", {change}" for change in results["changes"])
    title = f"{results['recipe'].removesuffix('.toml')}, {results['epochs']} epochs{changes}"
    columns = ("side", "nats a token", "gain of the right source", "after each epoch", "minutes")
    sides = results["sides"]
    trivial = {name: row for name, row in sides["without"]["rouge"].items() if name.startswith(("first", "target"))}
    answers = {name: side["rouge"]["greedy"] for name, side in sides.items()} | trivial
    rows = [[name, *(f"{100 * value:.1f}" for value in row.values())] for name, row in answers.items()]
    return [
        Table(title, columns, [[name, *_loss(side)] for name, side in sides.items()]),
        Table("greedy answers", ("answers", "ROUGE-1", "ROUGE-2", "ROUGE-L"), rows),
    ]


def _loss(side: Mapping[str, Any]) -> list[str]:
    epochs = " ".join(f"{nats:.3f}" for nats in side["epochs_nats"])
    figures = (f"{side['loss'][name]:.4f}" for name in ("nats_per_token", "gain_of_the_right_source"))
    return [*figures, epochs, f"{side['minutes']:.1f}"]


if __name__ == "__main__":
    sys.exit(main())
