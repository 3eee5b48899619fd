"""Newcomers and their rivals as charts: accuracy for bytes and for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from deploy.pages import words
from deploy.pages.headline import best_newcomer
from deploy.pages.ink import MUTED, SERIES, Chart, Drawing, drawing
from deploy.result import NewcomerRow, Result, RivalRow
from deploy.units import short_bytes, tick_bytes

_SPREAD = "Bars: standard deviation over seeds. Points of one kind at one place: their kinds of labels."


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
        _Group("teacher's weights", [r for r in rivals if r.name.startswith("teacher_weights")], SERIES[2], "^"),
        _Group("clients' ensemble", [r for r in rivals if r.name.startswith("client_ensemble")], SERIES[2], "v"),
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
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_bytes(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("downloaded by a newcomer")
        _finish(drawn, axes)
    told = "; ".join(
        f"{group.label}: "
        + ", ".join(f"{words.share(row.accuracy_mean)} for {short_bytes(row.downloaded_bytes)}" for row in group.rows)
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
