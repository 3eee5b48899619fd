"""Draws docs/results/accuracy-per-byte.png from docs/results/encodings.json: python -m benchmarks.encodings_figure"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.encodings import COUNTS, ENCODINGS, RESULTS

FIGURE = Path("docs/results/accuracy-per-byte.png")
# Okabe and Ito's colours, which colour-blind people tell apart.
_COLOURS = ("#555555", "#D55E00", "#0072B2", "#CC79A7", "#009E73", "#E69F00", "#56B4E9")
_TITLES = {
    "digits, soft labels": "Digits, 8 px, soft labels",
    "digits, view labels": "Digits, 8 px, labels of 4,000 views",
    "cifar10, view labels": "CIFAR-10, 32 px, labels of 24,000 views",
}


def curve(cells: dict[str, Any], source: str, encoding: str) -> list[tuple[int, float, float, int]]:
    """Bytes, mean accuracy, its standard deviation and images per class of every trained cell."""
    found = [(count, cells.get(f"{source} {encoding} {count}", {})) for count in COUNTS]
    return [(cell["bytes"], cell["mean"], cell["std"], count) for count, cell in found if "mean" in cell]


def panel(axes: Axes, name: str, part: dict[str, Any]) -> None:
    """One data set."""
    for encoding, colour in zip(ENCODINGS, _COLOURS, strict=True):
        for source, style, words in (("dsv", "-o", "DSVs"), ("real", "--s", "random real")):
            points = curve(part["cells"], source, encoding)
            if not points:
                continue
            sizes, means, spreads, counts = zip(*points, strict=True)
            axes.errorbar(
                sizes,
                means,
                spreads,
                fmt=style,
                color=colour,
                lw=1.6,
                ms=4,
                elinewidth=0.7,
                label=f"{words}, {encoding}",
            )
            if (source, encoding) == ("dsv", "raw"):
                for size, mean, count in zip(sizes, means, counts, strict=True):
                    axes.annotate(str(count), (size, mean), (5, -11), textcoords="offset points", fontsize=8)
    weights = part["weights"]
    for kind in ("int8", "fp16", "fp32"):
        axes.axvline(weights[kind], color="#999999", lw=0.8, ls=":")
        axes.annotate(
            f"weights, {kind}", (weights[kind], 0.02), (-3, 0), ("data", "axes fraction"), "offset points",
            rotation=90, ha="right", fontsize=8, color="#555555",
        )  # fmt: skip
    axes.axhline(weights["accuracy"], color="#999999", lw=0.8, ls=":")
    words = f"teacher {weights['accuracy']:.1f} %"
    place = (0.01, weights["accuracy"])
    axes.annotate(
        words, place, (0, -10), ("axes fraction", "data"), "offset points", fontsize=8, color="#555555"
    )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if value < 1e4 else f"{value / 1e3:,.0f} k")
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(
        title=_TITLES.get(name, name), xlabel="bytes of the whole release file", ylabel="newcomer's test accuracy, %"
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="best")


def _drawable(part: dict[str, Any]) -> bool:
    return len(curve(part["cells"], "dsv", "raw")) > 2


def main() -> None:
    """Draw one panel per data set."""
    parts = {name: part for name, part in json.loads(RESULTS.read_text()).items() if _drawable(part)}
    figure, all_axes = matplotlib.pyplot.subplots(1, len(parts), figsize=(7 * len(parts), 5), squeeze=False)
    for axes, (name, part) in zip(all_axes[0], parts.items(), strict=True):
        panel(axes, name, part)
    figure.suptitle(
        "Accuracy per byte; small figures are images per class; bars: deviation over 3 newcomers", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
