"""The charts of a run's report: accuracy and bytes, classes, and how the run went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from deploy.pages import words
from deploy.pages.facts import ReleaseFacts, RunFacts
from deploy.pages.headline import best_newcomer
from deploy.pages.ink import GRID, INK, MUTED, PAPER, SERIES, Drawing, drawing
from deploy.result import ConfusionRow, NewcomerRow, Result, RivalRow
from dsv import rank_correlation
from server.events import IterationDone, RoundDone, RoundEvaluated

_LINES = ("-", "--", ":", "-.")
_MOST_POINTS = 400
_LABELLED = 20
_SPREAD = "Bars: standard deviation over seeds. Points of one kind at one place: hard and soft labels."


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


@dataclass(frozen=True)
class _Group:
    """Rows of result.json that are drawn alike."""

    label: str
    rows: Sequence[NewcomerRow | RivalRow]
    colour: str
    marker: str


def accuracies(result: Result) -> list[Chart]:
    """Newcomers and rivals by bytes, and by images per class."""
    best = best_newcomer(result)
    if best is None:
        return []
    rivals, newcomers = result.rivals, result.newcomers
    groups = [
        _Group(
            f"DSVs, {words.short(best.architecture, 20)}",
            [row for row in newcomers if row.architecture == best.architecture],
            SERIES[0],
            "o",
        ),
        _Group("DSVs, others", [row for row in newcomers if row.architecture != best.architecture], SERIES[3], "D"),
        _Group("random real images", [r for r in rivals if r.name.startswith("random_real")], SERIES[1], "s"),
        _Group("noise images", [r for r in rivals if r.name.startswith("noise")], MUTED, "X"),
        _Group("teacher's weights", [r for r in rivals if r.name == "teacher_weights"], SERIES[2], "^"),
    ]
    groups = [group for group in groups if group.rows]
    charts = [_per_byte(groups)]
    if len({row.images_per_class for row in newcomers}) > 1:
        charts.append(_per_count(groups))
    return charts


def _per_byte(groups: Sequence[_Group]) -> Chart:
    with drawing("per-byte", height_in=3.5) as drawn:
        axes = drawn.axes()
        for group in groups:
            _points(axes, group, [max(1, row.downloaded_bytes) for row in group.rows])
        sizes = [max(1, row.downloaded_bytes) for group in groups for row in group.rows]
        if max(sizes) > 5 * min(sizes):
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.axis_size(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("downloaded by a newcomer")
        _finish(drawn, axes)
    told = "; ".join(
        f"{group.label}: "
        + ", ".join(f"{words.share(row.accuracy_mean)} for {words.size(row.downloaded_bytes)}" for row in group.rows)
        for group in groups
    )
    return Chart("Accuracy for the bytes of a download", drawn.svg, f"{told}.", _SPREAD)


def _per_count(groups: Sequence[_Group]) -> Chart:
    counted = [g for g in groups if any(row.images_per_class for row in g.rows)]
    with drawing("per-count", height_in=3.5) as drawn:
        axes = drawn.axes()
        for number, group in enumerate(counted):
            aside = 1.05 ** (number - (len(counted) - 1) / 2)  # so that no kind hides another
            _points(axes, group, [row.images_per_class * aside for row in group.rows])
        for group in groups:
            if group not in counted:
                axes.axhline(100 * group.rows[0].accuracy_mean, color=group.colour, linewidth=1, label=group.label)
        axes.set_xscale("log")
        axes.margins(x=0.1)
        counts = sorted({row.images_per_class for group in counted for row in group.rows})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("images per class")
        _finish(drawn, axes)
    told = "; ".join(
        f"{group.label}: "
        + ", ".join(f"{words.share(row.accuracy_mean)} from {row.images_per_class}" for row in group.rows)
        for group in counted
    )
    return Chart("Accuracy for the number of images", drawn.svg, f"{told}.", _SPREAD)


def _points(axes: Axes, group: _Group, places: Sequence[float]) -> None:
    axes.errorbar(
        places,
        [100 * row.accuracy_mean for row in group.rows],
        yerr=[100 * row.accuracy_std for row in group.rows],
        fmt=group.marker,
        color=group.colour,
        markersize=5,
        elinewidth=0.8,
        label=group.label,
    )


def _finish(drawn: Drawing, axes: Axes) -> None:
    axes.set_ylim(0, 103)
    axes.set_ylabel("test accuracy, %")
    drawn.figure.legend(loc="outside lower center", ncols=2, handlelength=1.2, columnspacing=1.2)


def sums_against_accuracy(release: ReleaseFacts, teacher: ConfusionRow, key: str) -> Chart | None:
    """Per class: sum of lambda beside the teacher's test accuracy."""
    accuracies = class_accuracies(teacher, len(release.class_names))
    tested = torch.isfinite(accuracies)
    if int(tested.sum()) < 2:
        return None
    sums = release.sums()
    correlation = rank_correlation(sums[tested], accuracies[tested])
    with drawing(key) as drawn:
        axes = drawn.axes()
        axes.scatter(sums[tested], 100 * accuracies[tested], color=SERIES[0], s=22, linewidths=0)
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
        f"{float(sums.min()):.3g} to {float(sums.max()):.3g}, accuracies from "
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
    classes = len(names)
    totals = [0] * classes
    cells = [(true, seen, count) for true, seen, count in row.counts if true < classes and seen < classes]
    for true, _, count in cells:
        totals[true] += count
    with drawing(key, width_in=4.4, height_in=4.2) as drawn:
        axes = drawn.axes()
        for true, seen, count in cells:
            value = count / totals[true]
            colour = SERIES[0] if true == seen else SERIES[1]
            axes.bar(seen, 1, 1, true - 0.5, color=colour, alpha=0.12 + 0.88 * value, linewidth=0)
            if classes <= 12:
                text = f"{100 * value:.0f}" if value >= 0.005 else "·"
                axes.text(seen, true, text, ha="center", va="center", fontsize=8, color=PAPER if value > 0.55 else INK)
        _square(axes, names)
    wrong = most_confused(row, names)
    told = "Most confused: " + "; ".join(wrong) + "." if wrong else "No test image was taken for another class."
    return Chart(title, drawn.svg, told, told)


def most_confused(row: ConfusionRow, names: Sequence[str], most: int = 3) -> list[str]:
    """The commonest mistakes, in words."""
    classes, totals = len(names), [0] * len(names)
    for true, _, count in row.counts:
        if true < classes:
            totals[true] += count
    wrong = [(count / totals[t], t, s) for t, s, count in row.counts if t != s and max(t, s) < classes]
    wrong.sort(key=lambda found: (-found[0], found[1], found[2]))
    return [
        f"{words.share(v)} of {words.short(names[t], 24)} as {words.short(names[s], 24)}" for v, t, s in wrong[:most]
    ]


def entropy(run: RunFacts) -> Chart | None:
    """Mean entropy of the candidates over the synthesis."""
    return _over_iterations(
        run,
        "entropy",
        "Entropy of the candidates",
        "nats",
        "Of the teacher's answers; 0: it is sure.",
    )


def losses(run: RunFacts) -> list[Chart]:
    """Every term of the loss over the iterations."""
    terms = (
        ("total", "Total loss", ""),
        ("stationarity", "Stationarity", "How far the images are from explaining the teacher's weights."),
        ("primal", "Primal feasibility", "Cross-entropy of images that the teacher does not recognise yet."),
        ("total_variation", "Total variation of the images", ""),
        ("norm", "Norm of the images", ""),
    )
    drawn = [_over_iterations(run, name, title, "", of) for name, title, of in terms]
    return [chart for chart in drawn if chart]


def rounds(run: RunFacts) -> list[Chart]:
    """What the federation reported: training loss, and accuracy where clients test."""
    charts: list[Chart] = []
    trained = {e.round: e.train_loss for e in run.of_kind(RoundDone) if e.train_loss is not None}
    tested = {e.round: 100 * e.accuracy for e in run.of_kind(RoundEvaluated)}
    for title, values, unit in (
        ("Clients' training loss", trained, ""),
        ("Accuracy on images that clients keep", tested, "%"),
    ):
        if len(values) < 2:
            continue
        order = sorted(values)
        with drawing(f"rounds-{len(charts)}") as drawn:
            axes = drawn.axes()
            axes.plot(order, [values[number] for number in order], color=SERIES[2], marker="o", markersize=3)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel("round")
            axes.set_ylabel(unit)
        told = f"From {values[order[0]]:.3g}{unit} in round {order[0]} to {values[order[-1]]:.3g}{unit} in {order[-1]}."
        charts.append(Chart(title, drawn.svg, told))
    return charts


def _over_iterations(run: RunFacts, term: str, title: str, unit: str, caption: str) -> Chart | None:
    curves = {count: own for count, own in run.curves().items() if len(own) > 1}
    if not curves or all(getattr(event, term) == 0 for own in curves.values() for event in own):
        return None
    with drawing(f"curve-{term}") as drawn:
        axes = drawn.axes()
        for number, (count, own) in enumerate(curves.items()):
            shown = _thinned(own)
            axes.plot(
                [event.iteration for event in shown],
                [getattr(event, term) for event in shown],
                color=SERIES[number % len(SERIES)],
                linestyle=_LINES[number % len(_LINES)],
                label=f"{count} per class",
            )
        axes.set_xlabel("iteration")
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        if len(curves) > 1:
            axes.legend(loc="best", handlelength=2.4)
    told = "; ".join(
        f"{count} per class: from {getattr(own[0], term):.3g} to {getattr(own[-1], term):.3g} "
        f"after {own[-1].iteration} iterations"
        for count, own in curves.items()
    )
    return Chart(title, drawn.svg, f"{told}.", caption)


def _thinned(events: list[IterationDone]) -> list[IterationDone]:
    step = -(-len(events) // _MOST_POINTS)
    return events if step == 1 else [*events[:-1:step], events[-1]]


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
