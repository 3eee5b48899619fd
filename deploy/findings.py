"""What ``dsv doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a finding is printed; BAD alone makes ``dsv doctor`` exit with 1."""

    FINE = "ok"
    WORRYING = "warn"
    BAD = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        about: such as clock.
        remedy: what to do; empty when nothing.
    """

    verdict: Verdict
    about: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.verdict:<5} {self.about:<13} {self.text}"
        return f"{line}\n{'':20}-> {self.remedy}" if self.remedy else line


def fine(about: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(Verdict.FINE, about, text)


def worrying(about: str, text: str, remedy: str) -> Finding:
    """Works today."""
    return Finding(Verdict.WORRYING, about, text, remedy)


def bad(about: str, text: str, remedy: str) -> Finding:
    """Does not work."""
    return Finding(Verdict.BAD, about, text, remedy)
