"""Run the verb ``evaluate``: measure the loss and other metrics of a run on held-out text."""

import argparse
import json

from keras_lstmgen.cli import console
from keras_lstmgen.cli.checks.recipe_arguments import recipe_values
from keras_lstmgen.cli.display import evaluation_report
from keras_lstmgen.cli.verbs.run_arguments import find_run, note_reserved_names
from keras_lstmgen.config import effects, recipe
from keras_lstmgen.data import sources
from keras_lstmgen.evaluation.report import evaluate
from keras_lstmgen.files import atomic
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import check_range


def run(arguments: argparse.Namespace) -> None:
    """Evaluate a run, print tables or JSON, and write ``evaluation.json``."""
    check_range("--samples", arguments.samples, 0)
    check_range("--sample-tokens", arguments.sample_tokens, 1)
    folder = find_run(arguments.run, arguments.runs)
    model = run_directory.load(folder)
    settings = recipe.override(model.recipe, recipe_values(arguments), "--")
    effects.check(settings, recipe_values(arguments), "--")
    effects.check_samples(arguments, settings.evaluate)
    note_reserved_names(arguments.text)
    console.left_out(sources.left_out(arguments.text))
    report = evaluate(model, arguments.text, arguments.samples, arguments.sample_tokens, settings.evaluate)
    if arguments.json:
        print(json.dumps(report, indent=2, ensure_ascii=False), flush=True)
    else:
        evaluation_report.show(folder, report)
    # The file is written last, so that the user sees the report even if the file cannot be written.
    atomic.write_json(folder / "evaluation.json", report)
    show_next = console.next_beside if arguments.json else console.next_command
    show_next("keras-lstmgen", "export", folder)
