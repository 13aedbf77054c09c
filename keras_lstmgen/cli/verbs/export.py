"""Run the verb ``export``: write artifacts of a run, and compare the artifacts with Keras."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from keras_lstmgen.cli import console
from keras_lstmgen.cli.verbs.run_arguments import find_run
from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import export_run
from keras_lstmgen.exporters.export_run import Exported
from keras_lstmgen.models import run_directory


def run(arguments: argparse.Namespace) -> None:
    """Export a run, and print how each artifact differs from Keras."""
    folder = find_run(arguments.run, arguments.runs)
    settings = recipe.parse(run_directory.load_metadata(folder).recipe)
    options = {f"export.{name}": getattr(arguments, name) for name in ("formats", "texts", "tokens")}
    given = {name: value for name, value in options.items() if value is not None}
    settings = recipe.override(settings, given, "--")
    export_run.hide_gpus()
    try:
        print_results(folder, export_run.export(folder, settings.export).values())
    except export_run.ExportError as error:
        print_results(folder, error.results.values())
        raise
    console.next_command("keras-lstmgen", "info", folder)


def print_results(folder: Path, results: Iterable[Exported]) -> None:
    """Print a table of the artifacts. If an artifact has rounded weights, also print how much its loss may rise.

    Args:
        folder: folder of the run.
        results: the exported artifacts.
    """
    columns = ("format", "file", "size", "largest logit difference", "loss", "texts identical", "tokens/s")
    console.table(f"{folder}: artifacts compared with Keras", columns, [_row(result) for result in results])
    for result in results:
        if result.max_loss_increase is not None:
            console.out.print(
                f"{result.title} does not generate the same texts as Keras. Its loss exceeds the loss of Keras by less "
                f"than {result.max_loss_increase:g} nats per token, and the same seed always gives the same text."
            )


def _row(result: Exported) -> tuple[str, ...]:
    """Return the row of the table for an artifact."""
    proof = result.proof
    return (
        result.title,
        "discarded" if result.path is None else str(result.path),
        "" if result.path is None else f"{result.size / 1e6:.2f} MB",
        "not finite" if proof.difference is None else f"{proof.difference:.1e}",
        "" if proof.loss_difference is None else f"{proof.loss_difference:+.4f} nats",
        f"{proof.identical} of {proof.tried}",
        f"{proof.tokens_per_second:,.0f}",
    )
