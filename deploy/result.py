"""What a run measured: the content of result.json. README.md describes every key; tests hold them to a schema."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from deploy.rows import MOST, as_row
from dsv import DsvError
from protos.files import write_atomically

_Row = TypeVar("_Row")


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


class RivalWords(NamedTuple):
    """A rival for people: in a table, in a sentence, and the kind of labels that it is trained with."""

    short: str
    phrase: str
    labels: str = ""


RIVALS = {
    "untrained": RivalWords("nothing, untrained", "an untrained model"),
    "noise_soft": RivalWords("noise images", "as many noise images", "soft"),
    "noise_view": RivalWords("noise images", "as many noise images", "view"),
    "random_real_hard": RivalWords("random real images", "as many random real images", "hard"),
    "random_real_soft": RivalWords("random real images", "as many random real images", "soft"),
    "random_real_view": RivalWords("random real images", "as many random real images", "view"),
    "teacher_weights": RivalWords("teacher's weights", "the teacher's weights"),
    "teacher_weights_int8": RivalWords("weights in int8", "the teacher's weights in int8"),
    "client_ensemble": RivalWords("clients' ensemble", "clients' ensemble"),
    "client_ensemble_int8": RivalWords("ensemble in int8", "clients' ensemble in int8"),
}
"""Every name that ``RivalRow`` has."""


@dataclass(frozen=True)
class TeacherRow:
    """The global model, and the bytes of its weights as Flower sent them to one client."""

    architecture: str
    accuracy: float
    weights_bytes: int


@dataclass(frozen=True)
class LedgerRow:
    """Bytes of one message or transfer."""

    round: int
    client: int | str
    purpose: str
    direction: str
    bytes: int


@dataclass(frozen=True)
class ConfusionRow:
    """What one kind of model took the test images for.

    Args:
        model: ``teacher`` or ``newcomer``.
        architecture: of the model.
        images_per_class: of the release that it was trained from; 0 for the teacher.
        labels: ``hard``, ``soft`` or ``view``; empty for the teacher.
        counts: (class, class that it was taken for, images), where images is not 0; summed over a newcomer's seeds.
    """

    model: str
    architecture: str
    images_per_class: int
    labels: str
    counts: list[tuple[int, int, int]]


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
    confusions: list[ConfusionRow] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def clients(self) -> int:
        """How many there are: a round may have asked some alone, but all of them hold images."""
        return len({row.client for row in self.ledger if row.purpose in ("weights", "raw_images_instead")})

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        text = json.dumps(asdict(self), indent=1)
        write_atomically(path, (_SPREAD_TRIPLE.sub(r"[\1, \2, \3]", text) + "\n").encode())


_SPREAD_TRIPLE = re.compile(r"\[\s+(\d+),\s+(\d+),\s+(\d+)\s+\]")
"""A cell of a confusion matrix as ``indent`` writes it: on five lines."""


def read_result(path: Path) -> Result:
    """What a run wrote; keys of newer versions are passed over, and ``confusions`` may be missing. Settings get the
    command line's spelling, which older runs did not give to all of them.

    Raises:
        DsvError: no such file, or its content is not a run's result.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DsvError(f"cannot read {path}: {error.strerror}; name the folder of a finished run") from None
    except (ValueError, RecursionError):
        raise DsvError(f"{path} is not JSON; name the folder of a run whose {path.name} is whole") from None
    try:
        return Result(
            teacher=_row(TeacherRow, found["teacher"]),
            newcomers=[_row(NewcomerRow, row) for row in found["newcomers"]],
            rivals=[_row(RivalRow, row) for row in found["rivals"]],
            ledger=[_row(LedgerRow, row) for row in found["ledger"]],
            seconds=_row(Seconds, found["seconds"]),
            confusions=[_confusion(row) for row in found.get("confusions", [])],
            settings={str(name).replace("_", "-"): value for name, value in found["settings"].items()},
            versions={str(name): str(value) for name, value in found["versions"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DsvError(f"{path} is no result of a run ({error!r}); see docs/result.schema.json") from None


def _row(kind: type[_Row], found: Any) -> _Row:
    return as_row(kind, {entry.name: found[entry.name] for entry in fields(kind)})  # type: ignore[arg-type]


def _confusion(found: Any) -> ConfusionRow:
    row = _row(ConfusionRow, found)
    counts = [(int(true), int(seen), int(count)) for true, seen, count in row.counts]
    if any(true < 0 or seen < 0 or not 0 < count < MOST for true, seen, count in counts):
        raise ValueError("counts are not [class, class, images above 0]")
    return replace(row, counts=counts)
