"""Create an HTML page that colours the tokens of a text according to the values of one cell.

The page needs no scripts and no other files.
"""

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

SHADES = 7  # number of shades of blue, and number of shades of red
BLUE, RED = (33, 102, 172), (178, 24, 43)  # darkest shades for negative and for positive values, as RGB
MAX_QUANTILE = 0.99  # absolute values above this quantile are shown in the darkest shade
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
    """A coloured text with a heading."""

    heading: str
    parts: Sequence[str]  # text of each of N tokens
    values: Any  # float [N], value of the cell after each token


def page(title: str, about: str, passages: Sequence[Passage]) -> str:
    """Return an HTML page with coloured texts.

    Tokens with negative values are blue, tokens with positive values are red, and tokens with the value 0 are white.

    Args:
        title: title and heading of the page.
        about: text of the first paragraph.
        passages: the texts. Each text has its own colour scale, which depends on the values of the text.
    """
    html = "\n".join(_passage(passage) for passage in passages)
    return PAGE.format(title=escape(title), about=escape(about), shades="\n".join(_shade_rules()), passages=html)


def _shade_rules() -> list[str]:
    """Return a CSS rule for each shade.

    Shade 0 is the darkest blue, ``SHADES`` is white, and 2 * ``SHADES`` is the darkest red.
    """
    rules = []
    for number in range(2 * SHADES + 1):
        depth = abs(number - SHADES) / SHADES
        red, green, blue = (round(255 + (c - 255) * depth) for c in (BLUE if number < SHADES else RED))
        text_colour = " color: #fff;" if depth > 0.8 else ""
        rules.append(f".s{number} {{ background: #{red:02x}{green:02x}{blue:02x};{text_colour} }}")
    return rules


def _passage(passage: Passage) -> str:
    """Return the HTML of a passage."""
    # The scale ignores the largest values, because a few values can be so large that all others would look pale.
    scale = max(float(np.quantile(np.abs(passage.values), MAX_QUANTILE)), 1e-6) if len(passage.values) else 1.0
    shades = np.rint(np.clip(np.asarray(passage.values) / scale, -1, 1) * SHADES).astype(int) + SHADES
    spans = [
        f'<span class="s{shade}" title="{value:+.2f}">{_visible(part)}</span>'
        for part, value, shade in zip(passage.parts, passage.values, shades, strict=True)
        if part
    ]
    heading = f"{passage.heading} (darkest red {scale:.2f}, darkest blue {-scale:.2f})"
    return f'<h2>{escape(heading)}</h2>\n<p class="text" lang="" dir="auto">{"".join(spans)}</p>'


def _visible(part: str) -> str:
    """Escape the text of a token for HTML, and add the sign ↵ before each newline to make its colour visible."""
    return escape(part).replace("\n", "↵\n")
