"""A text coloured by one cell, as a page of HTML that needs nothing else: no script, no file beside it."""

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

SHADES = 7  # on either side of white
BLUE, RED = (33, 102, 172), (178, 24, 43)  # below 0 and above
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ max-width: 50em; margin: 2em auto; padding: 0 1em; font: 16px/1.5 sans-serif; color: #111; background: #fff; }}
.text {{ font: 15px/1.6 monospace; white-space: pre-wrap; overflow-wrap: anywhere; }}
{shades}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{about}</p>
{passages}
</body>
</html>
"""


class Passage(NamedTuple):
    """A part of the page."""

    heading: str
    parts: Sequence[str]  # the text of each of N tokens
    values: Any  # float [N], the cell after each


def page(title: str, about: str, passages: Sequence[Passage]) -> str:
    """The page: blue below 0, red above, white at 0; the deepest is the largest value of a passage, nearly."""
    said = "\n".join(_passage(passage) for passage in passages)
    return PAGE.format(title=escape(title), about=escape(about), shades="\n".join(_shades()), passages=said)


def _shades() -> list[str]:
    """A class for each shade: ``.s-7`` would be no name, so they count from 0."""
    rules = []
    for number in range(2 * SHADES + 1):
        depth = abs(number - SHADES) / SHADES
        red, green, blue = (round(255 + (c - 255) * depth) for c in (BLUE if number < SHADES else RED))
        ink = " color: #fff;" if depth > 0.8 else ""
        rules.append(f".s{number} {{ background: #{red:02x}{green:02x}{blue:02x};{ink} }}")
    return rules


def _passage(passage: Passage) -> str:
    # The hundredth part that is largest may be far beyond the rest, which would all be pale beside it.
    most = max(float(np.quantile(np.abs(passage.values), 0.99)), 1e-6) if len(passage.values) else 1.0
    shades = np.rint(np.clip(np.asarray(passage.values) / most, -1, 1) * SHADES).astype(int) + SHADES
    spans = [
        f'<span class="s{shade}" title="{value:+.2f}">{_shown(part)}</span>'
        for part, value, shade in zip(passage.parts, passage.values, shades, strict=True)
        if part
    ]
    heading = f"{passage.heading} (deepest red {most:.2f}, deepest blue {-most:.2f})"
    return f'<h2>{escape(heading)}</h2>\n<p class="text" lang="" dir="auto">{"".join(spans)}</p>'


def _shown(part: str) -> str:
    """A token's text; the colour of a newline is seen on a sign before it."""
    return escape(part).replace("\n", "↵\n")
