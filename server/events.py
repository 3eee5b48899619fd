"""What a run tells while it goes on, as JSON lines: for progress, the ledger and curves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from dsv import DsvError

FILE_NAME = "events.jsonl"


@dataclass(frozen=True)
class BytesMoved:
    """One purpose's part of a message between server and client, as Flower serialises it.

    ``purpose`` is ``weights`` or ``control`` (all else), ``direction`` is ``up`` or ``down``.
    """

    round: int
    client: int
    purpose: str
    direction: str
    bytes: int


@dataclass(frozen=True)
class ClientNumbered:
    """A client is asked for the first time; those of one round are numbered in order of node id."""

    client: int
    node: int


@dataclass(frozen=True)
class RoundDone:
    """One round of federated averaging; ``refused`` counts errors and replies the allow-list refused."""

    round: int
    rounds: int
    averaged: int
    refused: int
    train_loss: float | None


@dataclass(frozen=True)
class RoundEvaluated:
    """What the clients found of a round's model: mean accuracy on the images they keep from training, 0 to 1."""

    round: int
    evaluated: int
    refused: int
    accuracy: float


@dataclass(frozen=True)
class FederationDone:
    """The global model is final."""

    teacher: str
    seconds: float


@dataclass(frozen=True)
class LeavesDrawn:
    """So many of the pictures that a synthesis may start from are drawn and looked at."""

    done: int
    total: int


@dataclass(frozen=True)
class IterationDone:
    """One step of a synthesis, with the terms of the loss."""

    images_per_class: int
    iteration: int
    iterations: int
    total: float
    stationarity: float
    primal: float
    total_variation: float
    norm: float
    entropy: float


@dataclass(frozen=True)
class ViewsLabelled:
    """So many of the views of a release's images are labelled by the teacher."""

    images_per_class: int
    done: int
    total: int


@dataclass(frozen=True)
class Published:
    """A release is in the store."""

    digest: str
    images_per_class: int
    size_bytes: int
    path: str


@dataclass(frozen=True)
class SynthesisDone:
    """All releases of the run are published."""

    seconds: float


@dataclass(frozen=True)
class Failed:
    """The run ended early; ``reason`` is one line for its owner."""

    reason: str


Event = (
    BytesMoved
    | ClientNumbered
    | RoundDone
    | RoundEvaluated
    | FederationDone
    | LeavesDrawn
    | IterationDone
    | ViewsLabelled
    | Published
    | SynthesisDone
    | Failed
)
_KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}
_HINTS = {name: get_type_hints(kind) for name, kind in _KINDS.items()}
_MOST = 1 << 64  # no count reaches it, nor the number of a node


class EventLog:
    """Appends events to a run's ``events.jsonl``, whose one writer it is; each line is in the file before ``write``
    returns. What a killed writer left of a last line is taken away."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / FILE_NAME
        if self._path.exists():
            with self._path.open("r+b") as opened:
                opened.truncate(opened.read().rfind(b"\n") + 1)

    def write(self, event: Event) -> None:
        """Append one event."""
        line = json.dumps({"event": type(event).__name__, **asdict(event)})
        with self._path.open("a", encoding="utf-8") as opened:
            opened.write(line + "\n")


class EventReader:
    """Reads a run's events, those only that came since the last call."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / FILE_NAME
        self._offset = 0

    def new(self) -> Iterator[Event]:
        """Events written since the last call; a line that is not whole yet waits for the next."""
        if not self._path.exists():
            return
        with self._path.open("rb") as opened:
            opened.seek(self._offset)
            for line in opened:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                yield _parsed(line)


def read_events(run_dir: Path) -> list[Event]:
    """All events of a run."""
    return list(EventReader(run_dir).new())


def synthesis_curves(events: Iterable[Event]) -> dict[int, list[IterationDone]]:
    """Iterations of every synthesis by images per class, in order; one that was resumed has each of its own once."""
    found: dict[int, dict[int, IterationDone]] = {}
    for event in events:
        if isinstance(event, IterationDone):
            found.setdefault(event.images_per_class, {})[event.iteration] = event
    return {count: [own[i] for i in sorted(own)] for count, own in sorted(found.items())}


def _parsed(line: bytes) -> Event:
    try:
        fields = json.loads(line)
        name = fields.pop("event")
        if not all(_is_of(_HINTS[name][key], value) for key, value in fields.items()):
            raise TypeError(name)
        return _KINDS[name](**fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DsvError(f"{FILE_NAME} holds a line that is no event: {line[:80]!r}") from None


def _is_of(hint: Any, value: object) -> bool:
    kinds = get_args(hint) or (hint,)
    if type(value) is int:  # JSON may have a whole number where a float is meant
        return (int in kinds or float in kinds) and abs(value) < _MOST
    return type(value) in kinds
