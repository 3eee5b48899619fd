"""``savings.json`` in a run's folder: what was measured, and what follows from it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.links import LINKS
from deploy.rows import as_row
from deploy.savings import Kind, Way
from deploy.savings_report import savings_rows
from deploy.savings_words import Words, words
from dsv import DsvError
from protos.files import write_output

FILE_NAME = "savings.json"


@dataclass(frozen=True)
class Savings:
    """The comparison for one federation.

    Args:
        ways: all that were measured.
        target: the accuracy that they are compared at, 0 to 1.
        parameters: of the teacher.
    """

    ways: tuple[Way, ...]
    target: float
    parameters: int

    def words(self) -> Words:
        """Crossing points."""
        return words(self.ways, self.target, self.parameters)

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all.

        Raises:
            DsvError: it cannot be written.
        """
        content = {
            "target": self.target,
            "parameters": self.parameters,
            "ways": [asdict(way) for way in self.ways],
            "links": [asdict(link) for link in LINKS],
            "rows": savings_rows(self.ways),
            "words": asdict(self.words()),
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        }
        write_output(path, (json.dumps(content, indent=1) + "\n").encode(), "the comparison")


@dataclass(frozen=True)
class Measured:
    """What a ``savings.json`` holds: ways, and the accuracy up to which those were measured that stop where they are
    good enough."""

    ways: tuple[Way, ...]
    target: float


def read_measured(path: Path) -> Measured:
    """What was measured before.

    Raises:
        DsvError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = tuple(as_row(Way, row) for row in content["ways"])
        if not any(way.kind is Kind.FEDAVG_DSV for way in found) or not all(way.clients for way in found):
            raise ValueError("no DSVs, or no clients")
        target = float(content["target"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DsvError(f"{path} is not what dsv savings wrote, or it is truncated; measure with --again") from None
    return Measured(found, target)


def target_of(ways: Sequence[Way]) -> float:
    """The accuracy of the run's best DSVs, less its spread over the newcomers' seeds: what is as good as they are."""
    dsvs = [way for way in ways if way.kind is Kind.FEDAVG_DSV]
    return max((way.accuracy_mean - way.accuracy_std for way in dsvs), default=0.0)
