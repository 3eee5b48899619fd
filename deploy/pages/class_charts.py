"""What a model decides by, class by class: sums of lambda beside accuracy, and confusion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from deploy.pages import words
from deploy.pages.facts import ReleaseFacts
from deploy.pages.ink import GRID, INK, PAPER, SERIES, Chart, drawing
from deploy.result import ConfusionRow
from dsv import rank_correlation

_LABELLED = 20
_MOST_CELLS = 20_000
_MOST_DOTS = 1_000
_SHADES = 16


def sums_against_accuracy(release: ReleaseFacts, teacher: ConfusionRow, key: str) -> Chart | None:
    """Per class: sum of lambda beside the teacher's test accuracy."""
    accuracies = class_accuracies(teacher, len(release.class_names))
    sums = release.sums()
    tested = torch.isfinite(accuracies) & release.support_set.shown
    if int(tested.sum()) < 2:
        return None
    correlation = rank_correlation(sums[tested], accuracies[tested])
    with drawing(key) as drawn:
        axes = drawn.axes()
        dots = torch.nonzero(tested).flatten()
        dots = dots[:: -(-len(dots) // _MOST_DOTS)]
        axes.scatter(sums[dots], 100 * accuracies[dots], color=SERIES[0], s=22, linewidths=0)
        if int(tested.sum()) <= _LABELLED:
            order = sorted(torch.nonzero(tested).flatten().tolist(), key=lambda label: float(sums[label]))
            for number, label in enumerate(order):
                place = (float(sums[label]), 100 * float(accuracies[label]))
                name = words.short(release.class_names[label], 14)
                # Above and below in turn, so that neighbours' names stand apart.
                axes.annotate(name, place, (4, 4 if number % 2 else -12), textcoords="offset points", fontsize=9)
        axes.margins(x=0.12, y=0.14)
        axes.set_xlabel("sum of λ of the class")
        axes.set_ylabel("teacher's accuracy, %")
    count = f"{release.support_set.images_per_class:g}"
    ranked = "not defined" if math.isnan(correlation) else words.signed(correlation, 2)
    told = (
        f"Rank correlation {ranked} over {words.plural(int(tested.sum()), 'class')}. Sums of lambda from "
        f"{float(sums[tested].min()):.3g} to {float(sums[tested].max()):.3g}, accuracies from "
        f"{words.share(float(accuracies[tested].min()))} to {words.share(float(accuracies[tested].max()))}."
    )
    caption = f"Rank correlation {ranked} over {words.plural(int(tested.sum()), 'class')}."
    return Chart(f"Sum of λ against accuracy, {count} per class", drawn.svg, told, caption)


def class_accuracies(row: ConfusionRow, classes: int) -> torch.Tensor:
    """(K,) float32 share of each class's test images that were recognised; not a number where there were none."""
    hit, total = torch.zeros(classes), torch.zeros(classes)
    for true, seen, count in row.counts:
        if true < classes:
            total[true] += count
            hit[true] += count if true == seen else 0
    return hit / total


def confusion(row: ConfusionRow, names: Sequence[str], key: str, title: str) -> Chart:
    """Which classes a model takes for which; rows are shares of the true class."""
    cells = _shares(row, len(names))
    with drawing(key, width_in=4.4, height_in=4.2) as drawn:
        axes = drawn.axes()
        _fill(axes, cells)
        if len(names) <= 12:
            for true, seen, value in cells:
                text = f"{100 * value:.0f}" if value >= 0.005 else "·"
                axes.text(seen, true, text, ha="center", va="center", fontsize=8, color=PAPER if value > 0.55 else INK)
        _square(axes, names)
    wrong = most_confused(row, names)
    told = "Most confused: " + "; ".join(wrong) + "." if wrong else "No test image was taken for another class."
    return Chart(title, drawn.svg, told, told)


def most_confused(row: ConfusionRow, names: Sequence[str], most: int = 3) -> list[str]:
    """The commonest mistakes, in words."""
    wrong = [(value, true, seen) for true, seen, value in _shares(row, len(names)) if true != seen]
    wrong.sort(key=lambda found: (-found[0], found[1], found[2]))
    return [
        f"{words.share(v)} of {words.short(names[t], 24)} as {words.short(names[s], 24)}" for v, t, s in wrong[:most]
    ]


def _shares(row: ConfusionRow, classes: int) -> list[tuple[int, int, float]]:
    """(class, class that it was taken for, share of the class's images), the largest shares of a huge matrix alone."""
    cells = [cell for cell in row.counts if cell[0] < classes and cell[1] < classes]
    totals = [0] * classes
    for true, _, count in cells:
        totals[true] += count
    found = [(true, seen, count / totals[true]) for true, seen, count in cells]
    return sorted(found, key=lambda cell: -cell[2])[:_MOST_CELLS]


def _fill(axes: Axes, cells: Sequence[tuple[int, int, float]]) -> None:
    """Squares, in one path for every colour and shade: a thousand classes have ten thousands of cells."""
    corners = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)]
    shades: dict[tuple[str, int], list[Path]] = {}
    for true, seen, value in cells:
        square = Path([(seen + x, true + y) for x, y in corners], closed=True)
        shades.setdefault((SERIES[0] if true == seen else SERIES[1], round(value * _SHADES)), []).append(square)
    for (colour, shade), squares in shades.items():
        whole = Path.make_compound_path(*squares)
        axes.add_patch(PathPatch(whole, color=colour, alpha=0.12 + 0.88 * shade / _SHADES, linewidth=0))


def _square(axes: Axes, names: Sequence[str]) -> None:
    classes = len(names)
    axes.set_xlim(-0.5, classes - 0.5)
    axes.set_ylim(classes - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.grid(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    axes.spines[:].set_color(GRID)
    if classes <= _LABELLED:
        labels = [words.short(name, 12) for name in names]
        axes.set_xticks(range(classes), labels, rotation=90 if max(map(len, labels)) > 2 else 0)
        axes.set_yticks(range(classes), labels)
        axes.tick_params(length=0)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
