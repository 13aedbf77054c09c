"""Measure quality against time: the loss after several minutes of training on tiny Shakespeare.

    python -m benchmarks.quality
    python -m benchmarks.quality --minutes 1 3      # these anew, beside what the results have of others
    python -m benchmarks.quality --minutes 3 --until 1.45      # and when each of them was as good as that

Each is a run of its own, since the learning rate decays over the minutes: up to three of them of ``shakespeare.toml``,
from then on of ``shakespeare_best.toml``, with a member for every five minutes or six. The loss is what
``keras-lstmgen evaluate`` gives: that of the whole held-out text, the state carried.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import measure, peak
from benchmarks.growth import COMMAND
from benchmarks.measure import Table, publish
from benchmarks.workers import ROOT
from keras_lstmgen.config.recipe import load
from keras_lstmgen.files import atomic

MINUTES = (1.0, 3.0, 10.0, 30.0)
SHORT, LONG = (ROOT / "pipelines" / f"{name}.toml" for name in ("shakespeare", "shakespeare_best"))
SHORT_MINUTES, MEMBER_MINUTES = 3.0, 5.5


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, and show how the loss falls."""
    parser = measure.parser("quality", __doc__)
    parser.add_argument("--minutes", type=float, nargs="*", default=MINUTES, metavar="X", help="lengths of trainings")
    parser.add_argument("--until", type=float, metavar="NATS", help="tell when each training had so many per token")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="what is trained, whatever the minutes")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as runs:
        new = [measured(*chosen(arguments.recipe, minutes), minutes, Path(runs)) for minutes in arguments.minutes]
    results = together(kept(arguments.results / "quality.json"), new)
    tables = [table(results), *([until_table(results, arguments.until)] if arguments.until else [])]
    publish("quality", {"peak_gflops": peak.measured(), "runs": results}, tables, arguments.results)
    plot(results, arguments.results / "quality.png")
    return 0


def kept(path: Path) -> list[dict[str, Any]]:
    """The runs that were measured before."""
    return list(atomic.read_json(path)["runs"]) if path.is_file() else []


def together(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All runs by their minutes; a new one takes the place of an old one."""
    return [run for _, run in sorted({run["minutes"]: run for run in [*old, *new]}.items())]


def chosen(recipe: Path | None, minutes: float) -> tuple[Path, int]:
    """The recipe for so many minutes, and how many members."""
    if recipe:
        return recipe.resolve(), load(recipe).model.members
    return (SHORT, 1) if minutes <= SHORT_MINUTES else (LONG, max(1, round(minutes / MEMBER_MINUTES)))


def measured(recipe: Path, members: int, minutes: float, runs: Path) -> dict[str, Any]:
    """Train for so many minutes and evaluate, by the commands."""
    name = f"minutes_{minutes:g}"
    limits = ["--training.minutes", str(minutes), "--training.epochs", "0", "--model.members", str(members)]
    _command("train", str(recipe), "--name", name, "--runs", str(runs), *limits)
    _command("evaluate", name, "--runs", str(runs), "--samples", "0")
    metrics = atomic.read_json(runs / name / "metrics.json")
    return {
        "recipe": recipe.name,
        "members": members,
        "minutes": minutes,
        "minutes_taken": metrics["minutes"],
        "epochs": metrics["epochs"],
        "tokens_per_second": metrics["tokens_per_second"],
        "loss": atomic.read_json(runs / name / "evaluation.json")["loss"],
        "history": atomic.read_json(runs / name / "history.json"),
    }


def _command(*words: str) -> None:
    subprocess.run([*COMMAND, *words], check=True, cwd=ROOT)


def table(results: Sequence[Mapping[str, Any]]) -> Table:
    """A row a run."""
    losses = [loss for loss in results[0]["loss"] if "nats" in loss or "character" in loss]
    columns = [
        "recipe",
        "members",
        "minutes",
        "minutes taken",
        "epochs",
        "tokens/s",
        *(loss.replace("_", " ") for loss in losses),
    ]
    rows = [
        [
            run["recipe"],
            str(run["members"]),
            f"{run['minutes']:g}",
            f"{run['minutes_taken']:.2f}",
            f"{run['epochs']:.1f}",
            f"{run['tokens_per_second']:,.0f}",
            *(f"{run['loss'][loss]:.4f}" for loss in losses),
        ]
        for run in results
    ]
    return Table("Tiny Shakespeare: loss of the held-out text after so many minutes", columns, rows)


def seconds_until(history: Sequence[Mapping[str, Any]], nats: float) -> float | None:
    """Seconds of training before the held-out text first had a loss of at most so many nats; None where it never had.

    Of ``history``, a row an epoch: what lies between two validations is not seen.
    """
    return next((row["seconds"] for row in history if row["val_loss"] <= nats), None)


def until_table(results: Sequence[Mapping[str, Any]], nats: float) -> Table:
    """When each run was so good; one that has more minutes has a higher rate for longer, and is so later."""
    rows = []
    for run in results:
        seconds = seconds_until(run["history"], nats)
        told = "never" if seconds is None else f"{seconds:.0f}"
        rows.append([run["recipe"], str(run["members"]), f"{run['minutes']:g}", told])
    return Table(f"Seconds to {nats:g} nats per token", ("recipe", "members", "minutes", "seconds"), rows)


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw where each run ended, and how it came there."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for run in results:
        minutes = [row["seconds"] / 60 for row in run["history"]]
        losses = [row["val_loss"] for row in run["history"]]
        axes.plot(minutes, losses, linewidth=1, alpha=0.6, label=f"{run['minutes']:g} minutes, epoch by epoch")
    ends = [(run["minutes_taken"], run["loss"]["nats_per_token"]) for run in results]
    axes.plot(*zip(*ends, strict=True), "ko--", linewidth=1, label="best of each run")
    for minutes, nats in ends:
        axes.annotate(f"{nats:.3f}", (minutes, nats), textcoords="offset points", xytext=(0, 8), ha="center")
    axes.set(xscale="log", xlabel="minutes of training", ylabel="nats per token", title="Quality against time")
    axes.set_xticks([run["minutes"] for run in results], [f"{run['minutes']:g}" for run in results])
    axes.minorticks_off()
    axes.set_ylim(top=max(nats for _, nats in ends) + 0.2)  # how each began says nothing
    axes.legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
