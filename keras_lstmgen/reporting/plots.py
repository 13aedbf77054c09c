"""What is drawn, as PNG: the losses of a training, and a layer at work, token by token."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.cells import cell_len

from keras_lstmgen.files import atomic

SIZE = 120  # dots an inch
TOKEN, UNIT, MARGIN = 0.17, 0.17, 1.6  # inches that a column takes, a row, and what stands around them
NARROWEST = 6.0  # inches, so that a title has room
COLUMNS, LINES = 72, 14  # characters of a drawn text
NAMED = 10  # missing characters that are named, at most
# How the names of characters begin that the fonts of Chinese, Japanese and Korean have.
HAN = ("CJK ", "HIRAGANA ", "KATAKANA", "HANGUL ", "BOPOMOFO ", "IDEOGRAPHIC ", "FULLWIDTH ", "HALFWIDTH ")


def curve(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Draw training and validation loss against minutes."""
    with _axes(path, 7, 4) as axes:
        minutes = [row["seconds"] / 60 for row in history]
        axes.plot(minutes, [row["loss"] for row in history], "o-", label="training (with dropout)")
        axes.plot(minutes, [row["val_loss"] for row in history], "o-", label="validation")
        axes.set(xlabel="minutes", ylabel="nats per token", title="Loss after each epoch")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)


def heat(
    path: Path, title: str, values: Any, tokens: Sequence[str], units: Sequence[int], signed: bool, written: int
) -> None:
    """Draw what units do over tokens.

    Args:
        path: of the PNG.
        title: above it.
        values: float [N, U], of U units at N tokens: from 0 to 1, or if ``signed`` of any size, 0 in the middle.
        tokens: N labels.
        units: numbers of the U units.
        signed: see ``values``.
        written: from which token on the model wrote itself; N if all was given.
    """
    with _grid(path, title, tokens, [str(unit) for unit in units], written) as axes:
        shares = {"aspect": "auto", "cmap": "viridis", "vmin": 0, "vmax": 1}
        image = _signed(axes, values.T) if signed else axes.imshow(values.T, **shares)
        axes.set_ylabel("unit")
        axes.figure.colorbar(image, ax=axes, pad=0.01, extend="both" if signed else "neither")


def candidates(
    path: Path, tokens: Sequence[str], rows: Sequence[Sequence[tuple[str, float]]], came: Sequence[int], written: int
) -> None:
    """Draw the likeliest next tokens after each of N tokens, darker for likelier.

    ``rows`` holds the K candidates of each token, (label, probability), likeliest first; ``came`` which of them came
    next, which is framed, or -1 for none of them.
    """
    ranks = [str(rank) for rank in range(1, len(rows[0]) + 1)]
    probabilities = np.array([[probability for _, probability in row] for row in rows])
    labels = [label for row in rows for label, _ in row]
    with _grid(path, "likeliest next token (framed: the one that came)", tokens, ranks, written, labels) as axes:
        image = axes.imshow(probabilities.T, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        for t, row in enumerate(rows):
            for rank, (label, probability) in enumerate(row):
                colour = "white" if probability > 0.6 else "black"
                axes.text(
                    t, rank, drawable(label), ha="center", va="center", color=colour, fontsize=_fitting(drawable(label))
                )
        for t, rank in enumerate(came):
            if rank >= 0:
                axes.add_patch(_frame(t - 0.5, rank - 0.5))
        axes.set_ylabel("rank")
        axes.figure.colorbar(image, ax=axes, pad=0.01)


def looks(path: Path, shares: Any, tokens: Sequence[str], written: int) -> None:
    """Draw where the attention looked: float [N, N], at each token (a row) the share of each token looked at."""
    with _grid(path, "where each token looks", tokens, tokens, written) as axes:
        image = axes.imshow(shares, aspect="auto", cmap="magma_r", vmin=0)
        axes.set(xlabel="token that is looked at", ylabel="token that looks")
        axes.figure.colorbar(image, ax=axes, pad=0.01)


def coloured(path: Path, title: str, parts: Sequence[str], values: Any) -> None:
    """Draw the first lines of a text, the text of each of N tokens, on the colours of a cell, float [N]."""
    rows = _lines(parts, values)
    grid = np.full((len(rows), COLUMNS), np.nan)
    for row, line in enumerate(rows):
        grid[row, : len(line)] = [value for _, value in line]
    text = "".join(character for line in rows for character, _ in line)
    with _axes(path, COLUMNS * TOKEN / 1.3 + 1, len(rows) * UNIT * 1.2 + 0.8, text=text) as axes:
        image = _signed(axes, grid)
        for row, line in enumerate(rows):
            for column, (character, value) in enumerate(line):
                ink = "white" if abs(value) > 0.8 * image.norm.vmax else "black"
                axes.text(column, row, drawable(character), ha="center", va="center", color=ink, fontsize=8)
        axes.set_axis_off()
        axes.set_title(title, fontsize=10)
        axes.figure.colorbar(image, ax=axes, pad=0.01, extend="both")


def _lines(parts: Sequence[str], values: Any) -> list[list[tuple[str, float]]]:
    """Lines of (character, value of its token), a long one in several, ``LINES`` at most."""
    lines: list[list[tuple[str, float]]] = [[]]
    for part, value in zip(parts, values, strict=True):
        for character in part:
            if len(lines[-1]) == COLUMNS or (lines[-1] and lines[-1][-1][0] == "↵"):
                lines.append([])
            if len(lines) > LINES:
                return lines[:LINES]
            lines[-1].append(("↵" if character == "\n" else character, float(value)))
    return lines


def _signed(axes: Any, values: Any) -> Any:
    """Colours of numbers of any size, 0 in the middle."""
    # What is beyond nearly all the rest has the last colour too: the rest would be pale beside it.
    most = max(float(np.nanquantile(np.abs(values), 0.98)), 1e-6)
    return axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most)


def _frame(x: float, y: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, fill=False, edgecolor="tab:red", linewidth=1)


@contextmanager
def _grid(
    path: Path, title: str, columns: Sequence[str], rows: Sequence[str], written: int, others: Iterable[str] = ()
) -> Iterator[Any]:
    """Axes with a labelled column for each token, and a line before what the model wrote; ``others`` stand inside."""
    inches = max(len(columns) * TOKEN + MARGIN, NARROWEST), max(len(rows) * UNIT + MARGIN, 2.5)
    with _axes(path, *inches, text="".join([*columns, *rows, *others])) as axes:
        yield axes
        turned = any(len(label) > 1 for label in columns)
        axes.set_xticks(range(len(columns)), [drawable(label) for label in columns], rotation=90 if turned else 0)
        axes.set_yticks(range(len(rows)), [drawable(label) for label in rows])
        axes.tick_params(length=0, labelsize=8)
        axes.set_title(title, fontsize=10)
        if 0 < written < len(columns):
            axes.axvline(written - 0.5, color="tab:red", linewidth=1)


@contextmanager
def _axes(path: Path, width: float, height: float, text: str = "") -> Iterator[Any]:
    """Axes of so many inches, with a font for all of ``text``; written, whole, when the block is done."""
    import matplotlib
    from matplotlib.figure import Figure  # slow to import, and few commands draw

    # A dollar sign is a dollar sign, no formula.
    with matplotlib.rc_context({"font.family": fonts(text), "text.parse_math": False}):
        figure = Figure(figsize=(width, height), dpi=SIZE, layout="constrained")
        yield figure.add_subplot()
        with atomic.replacing(path) as temporary:
            figure.savefig(temporary)


def _fitting(label: str) -> float:
    """The size of letters, in points, with which a label stays in its column."""
    return min(8.0, TOKEN * 72 * 1.4 / max(1, cell_len(label)))  # a Chinese character is two letters wide


def drawable(label: str) -> str:
    """A label with each character that no font here has as its code: ``"床"`` may be ``"\\u5e8a"``."""
    return "".join(_escaped(character) if _font_of(character) is None else character for character in label)


def told_of_missing(text: str) -> str:
    """Return a line that names the characters of a text that no font here has, and fonts that do; "" if none lacks."""
    missing = [character for character in dict.fromkeys(text) if character.isprintable() and not _font_of(character)]
    if not missing:
        return ""
    shown = " ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else "")
    fonts = dict.fromkeys(map(_font_for, missing))
    return (
        f"no installed font has {shown}: the pictures show codes such as {_escaped(missing[0])} in their place; "
        f"install {' and '.join(fonts)}, and inspect again"
    )


def _font_for(character: str) -> str:
    """Return a font that has a character, and its package on Debian and Ubuntu."""
    if unicodedata.name(character, "").startswith(HAN):
        return "Noto Sans CJK (the package fonts-noto-cjk)"
    if unicodedata.category(character).startswith("S"):
        return "Symbola (the package fonts-symbola)"
    return "Noto Sans of its script (the package fonts-noto-core)"


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if ord(character) > 127 else repr(character)[1:-1]


def fonts(text: str) -> list[str]:
    """The families that draw a text: matplotlib's own, and those that have what it lacks."""
    found = (_font_of(character) for character in dict.fromkeys(text))
    return list(dict.fromkeys(["DejaVu Sans", *filter(None, found)]))


@cache
def _font_of(character: str) -> str | None:
    """The first family with a glyph for a character; None where there is none, or nothing to see."""
    if not character.isprintable():
        return None
    return next((name for name, font in _faces() if font.get_char_index(ord(character))), None)


@cache
def _faces() -> list[tuple[str, Any]]:
    """The fonts of the machine: matplotlib's DejaVu Sans first; its others are for formulas, and are left out."""
    import matplotlib
    from matplotlib.font_manager import findSystemFonts, fontManager, get_font

    for path in sorted({*map(str, findSystemFonts())} - {entry.fname for entry in fontManager.ttflist}):
        with suppress(OSError, RuntimeError):  # of a kind that cannot be drawn
            fontManager.addfont(path)  # installed since matplotlib made its list, which it keeps on the disk
    own = matplotlib.get_data_path()
    first = [entry for entry in fontManager.ttflist if entry.fname.startswith(own) and entry.name == "DejaVu Sans"]
    others = [entry for entry in fontManager.ttflist if not entry.fname.startswith(own)]
    faces = []
    for entry in [*first, *sorted(others, key=lambda entry: (entry.name, entry.fname))]:
        try:
            face = get_font(entry.fname)
        except (OSError, RuntimeError):  # gone since the list was made, or of a kind that cannot be drawn
            continue
        if face.scalable:
            faces.append((entry.name, face))
    return faces
