"""The communication ledger as charts and as a table: whatever purposes stand in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from deploy.ledger import NOT_SENT, TRANSPORT, natural
from deploy.pages import words
from deploy.pages.ink import INK, MUTED, SERIES, Chart, drawing
from deploy.result import LedgerRow
from deploy.units import short_bytes, tick_bytes

_PURPOSES = {
    "weights": "weights",
    "dsv_download": "DSV downloads",
    TRANSPORT: "transport (TLS, HTTP, polling, the app)",
    NOT_SENT: "raw images instead (not sent)",
}
_MOST_BARS = 24
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Total:
    """All bytes of one purpose."""

    purpose: str
    up: str
    down: str
    messages: str


def totals(ledger: list[LedgerRow]) -> list[Total]:
    """One line per purpose, largest first."""
    by_purpose = _sums(ledger, lambda row: row.purpose)
    counts: dict[str, int] = defaultdict(int)
    for row in ledger:
        counts[row.purpose] += 1
    order = sorted(by_purpose, key=lambda name: -sum(by_purpose[name]))
    return [
        Total(in_words(name), short_bytes(by_purpose[name][0]), short_bytes(by_purpose[name][1]), f"{counts[name]:,}")
        for name in order
    ]


def origin(ledger: list[LedgerRow]) -> str:
    """A sentence on what was counted."""
    if any(row.purpose == TRANSPORT for row in ledger):
        return "What crossed every party's sockets, counted there; of it Flower's messages as weights and control."
    return "Messages as they were serialised, not estimates."


def in_words(purpose: str) -> str:
    """A purpose as a reader understands it."""
    return _PURPOSES.get(purpose, words.short(purpose.replace("_", " ")))


def ledger_charts(ledger: list[LedgerRow]) -> list[Chart]:
    """Bytes by purpose, by round and by party; those of which there is anything to see."""
    charts = [_by_purpose(ledger), _by_round(ledger), _by_party(ledger)]
    return [chart for chart in charts if chart]


def _by_purpose(ledger: list[LedgerRow]) -> Chart | None:
    sums = {(row_purpose, way): amount for row_purpose, both in _sums(ledger, lambda row: row.purpose).items()
            for way, amount in zip(("up", "down"), both, strict=True) if amount}  # fmt: skip
    if not sums:
        return None
    order = sorted(sums, key=lambda key: sums[key])
    with drawing("by-purpose", width_in=4.4, height_in=1.1 + 0.32 * len(order)) as drawn:
        axes = drawn.axes()
        for place, (purpose, way) in enumerate(order):
            amount, sent = sums[purpose, way], purpose != NOT_SENT
            colour = SERIES[0] if way == "down" else SERIES[1]
            axes.barh(place, amount, 0.62, color=colour if sent else "none", edgecolor=colour if sent else MUTED)
            axes.annotate(short_bytes(amount), (amount, place), (4, 0), textcoords="offset points", va="center")
        axes.set_xscale("log")
        axes.margins(x=0.3)
        axes.set_yticks(range(len(order)), [_way(purpose, way) for purpose, way in order])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
        _byte_axis(axes)
    told = ", ".join(f"{_way(*key)}: {short_bytes(sums[key])}" for key in reversed(order))
    hollow = " Hollow: what was not sent." if any(purpose == NOT_SENT for purpose, _ in sums) else ""
    return Chart("Bytes in all, by purpose", drawn.svg, told, f"Logarithmic.{hollow}")


def _way(purpose: str, way: str) -> str:
    short = {"dsv_download": "DSVs", NOT_SENT: "raw images"}.get(purpose, words.short(purpose.replace("_", " "), 16))
    return f"{short} {'↑' if way == 'up' else '↓'}"


def _by_round(ledger: list[LedgerRow]) -> Chart | None:
    rows = [row for row in ledger if row.round > 0]
    if not rows:
        return None
    purposes = sorted({row.purpose for row in rows}, key=lambda name: -sum(r.bytes for r in rows if r.purpose == name))
    sums = _sums(rows, lambda row: (row.purpose, row.round))
    numbers = sorted({row.round for row in rows})
    with drawing("by-round") as drawn:
        axes = drawn.axes()
        bottoms = {number: [0.0, 0.0] for number in numbers}
        for place, purpose in enumerate(purposes):
            for way, sign in ((0, 1), (1, -1)):
                colour = SERIES[1 - way] if len(purposes) == 1 else SERIES[(place + 2) % len(SERIES)]
                heights = [sign * sums.get((purpose, number), (0, 0))[way] for number in numbers]
                starts = [bottoms[number][way] for number in numbers]
                label = in_words(purpose) if way == 0 else None
                axes.bar(numbers, heights, 0.72, starts, color=colour, label=label)
                for number, height in zip(numbers, heights, strict=True):
                    bottoms[number][way] += height
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.grid(visible=False, axis="x")
        axes.set_xlim(numbers[0] - 0.6, numbers[-1] + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_bytes(abs(value))))
        axes.set_xlabel("round")
        axes.set_ylabel("↓ to clients      ↑ to the server")
        if len(purposes) > 1:
            drawn.figure.legend(loc="outside lower center", ncols=3, handlelength=1.2)
    up, down = (sum(both[way] for both in sums.values()) for way in (0, 1))
    told = (
        f"{words.plural(len(numbers), 'round')}: {short_bytes(up)} up and {short_bytes(down)} down in all, "
        f"{short_bytes(up / len(numbers))} and {short_bytes(down / len(numbers))} a round."
    )
    return Chart("Bytes of every round", drawn.svg, told, told)


def _by_party(ledger: list[LedgerRow]) -> Chart | None:
    sent = [row for row in ledger if row.purpose != NOT_SENT]
    sums = _sums(sent, lambda row: f"client {row.client}" if isinstance(row.client, int) else row.client)
    if not sums:
        return None
    largest = sorted(sums, key=lambda name: -sum(sums[name]))[:_MOST_BARS]
    order = sorted(largest, key=natural)[::-1]
    with drawing("by-party", width_in=4.4, height_in=1.0 + 0.24 * len(order)) as drawn:
        axes = drawn.axes()
        for place, name in enumerate(order):
            up, down = sums[name]
            axes.barh(place + 0.19, max(up, 1), 0.34, color=SERIES[1], label="up" if place == 0 else None)
            axes.barh(place - 0.19, max(down, 1), 0.34, color=SERIES[0], label="down" if place == 0 else None)
        axes.set_xscale("log")
        axes.set_yticks(range(len(order)), [words.short(name, 22) for name in order])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
        _byte_axis(axes)
        drawn.figure.legend(loc="outside upper right", ncols=2, handlelength=1.2)
    told = "; ".join(f"{n}: {short_bytes(sums[n][0])} up, {short_bytes(sums[n][1])} down" for n in reversed(order))
    left = len(sums) - len(order)
    caption = f"Logarithmic.{f' The {left} smallest are left out.' if left else ''}"
    return Chart("Bytes of every party", drawn.svg, told, caption)


def _byte_axis(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_bytes(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _sums(ledger: list[LedgerRow], key: Callable[[LedgerRow], _Key]) -> dict[_Key, tuple[int, int]]:
    """Bytes up and down by ``key``, in order of first appearance."""
    found: dict[_Key, list[int]] = {}
    for row in ledger:
        found.setdefault(key(row), [0, 0])[0 if row.direction == "up" else 1] += row.bytes
    return {name: (both[0], both[1]) for name, both in found.items()}
