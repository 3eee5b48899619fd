"""Matplotlib figures as SVG that takes its colours from the page's theme and keeps its text as text."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
SERIES = ("#0a0b11", "#0a0b12", "#0a0b13", "#0a0b14", "#0a0b15", "#0a0b16")
"""Stand-ins; the page's style sheet gives them their real values, light and dark."""

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "feddsv",
    "text.parse_math": False,  # class names come from strangers
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that the measures are the same everywhere
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "axes.formatter.useoffset": False,
}
_ID = re.compile(r'(\bid="|href="#|url\(#)')
_BEFORE = re.compile(r"^.*?(?=<svg)", re.S)
_EXTRA = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>", re.S)
_SIZE = re.compile(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"')
_PLACES = re.compile(r'\b(?:d|x|y|transform)="[^"]*"')
_DIGITS = re.compile(r"(\.\d\d)\d+")
_FONT = re.compile(r"font(-family)?: ((?:[\w.]+ )*)'DejaVu Sans'(, [\w' -]+)*")


@dataclass(frozen=True)
class Chart:
    """A figure of a page.

    Args:
        title: what it shows.
        svg: the drawing.
        alt: the same in words, for those who do not see it.
        caption: how to read it; may be empty.
    """

    title: str
    svg: str
    alt: str
    caption: str = ""


class Drawing:
    """One figure with one or more axes; becomes SVG when it is done."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.svg = ""

    def axes(self) -> Axes:
        """The figure's only axes."""
        return self.figure.add_subplot()


@contextmanager
def drawing(key: str, *, width_in: float = 4.4, height_in: float = 2.9) -> Iterator[Drawing]:
    """A figure in the page's style, whose ``svg`` is there when the block ends.

    Args:
        key: unique in the page; goes before every id.
        width_in: of the figure; text has 9 and 10 pt, so a narrow figure has large text.
        height_in: of the figure.
    """
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that matplotlib's own font lacks: the browser has them
        drawn = Drawing(Figure(figsize=(width_in, height_in), layout="constrained"))
        yield drawn
        written = io.StringIO()
        drawn.figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    drawn.svg = _adapted(written.getvalue(), key)


def _adapted(text: str, key: str) -> str:
    text = _EXTRA.sub("", _BEFORE.sub("", text))
    for _ in range(2):
        text = _SIZE.sub(r"\1", text)
    text = _ID.sub(rf"\g<1>{key}-", text)
    text = _FONT.sub(lambda found: f"font-size: {found[2].strip()}" if found[2] else "", text)
    text = _PLACES.sub(lambda found: _DIGITS.sub(r"\1", found[0]), text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
