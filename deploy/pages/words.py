"""Numbers and names as a page writes them."""

from __future__ import annotations

import math

TIMES, MINUS, NONE = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}", "\N{EN DASH}"
UNBROKEN = "\N{NO-BREAK SPACE}"
"""Between a number and its unit in running text."""


def share(value: float, spread: float = 0.0) -> str:
    """0.898, 0.014 as ``89.8 % ± 1.4``."""
    text = f"{value:.1%}".replace("%", " %")
    return f"{text} ± {100 * spread:.1f}" if spread else text


def signed(value: float, digits: int) -> str:
    """-1.25 with a real minus, +3 with its plus."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def per_class(images: float) -> str:
    """How many images of a class, on average: ``10 per class``, ``1.7 per class``."""
    return f"{round(images, 1):g} per class"


def factor(value: float) -> str:
    """3.04 as ``3``, 1.25 as ``1.3``, 1234 as ``1,234``."""
    return f"{value:,.0f}" if value >= 9.5 or math.isclose(value, round(value), abs_tol=0.05) else f"{value:.1f}"


def short(name: str, most: int = 60) -> str:
    """A name that strangers chose, no longer than a page can bear."""
    return name if len(name) <= most else name[: most - 1] + "…"


def ordinal(number: int) -> str:
    """1 as ``1st``."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def plural(number: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``2 classes``."""
    ending = "es" if noun.endswith(("s", "x")) else "s"
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{ending}"
