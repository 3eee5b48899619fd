"""What a run measured: the content of result.json. README.md describes every key; tests hold them to a schema."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class NewcomerRow:
    """A model trained from one downloaded release."""

    architecture: str
    images_per_class: int
    labels: str
    accuracy_mean: float
    accuracy_std: float
    downloaded_bytes: int
    release_digest: str


@dataclass(frozen=True)
class RivalRow:
    """What a newcomer could have had instead."""

    name: str
    architecture: str
    images_per_class: int
    accuracy_mean: float
    accuracy_std: float
    downloaded_bytes: int


@dataclass(frozen=True)
class TeacherRow:
    """The global model, and the bytes of its weights as Flower sent them to one client."""

    architecture: str
    accuracy: float
    weights_bytes: int

    def as_rival(self) -> RivalRow:
        """Just send the weights: the rival that every figure stands beside."""
        return RivalRow("teacher_weights", self.architecture, 0, self.accuracy, 0.0, self.weights_bytes)


@dataclass(frozen=True)
class LedgerRow:
    """Bytes of one message or transfer."""

    round: int
    client: int | str
    purpose: str
    direction: str
    bytes: int


@dataclass(frozen=True)
class Seconds:
    """Wall-clock time of the stages."""

    federation: float
    synthesis: float
    distribution: float
    bootstrap: float


@dataclass(frozen=True)
class Result:
    """Everything of result.json."""

    teacher: TeacherRow
    newcomers: list[NewcomerRow]
    rivals: list[RivalRow]
    ledger: list[LedgerRow]
    seconds: Seconds
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(temporary, path)
