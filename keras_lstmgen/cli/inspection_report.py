"""Inspect a run, print the results as tables, and write the pictures."""

from collections.abc import Sequence
from pathlib import Path

from keras_lstmgen.cli import console
from keras_lstmgen.interpret import inspect_run, inspection_files, probes
from keras_lstmgen.models.run_directory import Run

UNSPACED = (
    "Most letters of this text belong to a script without spaces between words. "
    "Features of words are measured only on the other letters."
)
UNITS = "The pictures show the units of the table and the units that vary most, sorted by the mean of the forget gate."


def inspect(run: Run, options: inspect_run.InspectOptions, output: Path) -> None:
    """Inspect a run, print tables, and write pictures.

    The tables are printed first, so that the user sees them even if a picture cannot be written.

    Args:
        run: the run.
        options: the text, the layer and the cell to inspect, and sampling options.
        output: folder for the pictures.

    Raises:
        UserError: an option is out of range, or a file cannot be read or written.
    """
    inspection = inspect_run.inspect(run, options)
    _show_next_tokens(inspection.watched.labels, inspection.next_tokens)
    if inspection.members > 1:
        console.out.print(
            "Gates, cells and attention weights are those of the first member of the ensemble. Probabilities are those "
            "of the whole ensemble."
        )
    _show_findings(inspection.probed, inspection.layer)
    inspection_files.write(inspection, output)
    if missing := inspection_files.missing_characters(inspection):
        console.out.print(missing, markup=False)
    console.out.print(UNITS)
    files = f"pictures, and text coloured by cell {inspection.cell} (text.html, text.png): {output}"
    console.out.print(files, markup=False)


def _show_next_tokens(labels: Sequence[str], next_tokens: Sequence[inspect_run.NextTokens]) -> None:
    """Print the most likely next tokens and their probabilities after each token of the text."""
    rows = [
        (label, *(f"{token} {probability:.0%}" for token, probability in row))
        for label, row in zip(labels, next_tokens, strict=True)
    ]
    console.table("likeliest next tokens", ("after", *map(str, range(1, len(next_tokens[0]) + 1))), rows)


def _show_findings(probed: inspect_run.ProbedText, layer: str) -> None:
    """Print the cells that follow a feature of the text, and the features that are too rare to measure."""
    title = f"cells of {layer} that follow a feature of the text, on {probed.name}: {len(probed.parts):,} tokens"
    rows = [
        (f.feature, f.measure, f.cell, f"{f.score:.3f}", f"{f.constant_score:.3f}", f"{f.chance_score:.3f}")
        for f in probed.findings
    ]
    console.table(title, ("feature", "measure", "cell", "second half", "constant guess", "chance"), rows)
    if probed.rare:
        console.out.print(f"Features that are too rare in this text to measure: {', '.join(probed.rare)}", markup=False)
    if probes.unspaced_share(probed.parts) > 0.5:
        console.out.print(UNSPACED)
