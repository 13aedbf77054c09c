"""Draw plots as PNG files: the loss curve of a training, and the activations of a layer at each token."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.cells import cell_len

from keras_lstmgen.files import atomic

DPI = 120  # dots per inch
TOKEN, UNIT, MARGIN = 0.17, 0.17, 1.6  # inches: width of a column, height of a row, space around the grid
MIN_WIDTH = 6.0  # minimum width of a plot in inches, so that the title fits
MIN_HEIGHT = 2.5  # minimum height of a plot in inches
COLUMNS, LINES = 72, 14  # maximum width and height of a coloured text, in characters
SCALE_QUANTILE = 0.98  # absolute values above this quantile have the darkest colour
MAX_NAMED = 10  # maximum number of missing characters that a message lists
# The Unicode name of a Chinese, Japanese or Korean character begins with one of these words.
HAN = ("CJK ", "HIRAGANA ", "KATAKANA", "HANGUL ", "BOPOMOFO ", "IDEOGRAPHIC ", "FULLWIDTH ", "HALFWIDTH ")


class TokenAxis(NamedTuple):
    """The N tokens along an axis of a plot."""

    labels: Sequence[str]  # a label for each of the N tokens
    first_generated: int  # index of the first generated token, N if no token is generated


def loss_curve(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Draw the training loss and the validation loss over time.

    Args:
        path: output file.
        history: one row per epoch with the keys ``seconds`` (since the start), ``loss`` and ``val_loss`` (nats per
            token).
    """
    with _axes(path, 7, 4) as axes:
        minutes = [row["seconds"] / 60 for row in history]
        axes.plot(minutes, [row["loss"] for row in history], "o-", label="training (with dropout)")
        axes.plot(minutes, [row["val_loss"] for row in history], "o-", label="validation")
        axes.set(xlabel="minutes", ylabel="nats per token", title="Loss after each epoch")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)


def unit_heatmap(path: Path, title: str, values: Any, tokens: TokenAxis, units: Sequence[int], signed: bool) -> None:
    """Draw the values of LSTM units as a heat map, with a column for each token and a row for each unit.

    Args:
        path: output file.
        title: title of the plot.
        values: float array of shape [N, U], values of U units at N tokens.
        tokens: the N tokens.
        units: the numbers of the U units. They are the labels of the rows.
        signed: whether values may be negative or larger than 1. If true, the colour of 0 is white. If false, all values
            are between 0 and 1.
    """
    with _grid(path, title, tokens, [str(unit) for unit in units]) as axes:
        if signed:
            image = _signed_image(axes, values.T)
        else:
            image = axes.imshow(values.T, aspect="auto", cmap="viridis", vmin=0, vmax=1)
        axes.set_ylabel("unit")
        axes.figure.colorbar(image, ax=axes, pad=0.01, extend="both" if signed else "neither")


def next_tokens(
    path: Path, tokens: TokenAxis, candidates: Sequence[Sequence[tuple[str, float]]], actual_ranks: Sequence[int]
) -> None:
    """Draw a table of the most likely next tokens after each token. Darker cells have a higher probability.

    Args:
        path: output file.
        tokens: the N tokens.
        candidates: N lists, one for each token. Each list contains K pairs (label, probability) in order of decreasing
            probability.
        actual_ranks: N indices, one for each token: the index of the actual next token among the K candidates, or -1 if
            the candidates do not contain the actual next token. The cell of the actual next token gets a frame.
    """
    ranks = [str(rank) for rank in range(1, len(candidates[0]) + 1)]
    probabilities = np.array([[probability for _, probability in row] for row in candidates])
    labels = [label for row in candidates for label, _ in row]
    with _grid(path, "most likely next tokens (frame: actual next token)", tokens, ranks, labels) as axes:
        image = axes.imshow(probabilities.T, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        for t, row in enumerate(candidates):
            for rank, (label, probability) in enumerate(row):
                _draw_label(axes, (t, rank), drawable(label), "white" if probability > 0.6 else "black")
        for t, rank in enumerate(actual_ranks):
            if rank >= 0:
                axes.add_patch(_frame(t - 0.5, rank - 0.5))
        axes.set_ylabel("rank")
        axes.figure.colorbar(image, ax=axes, pad=0.01)


def attention_weights(path: Path, weights: Any, tokens: TokenAxis) -> None:
    """Draw attention weights as a heat map.

    Args:
        path: output file.
        weights: float array of shape [N, N]; element [i, j] is the weight with which token i attends to token j.
        tokens: the N tokens.
    """
    with _grid(path, "attention weights", tokens, tokens.labels) as axes:
        image = axes.imshow(weights, aspect="auto", cmap="magma_r", vmin=0)
        axes.set(xlabel="attended token", ylabel="attending token")
        axes.figure.colorbar(image, ax=axes, pad=0.01)


def coloured_text(path: Path, title: str, parts: Sequence[str], values: Any) -> None:
    """Draw the first lines of a text. The background colour of each character shows the value of an LSTM cell.

    Args:
        path: output file.
        title: title of the plot.
        parts: the text of each of N tokens.
        values: float array of shape [N], value of the cell after each token.
    """
    rows = _lines(parts, values)
    grid = np.full((len(rows), COLUMNS), np.nan)
    for row, line in enumerate(rows):
        grid[row, : len(line)] = [value for _, value in line]
    text = "".join(character for line in rows for character, _ in line)
    with _axes(path, COLUMNS * TOKEN / 1.3 + 1, len(rows) * UNIT * 1.2 + 0.8, text=text) as axes:
        image = _signed_image(axes, grid)
        for row, line in enumerate(rows):
            for column, (character, value) in enumerate(line):
                colour = "white" if abs(value) > 0.8 * image.norm.vmax else "black"
                axes.text(column, row, drawable(character), ha="center", va="center", color=colour, fontsize=8)
        axes.set_axis_off()
        axes.set_title(title, fontsize=10)
        axes.figure.colorbar(image, ax=axes, pad=0.01, extend="both")


def _lines(parts: Sequence[str], values: Any) -> list[list[tuple[str, float]]]:
    """Split a text into at most ``LINES`` lines with at most ``COLUMNS`` characters each.

    Args:
        parts: the text of each of N tokens.
        values: float array of shape [N], value of each token.

    Returns:
        The lines. Each line is a list with a pair (character, value of its token) for each character.
    """
    lines: list[list[tuple[str, float]]] = [[]]
    for part, value in zip(parts, values, strict=True):
        for character in part:
            if len(lines[-1]) == COLUMNS or (lines[-1] and lines[-1][-1][0] == "↵"):
                lines.append([])
            if len(lines) > LINES:
                return lines[:LINES]
            lines[-1].append(("↵" if character == "\n" else character, float(value)))
    return lines


def _signed_image(axes: Any, values: Any) -> Any:
    """Draw an array of signed values as an image, with 0 in the middle of the colour scale."""
    # A few values can be much larger than all others. If the scale included them, all other values would look pale.
    limit = max(float(np.nanquantile(np.abs(values), SCALE_QUANTILE)), 1e-6)
    return axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit)


def _draw_label(axes: Any, position: tuple[int, int], label: str, colour: str) -> None:
    """Draw a label in the middle of the cell at ``position`` (column, row)."""
    axes.text(*position, label, ha="center", va="center", color=colour, fontsize=_fitting_size(label))


def _frame(x: float, y: float) -> Any:
    """Return a red frame for the cell whose corner is at the data coordinates ``x`` and ``y``."""
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, fill=False, edgecolor="tab:red", linewidth=1)


@contextmanager
def _grid(
    path: Path, title: str, tokens: TokenAxis, rows: Sequence[str], inner_labels: Iterable[str] = ()
) -> Iterator[Any]:
    """Yield axes with a labelled column for each token and a labelled row for each string of ``rows``.

    Args:
        path: output file.
        title: title of the plot.
        tokens: the tokens. They are the labels of the columns.
        rows: labels of the rows.
        inner_labels: labels that the caller will draw in the grid. The fonts contain the characters of these labels.
    """
    columns = tokens.labels
    inches = max(len(columns) * TOKEN + MARGIN, MIN_WIDTH), max(len(rows) * UNIT + MARGIN, MIN_HEIGHT)
    with _axes(path, *inches, text="".join([*columns, *rows, *inner_labels])) as axes:
        yield axes
        is_vertical = any(len(label) > 1 for label in columns)
        axes.set_xticks(range(len(columns)), [drawable(label) for label in columns], rotation=90 if is_vertical else 0)
        axes.set_yticks(range(len(rows)), [drawable(label) for label in rows])
        axes.tick_params(length=0, labelsize=8)
        axes.set_title(title, fontsize=10)
        if 0 < tokens.first_generated < len(columns):
            axes.axvline(tokens.first_generated - 0.5, color="tab:red", linewidth=1)


@contextmanager
def _axes(path: Path, width: float, height: float, text: str = "") -> Iterator[Any]:
    """Yield axes whose fonts contain the characters of ``text``, and save the figure when the block ends.

    Args:
        path: output file; it is replaced atomically.
        width: width in inches.
        height: height in inches.
        text: all text that will be drawn.
    """
    import matplotlib
    from matplotlib.figure import Figure  # imported here because the import is slow and few commands draw plots

    # Without text.parse_math, Matplotlib would read text between dollar signs as a formula.
    with matplotlib.rc_context({"font.family": fonts(text), "text.parse_math": False}):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure.add_subplot()
        with atomic.replacing(path) as temporary:
            figure.savefig(temporary)


def _fitting_size(label: str) -> float:
    """Return the largest font size with which a label fits into a column, but at most 8 points."""
    return min(8.0, TOKEN * 72 * 1.4 / max(1, cell_len(label)))  # cell_len counts 2 for a Chinese character


def drawable(label: str) -> str:
    """Replace each character that no installed font contains by an escape sequence.

    Without a Chinese font, ``"床"`` becomes ``"\\u5e8a"``.
    """
    return "".join(_escaped(character) if _font_of(character) is None else character for character in label)


def missing_characters(text: str) -> str:
    """If installed fonts do not contain all characters of a text, return a message that lists the missing ones.

    Returns:
        The message, or "" if no character is missing.
    """
    missing = [character for character in dict.fromkeys(text) if character.isprintable() and not _font_of(character)]
    if not missing:
        return ""
    more = f" and {len(missing) - MAX_NAMED:,} more" if len(missing) > MAX_NAMED else ""
    recommended = dict.fromkeys(map(_recommended_font, missing))
    return (
        f"no installed font contains {' '.join(missing[:MAX_NAMED])}{more}: the pictures show codes such as "
        f"{_escaped(missing[0])} instead; install {' and '.join(recommended)}, and run 'inspect' again"
    )


def _recommended_font(character: str) -> str:
    """Return the name of a free font that contains a character, and the name of its package on Debian and Ubuntu."""
    if unicodedata.name(character, "").startswith(HAN):
        return "Noto Sans CJK (the package fonts-noto-cjk)"
    if unicodedata.category(character).startswith("S"):
        return "Symbola (the package fonts-symbola)"
    return "Noto Sans of its script (the package fonts-noto-core)"


def _escaped(character: str) -> str:
    """Return the Python escape sequence of a character."""
    return character.encode("ascii", "backslashreplace").decode() if ord(character) > 127 else repr(character)[1:-1]


def fonts(text: str) -> list[str]:
    """Return the font families for a text: DejaVu Sans, and fonts for the characters that DejaVu Sans does not contain.

    Returns:
        Family names in the order in which Matplotlib tries them.
    """
    families = (_font_of(character) for character in dict.fromkeys(text))
    return list(dict.fromkeys(["DejaVu Sans", *filter(None, families)]))


@cache
def _font_of(character: str) -> str | None:
    """Return the first font family that contains a character.

    Returns:
        The name of the family; None if no installed font contains the character, or if the character is not printable.
    """
    if not character.isprintable():
        return None
    return next((name for name, font in _faces() if font.get_char_index(ord(character))), None)


@cache
def _faces() -> list[tuple[str, Any]]:
    """Return all scalable fonts as pairs (family name, font face), with DejaVu Sans first."""
    from matplotlib.font_manager import get_font

    faces = []
    for entry in _font_entries():
        try:
            face = get_font(entry.fname)
        except (OSError, RuntimeError):  # the font was removed after Matplotlib listed it, or its type is not supported
            continue
        if face.scalable:
            faces.append((entry.name, face))
    return faces


def _font_entries() -> list[Any]:
    """Return Matplotlib's list entries for DejaVu Sans and for the fonts of the operating system.

    The other fonts of Matplotlib are omitted, because they are meant for formulas.
    """
    import matplotlib
    from matplotlib.font_manager import findSystemFonts, fontManager

    for path in sorted({*map(str, findSystemFonts())} - {entry.fname for entry in fontManager.ttflist}):
        with suppress(OSError, RuntimeError):  # the type of the font is not supported
            fontManager.addfont(path)  # Matplotlib stores its list on disk; this font was installed later
    own = matplotlib.get_data_path()
    first = [entry for entry in fontManager.ttflist if entry.fname.startswith(own) and entry.name == "DejaVu Sans"]
    others = [entry for entry in fontManager.ttflist if not entry.fname.startswith(own)]
    return [*first, *sorted(others, key=lambda entry: (entry.name, entry.fname))]
