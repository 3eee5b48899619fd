"""Crossing points in words: where DSVs win, and where they lose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.links import LINKS
from deploy.savings import (
    Kind,
    Range,
    Way,
    best,
    cheaper,
    cheapest,
    parameters_of_equal_size,
    sooner_below_bits_per_s,
)
from deploy.savings_report import NAMES
from deploy.units import short_bytes

_WEIGHTS = (Kind.WEIGHTS_FLOAT32, Kind.WEIGHTS_FLOAT16, Kind.WEIGHTS_INT8)


@dataclass(frozen=True)
class Words:
    """Sentences on one federation. ``size`` and ``links`` are of a newcomer that could run the teacher."""

    newcomers: list[str]
    size: list[str]
    links: list[str]
    losses: list[str]

    def sections(self) -> list[tuple[str, list[str]]]:
        """Headings and their sentences."""
        return [
            ("From how many newcomers on DSVs move fewer bytes", self.newcomers),
            ("From which model size on", self.size),
            ("On which links", self.links),
            ("Where DSVs lose", self.losses),
        ]


def words(ways: Sequence[Way], target: float, parameters: int) -> Words:
    """What the figures say.

    Args:
        target: the accuracy that ways are compared at; a way that does not reach it is taken at its best.
        parameters: of the teacher.
    """
    chosen = {way.kind: way for way in best(ways)} | {way.kind: way for way in cheapest(ways, target, 1000)}
    dsvs = [chosen[kind] for kind in (Kind.FEDAVG_DSV, Kind.ONE_SHOT_DSV) if kind in chosen]
    rivals = [way for kind, way in chosen.items() if not kind.has_dsv]
    dsv = next(iter(dsvs))
    return Words(
        newcomers=[_crossings(own, rivals) for own in dsvs],
        size=[_size(dsv, chosen[kind], parameters) for kind in _WEIGHTS if kind in chosen],
        links=[_link(dsv, chosen[kind]) for kind in (*_WEIGHTS, Kind.RANDOM_REAL) if kind in chosen],
        losses=_losses(dsvs, rivals, {way.kind: way for way in best(ways)}),
    )


def _named(way: Way) -> str:
    return f"{NAMES[way.kind]} ({way.variant}: {way.accuracy_mean:.1%})"


def _crossings(dsv: Way, rivals: Sequence[Way]) -> str:
    found = [f"than {_named(rival)} {_range(cheaper(dsv, rival))}" for rival in rivals]
    return f"{_named(dsv)} moves fewer bytes in all " + "; ".join(found) + "."


def _range(found: Range | None) -> str:
    if found is None:
        return "never"
    if found.last is not None:
        return f"up to {found.last:,} newcomer{'' if found.last == 1 else 's'}"
    return "for any number of newcomers" if found.first == 1 else f"from {found.first:,} newcomers on"


def _size(dsv: Way, rival: Way, parameters: int) -> str:
    equal = parameters_of_equal_size(dsv.newcomer_down_bytes, rival.newcomer_down_bytes, parameters)
    smaller = "the weights are" if parameters < equal else "the DSVs are"
    return (
        f"{NAMES[rival.kind]}: a model of {equal:,} parameters is as small as this release "
        f"({short_bytes(dsv.newcomer_down_bytes)}); this one has {parameters:,}, so {smaller} smaller to send."
    )


def _link(dsv: Way, rival: Way) -> str:
    rate = sooner_below_bits_per_s(dsv, rival)
    if rate in (0, math.inf):
        return f"{NAMES[rival.kind]}: a newcomer has its DSV model {'later' if rate == 0 else 'sooner'} on any link."
    slow = [link.name for link in LINKS if link.down_bits_per_s < rate]
    fast = [link.name for link in LINKS if link.down_bits_per_s >= rate]
    sides = [f"so sooner on {', '.join(slow)}"] if slow else []
    sides += [f"later on {', '.join(fast)}"] if fast else []
    return (
        f"{NAMES[rival.kind]}: a newcomer has its DSV model sooner where the download is slower than "
        f"{short_rate(rate)} (it trains for {dsv.training_s:.1f} s on this machine), {', '.join(sides)}."
    )


def short_rate(bits_per_s: float) -> str:
    """590 kbit/s, 1.2 Mbit/s."""
    for divisor, unit in ((1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits_per_s >= divisor:
            return f"{bits_per_s / divisor:.3g} {unit}"
    return f"{bits_per_s:.3g} bit/s"


def _losses(dsvs: Sequence[Way], rivals: Sequence[Way], at_best: Mapping[Kind, Way]) -> list[str]:
    """Every rival that is better in some respect than the better DSVs, and in which."""
    lines = []
    dsv = max(dsvs, key=lambda way: way.accuracy_mean)
    for rival in rivals:
        respects = []
        gain = at_best[rival.kind].accuracy_mean - dsv.accuracy_mean
        if gain > 0:
            respects.append(f"more accurate by {100 * gain:.1f} points at its best ({at_best[rival.kind].variant})")
        if rival.newcomer_bytes < dsv.newcomer_bytes:
            respects.append(f"fewer bytes to a newcomer ({short_bytes(rival.newcomer_bytes)})")
        if rival.fixed_bytes < dsv.fixed_bytes:
            respects.append(f"fewer bytes before the first newcomer ({short_bytes(rival.fixed_bytes)})")
        if rival.training_s == 0 < dsv.training_s and rival.kind is not Kind.FEDAVG:  # who joins trains in the rounds
            respects.append("no training on the newcomer")
        elif 0 < rival.training_s < dsv.training_s:
            respects.append(f"a shorter training ({rival.training_s:.1f} s)")
        if respects:
            price = [] if rival.any_architecture else ["for one architecture alone"]
            price += ["private images leave their device"] if rival.images_leave else []
            lines.append(f"{_named(rival)}: {', '.join(respects)}{'; but ' + ', '.join(price) if price else ''}.")
    return lines
