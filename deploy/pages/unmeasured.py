"""The top of a report where no newcomer was measured, such as a deployment's: what was published, and the rival."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.ledger import NOT_SENT
from deploy.pages import words
from deploy.pages.facts import RunFacts
from deploy.units import short_bytes
from server.events import RoundEvaluated


@dataclass(frozen=True)
class Unmeasured:
    """What such a run can tell.

    Args:
        sizes: of its releases, in words; empty where there is none.
        sentences: what the federation moved, how good its model is as far as its clients say, and what the weights
            would take instead.
    """

    sizes: list[str]
    sentences: list[str]


def unmeasured(run: RunFacts) -> Unmeasured:
    """The releases beside the rival of their bytes."""
    told = [_moved(run), _accuracy(run), _rival(run)]
    return Unmeasured([short_bytes(release.size_bytes) for release in run.releases], [text for text in told if text])


def _moved(run: RunFacts) -> str:
    """Of the clients alone: whoever operates the federation, and newcomers, are rows of the ledger below."""
    rows = [row for row in run.ledger if row.purpose != NOT_SENT and isinstance(row.client, int)]
    clients, rounds = {row.client for row in rows}, {row.round for row in rows} - {0}
    if not clients:
        return ""
    up, down = (short_bytes(sum(row.bytes for row in rows if row.direction == way)) for way in ("up", "down"))
    who = words.plural(len(clients), "client")
    return f"The federation's {who} moved {up} up and {down} down in {words.plural(len(rounds), 'round')}."


def _accuracy(run: RunFacts) -> str:
    found = run.of_kind(RoundEvaluated)
    if not found:
        return ""
    return f"On images that the clients keep from training its model has {words.share(found[-1].accuracy)}."


def _rival(run: RunFacts) -> str:
    if not run.releases or not run.teacher_bytes:
        return ""
    architecture = words.short(run.releases[-1].support_set.provenance.teacher_architecture)
    return (
        f"The teacher's weights, for a newcomer that can run its architecture ({architecture}), are "
        f"{short_bytes(run.teacher_bytes)}."
    )
