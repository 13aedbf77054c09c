"""Run the verb ``info``: describe a run or this machine, or list all runs."""

import argparse
import importlib.metadata
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keras_lstmgen.cli import console
from keras_lstmgen.cli.verbs.run_arguments import find_run
from keras_lstmgen.files import atomic
from keras_lstmgen.layers import compute_dtype, lstm, native_ops
from keras_lstmgen.models import run_directory
from keras_lstmgen.system import cpu
from keras_lstmgen.utils.errors import UserError

DAMAGE = (AttributeError, KeyError, TypeError, ValueError)  # exceptions if the content of a JSON file is damaged


def run(arguments: argparse.Namespace) -> None:
    """Print the recipe, the model and the artifacts of a run. If no run is given, print a table of all runs."""
    if arguments.system:
        _describe_system()
        return
    if arguments.run is None:
        _list_runs(arguments.runs)
        next_words = ("info", run_directory.find(None, arguments.runs))
    else:
        folder = find_run(arguments.run, arguments.runs)
        _describe(folder, asdict(run_directory.load_metadata(folder)))
        next_words = ("generate", folder)
    if native_ops.library() is None and not compute_dtype.has_gpu():
        _print_kernel()
    console.next_command("keras-lstmgen", *next_words)


def _describe_system() -> None:
    """Print the versions, the number of cores and the kernel that trains LSTM layers, each in one line."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("keras_lstmgen", "tensorflow", "keras"))
    console.out.print(f"{', '.join(versions)}, Python {platform.python_version()}", markup=False, soft_wrap=True)
    console.out.print(f"{platform.system()} {platform.machine()}, {cpu.available()} cores", markup=False)
    _print_kernel()


def _print_kernel() -> None:
    """Print the kernel in use and why."""
    console.out.print(f"LSTM kernel: {lstm.kernel_description()}", markup=False, soft_wrap=True)


def _list_runs(parent: Path) -> None:
    """Print a table with a row for each run in a folder."""
    rows = [_summary(path.parent) for path in sorted(parent.glob("*/recipe.toml"))]
    console.table(f"runs in {parent}", ("run", "nats per token", "minutes", "artifacts"), rows)


def _summary(folder: Path) -> tuple[str, str, str, str]:
    """Return the row of a run in the table. If the run is damaged, return a row too, so that the table is complete."""
    try:
        atomic.check_inside(folder)
        artifacts = ", ".join(_proofs(folder)) or "none"
        metrics = _read(folder / "metrics.json")
        if not metrics:
            return folder.name, _without_metrics(folder), "", artifacts
        return folder.name, f"{metrics['validation']['nats_per_token']:.3f}", f"{metrics['minutes']:.1f}", artifacts
    except (UserError, *DAMAGE):
        return folder.name, "damaged", "", ""


def _without_metrics(folder: Path) -> str:
    """Return why a run has no metrics: it is unfinished, or ``export_model`` has written it."""
    is_whole = (folder / run_directory.MODEL).is_file() and not (folder / run_directory.CHECKPOINT).is_file()
    return "not measured" if is_whole else "unfinished"


def _describe(folder: Path, metadata: dict[str, Any]) -> None:
    """Print the recipe, the sizes and losses, and the artifacts of a run.

    Args:
        folder: folder of the run.
        metadata: metadata of the run.
    """
    try:
        values, artifacts = _model_rows(metadata), _artifact_rows(folder)
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(
            f"{folder}: the metrics or export.json of the run are damaged ({error}); copy the whole folder of the run "
            "again"
        ) from error
    console.table(f"{folder}: recipe", ("field", "value"), _recipe_rows(metadata["recipe"]))
    console.table(f"{folder}: model", ("property", "value"), values)
    console.table(f"{folder}: artifacts", ("artifact", "path", "bytes", "texts identical"), artifacts)


def _recipe_rows(tables: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Return a row for each recipe field: dotted name and value."""
    return [
        (f"{section}.{key}", ", ".join(value) if isinstance(value, list) else str(value))
        for section, values in tables.items()
        for key, value in values.items()
    ]


def _model_rows(metadata: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return a row for each size and each loss of the model: name and value."""
    sizes = [(key.replace("_", " "), metadata[key]) for key in ("vocab_size", "state_size", "start_id", "end_id")]
    measured = metadata["metrics"].get("validation", {}).items()
    return sizes + [(key.replace("_", " "), f"{value:,.4f}") for key, value in measured]


def _artifact_rows(folder: Path) -> list[tuple[str, ...]]:
    """Return a row for each artifact: name, path, size in bytes, and number of identical texts."""
    return [
        (name, proof["path"], f"{proof['bytes']:,}", f"{proof['identical']} of {proof['tried']}")
        for name, proof in _proofs(folder).items()
    ]


def _proofs(folder: Path) -> dict[str, Any]:
    """Return the entries of ``export.json`` by name of artifact; omit artifacts whose file is missing."""
    entries = _read(folder / "export.json").get("artifacts", {}).items()
    return {name: entry for name, entry in entries if entry["path"] and (folder / entry["path"]).exists()}


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; an empty dictionary if the file does not exist."""
    return dict(atomic.read_json(path)) if path.is_file() else {}
