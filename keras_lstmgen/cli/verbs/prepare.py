"""Run the verb ``prepare``: tokenize a large corpus in parallel with Apache Beam."""

import argparse
import time
from types import ModuleType
from typing import Any

from keras_lstmgen.cli import console
from keras_lstmgen.cli.checks.recipe_arguments import note_skipped_files, recipe_and_name, recipe_values
from keras_lstmgen.files import remote
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.utils.errors import UserError


def run(arguments: argparse.Namespace) -> None:
    """Write the token ids of a corpus to a folder, and print the counts of documents and tokens."""
    settings, _ = recipe_and_name(arguments.source, recipe_values(arguments))
    with captured_stderr():
        pipeline = _import_pipeline()
    note_skipped_files(settings.corpus)
    began = time.perf_counter()
    with console.out.status("reading the corpus") as status:
        manifest = pipeline.prepare(settings, arguments.output, arguments.beam, status.update)
    _print_counts(arguments.output, manifest, time.perf_counter() - began)
    folder = arguments.output
    if remote.is_address(folder):
        folder = folder.rstrip("/").rpartition("/")[2]
        console.out.print(f"Training reads a local folder: copy the corpus to {folder} first.", markup=False)
    console.next_command("keras-lstmgen", "train", folder)


def _import_pipeline() -> ModuleType:
    """Import the Beam pipeline; raise UserError if Apache Beam is not installed."""
    try:
        from keras_lstmgen.preparation import pipeline
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "apache_beam":
            raise
        raise UserError("prepare: needs Apache Beam; pip install 'keras_lstmgen[beam]'") from error
    return pipeline


def _print_counts(folder: str, manifest: dict[str, Any], seconds: float) -> None:
    """Print the counts of each split as a table.

    Args:
        folder: folder of the prepared corpus; the title contains its path.
        manifest: content of ``prepared.json``.
        seconds: duration of the preparation in seconds.
    """
    splits = manifest["counts"]
    rows = [(name, *(f"{splits[split][name]:,}" for split in splits)) for name in splits["train"]]
    rows.append(("shards", *(f"{len(manifest['shards'][split]):,}" for split in splits)))
    console.table(f"{folder}: prepared in {seconds:.1f} s", ("count", *splits), rows)
