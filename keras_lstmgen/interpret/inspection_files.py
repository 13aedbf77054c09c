"""Write the pictures and the HTML page of an inspection."""

from collections.abc import Iterable
from pathlib import Path

from keras_lstmgen.files import atomic
from keras_lstmgen.interpret import activations, html_page, probes
from keras_lstmgen.interpret.inspect_run import MAX_EXCERPT_TOKENS, Inspection, ProbedText, WatchedText, most_variable
from keras_lstmgen.reporting import plots

MAX_DRAWN_UNITS = 32  # maximum number of units in a picture


def write(inspection: Inspection, folder: Path) -> None:
    """Write all pictures and ``text.html`` into a folder, without changing other files in the folder.

    Args:
        inspection: the inspection.
        folder: output folder. It is created if necessary.

    Raises:
        UserError: if a file cannot be written.
    """
    watched = inspection.watched
    tokens = plots.TokenAxis(watched.labels, watched.first_generated)
    _draw_gates(inspection, tokens, folder)
    if watched.trace.attention_weights is not None:
        plots.attention_weights(folder / "attention.png", watched.trace.attention_weights, tokens)
    plots.next_tokens(folder / "next.png", tokens, inspection.next_tokens, inspection.actual_ranks)
    title, passages = f"Cell {inspection.cell} of {inspection.layer}", _passages(inspection)
    plots.coloured_text(folder / "text.png", title, passages[1].parts, passages[1].values)
    about = _description(inspection.probed, inspection.cell)
    atomic.write_text(folder / "text.html", html_page.page(title, about, passages))


def missing_characters(inspection: Inspection) -> str:
    """Return a message if the pictures contain characters that no installed font has; otherwise, an empty string."""
    labels = [label for row in inspection.next_tokens for label, _ in row]
    text = "".join(_passages(inspection)[1].parts)[: plots.COLUMNS * plots.LINES]
    return plots.missing_characters("".join([*inspection.watched.labels, *labels, text]))


def _draw_gates(inspection: Inspection, tokens: plots.TokenAxis, folder: Path) -> None:
    """Draw a heat map of each gate and of the cell states."""
    trace, layer = inspection.watched.trace, inspection.layer
    units = _drawn_units(trace, [inspection.cell, *(finding.cell for finding in inspection.probed.findings)])
    for gate in ("forget", "input", "output"):
        title, values = f"{layer}, {gate} gate: 0 closed, 1 open", getattr(trace, gate)[:, units]
        plots.unit_heatmap(folder / f"{gate}.png", title, values, tokens, units, signed=False)
    plots.unit_heatmap(folder / "cell.png", f"{layer}, cell", trace.cells[:, units], tokens, units, signed=True)


def _drawn_units(trace: activations.Trace, named: Iterable[int]) -> list[int]:
    """Select at most ``MAX_DRAWN_UNITS`` units: the units in ``named``, and then the most variable of the other units.

    Args:
        trace: the activations.
        named: indices of units to select first.

    Returns:
        Indices of the units, sorted by decreasing mean of the forget gate.
    """
    units = list(dict.fromkeys([*named, *most_variable(trace.cells)]))[:MAX_DRAWN_UNITS]
    return sorted(units, key=lambda unit: -float(trace.forget[:, unit].mean()))


def _passages(inspection: Inspection) -> list[html_page.Passage]:
    """Return the two passages of the HTML page.

    The first passage is the prompt with its continuation. The second passage begins in the middle of the text in
    which features were searched, because the first half of this text was used to select the cells.
    """
    watched, probed, cell = inspection.watched, inspection.probed, inspection.cell
    middle = len(probed.parts) // 2
    excerpt = slice(middle, middle + MAX_EXCERPT_TOKENS)
    return [
        html_page.Passage(_heading(watched), watched.parts, watched.cells[:, cell]),
        html_page.Passage(f"From {probed.name}", probed.parts[excerpt], probed.cells[excerpt, cell]),
    ]


def _heading(watched: WatchedText) -> str:
    """Return the heading of the passage with the prompt."""
    if len(watched.ids) < MAX_EXCERPT_TOKENS:
        return "The prompt and its continuation"
    return f"The last {MAX_EXCERPT_TOKENS:,} tokens of the prompt and its continuation"


def _description(probed: ProbedText, cell: int) -> str:
    """Return a description of the features that a cell follows."""
    features = [_finding(finding) for finding in probed.findings if finding.cell == cell]
    return "; ".join(features) or "This cell is not the best cell of any feature."


def _finding(finding: probes.Finding) -> str:
    """Describe a finding: the feature, the score, the score of a constant guess, and the chance score."""
    return (
        f"{finding.feature}: {finding.measure} {finding.score:.3f} on the half of the text that was not used to select "
        f"the cell (constant guess {finding.constant_score:g}, chance {finding.chance_score:.3f})"
    )
