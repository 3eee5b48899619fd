"""The run in a sentence, and beside it every rival, whether it is worse or better."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deploy.pages import words
from deploy.result import RIVALS, NewcomerRow, Result, RivalRow
from deploy.units import short_bytes

_NO_GOAL = ("untrained", "noise_soft", "noise_view")
"""Rivals that nobody would take: they show that the images matter."""


@dataclass(frozen=True)
class Comparison:
    """DSVs against one rival.

    Args:
        rival: in words.
        labels: that it is trained with; may be empty.
        accuracy: with spread.
        size: of its download.
        points: the newcomer's accuracy less the rival's, in words.
        saving: bytes against the rival's, in words.
        verdict: who wins, in words.
        lost: whether the rival is at least as accurate for no more bytes.
    """

    rival: str
    labels: str
    accuracy: str
    size: str
    points: str
    saving: str
    verdict: str
    lost: bool


@dataclass(frozen=True)
class Headline:
    """What stands on top of a report.

    Args:
        accuracy: of the newcomer.
        size: of its download.
        newcomer: its architecture, DSVs per class and labels, in words.
        teacher: a sentence on what the images come from, and its accuracy.
        savings: what it takes less, and what more, than each rival that anybody would take.
        comparisons: one per rival.
        lost_to: the rivals that are at least as accurate for no more bytes.
    """

    accuracy: str
    size: str
    newcomer: str
    teacher: str
    savings: str
    comparisons: list[Comparison]
    lost_to: list[str]


def best_newcomer(result: Result) -> NewcomerRow | None:
    """The most accurate newcomer of the first architecture, which is every rival's too."""
    own = [row for row in result.newcomers if row.architecture == result.newcomers[0].architecture]
    return max(own, key=lambda row: row.accuracy_mean, default=None)


def headline(result: Result) -> Headline | None:
    """The sentence; None where no newcomer was trained."""
    row = best_newcomer(result)
    if row is None:
        return None
    fair = [rival for rival in result.rivals if rival.images_per_class in (0, row.images_per_class)]
    fair.sort(key=lambda rival: -rival.downloaded_bytes)
    same = [r for r in fair if r.name != "untrained" or r.architecture == row.architecture]
    goals = [rival for rival in same if rival.name not in _NO_GOAL]
    comparisons = [compare(row, rival) for rival in same]
    return Headline(
        accuracy=words.share(row.accuracy_mean),
        size=short_bytes(row.downloaded_bytes),
        newcomer=newcomer_in_words(row),
        teacher=_teacher(result),
        savings=_savings(row, goals),
        comparisons=comparisons,
        lost_to=list(dict.fromkeys(c.rival for c in comparisons if c.lost)),
    )


def _teacher(result: Result) -> str:
    clients = next((rival for rival in result.rivals if rival.name == "client_ensemble"), None)
    if clients is None:
        return f"The teacher that the images come from has {words.share(result.teacher.accuracy)}."
    return f"The clients' models that the images come from have {words.share(clients.accuracy_mean)} together."


def compare(row: NewcomerRow, rival: RivalRow) -> Comparison:
    """One line of the comparison; accuracies closer than their spread are level."""
    gain = row.accuracy_mean - rival.accuracy_mean
    level = abs(gain) <= math.hypot(row.accuracy_std, rival.accuracy_std)
    fewer = row.downloaded_bytes < rival.downloaded_bytes
    return Comparison(
        rival=rival_in_words(rival),
        labels=_labels(rival),
        accuracy=words.share(rival.accuracy_mean, rival.accuracy_std),
        size=short_bytes(rival.downloaded_bytes) if rival.downloaded_bytes else "nothing",
        points=f"{words.signed(100 * gain, 1)} points",
        saving=_saving(row.downloaded_bytes, rival.downloaded_bytes),
        verdict=_verdict(gain, level, fewer),
        lost=not fewer and (level or gain < 0),
    )


def newcomer_in_words(row: NewcomerRow) -> str:
    """What it is and what it was trained from."""
    images = words.plural(row.images_per_class, "DSV")
    return f"{words.short(row.architecture)}, {images} per class, {row.labels} labels"


def rival_in_words(rival: RivalRow) -> str:
    """Its name as a reader understands it."""
    return RIVALS[rival.name].phrase if rival.name in RIVALS else words.short(rival.name)


def _labels(rival: RivalRow) -> str:
    known = RIVALS.get(rival.name)
    return f"{known.labels} labels" if known and known.labels else ""


def _savings(row: NewcomerRow, goals: list[RivalRow]) -> str:
    """A sentence; of rivals that differ in their labels alone, the one that speaks is the smallest that is as accurate
    as the newcomer, or, where none is, the most accurate."""
    best: dict[str, RivalRow] = {}
    for rival in goals:
        name = rival_in_words(rival)
        if name not in best or _strength(row, rival) > _strength(row, best[name]):
            best[name] = rival
    parts = [
        f"{_saving(row.downloaded_bytes, rival.downloaded_bytes)} bytes than {name} "
        f"({words.share(rival.accuracy_mean)} for {short_bytes(rival.downloaded_bytes)})"
        for name, rival in sorted(best.items(), key=lambda found: -found[1].downloaded_bytes)
        if rival.downloaded_bytes
    ]
    return f"It takes {', and '.join(parts)}." if parts else ""


def _strength(row: NewcomerRow, rival: RivalRow) -> tuple[bool, float]:
    gain = row.accuracy_mean - rival.accuracy_mean
    holds = gain <= math.hypot(row.accuracy_std, rival.accuracy_std)
    return holds, -rival.downloaded_bytes if holds else rival.accuracy_mean


def _saving(own_bytes: int, rival_bytes: int) -> str:
    if not rival_bytes or not own_bytes:
        return words.NONE
    way = "fewer" if own_bytes <= rival_bytes else "more"
    ratio = max(own_bytes, rival_bytes) / min(own_bytes, rival_bytes)
    if ratio >= 1.95:
        return f"{words.factor(ratio)} times {way}"
    percent = 100 * abs(own_bytes - rival_bytes) / rival_bytes
    return f"{percent:.{0 if percent >= 1 else 1}f}{words.UNBROKEN}% {way}"


def _verdict(gain: float, level: bool, fewer: bool) -> str:
    if level:
        return "level, and DSVs smaller" if fewer else "level, but the rival smaller"
    if gain > 0:
        return "DSVs better in both" if fewer else "DSVs more accurate, but larger"
    return "DSVs smaller, but less accurate" if fewer else "the rival better in both"
