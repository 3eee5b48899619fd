"""A run's curves for TensorBoard, from its events: while it goes on, or afterwards."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dsv import DsvError
from server.events import FILE_NAME, BytesMoved, Event, IterationDone, RoundDone, RoundEvaluated, read_events
from server.run_folder import run_folder_of

FOLDER = "tensorboard"
_FILES = "events.out.tfevents.*"
_TERMS = ("total", "stationarity", "primal", "total_variation", "norm", "entropy")


class Writer(Protocol):
    """What is used of torch's SummaryWriter."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """One point of a curve."""


@dataclass
class Curves:
    """Turns events into points. Steps are rounds of the federation, or iterations of the synthesis."""

    writer: Writer
    points: int = 0
    _moved: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def add(self, event: Event) -> None:
        """The points of one event; those of bytes come when their round ends."""
        if isinstance(event, BytesMoved):
            self._moved[event.purpose, event.direction] += event.bytes
        elif isinstance(event, RoundDone):
            self._point("federation/clients_averaged", event.averaged, event.round)
            self._point("federation/replies_refused", event.refused, event.round)
            if event.train_loss is not None:
                self._point("federation/train_loss", event.train_loss, event.round)
            for (purpose, direction), size_bytes in self._moved.items():
                self._point(f"bytes_so_far/{purpose}_{direction}", size_bytes, event.round)
        elif isinstance(event, RoundEvaluated):
            self._point("federation/accuracy", event.accuracy, event.round)
        elif isinstance(event, IterationDone):
            for term in _TERMS:
                tag = f"synthesis_{event.images_per_class}_per_class/{term}"
                self._point(tag, getattr(event, term), event.iteration)

    def _point(self, tag: str, value: float, step: int) -> None:
        self.writer.add_scalar(tag, value, step)
        self.points += 1


def check_tensorboard() -> None:
    """Raise DsvError unless tensorboard is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise DsvError("curves need tensorboard; install feddsv with its extra 'tensorboard'")


@contextmanager
def curves(folder: Path) -> Iterator[Curves]:
    """Curves that go into event files in ``folder``.

    Raises:
        DsvError: tensorboard is not installed, or the folder cannot be written.
    """
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    try:
        writer = SummaryWriter(str(folder))
    except OSError as error:
        raise DsvError(f"cannot write curves into {folder}: {error.strerror}; name another folder") from None
    try:
        yield Curves(writer)
    finally:
        writer.close()


def _make_room(folder: Path, *, own: bool) -> None:
    """Every point would stand there twice; our own folder's are written anew."""
    there = sorted(folder.glob(_FILES))
    if there and not own:
        raise DsvError(f"{folder} holds curves already; remove {there[0].name}, or name another --logdir")
    for path in there:
        path.unlink()


def write_curves(run: Path, folder: Path) -> int:
    """Write all curves of a run, finished or not, and return the number of points.

    Raises:
        DsvError: no run's events there, curves in a folder that is not the run's own, or as ``curves``.
    """
    where = run_folder_of(run)
    if not (where / FILE_NAME).exists():
        raise DsvError(f"{run} holds no {FILE_NAME}; name the folder of a run, such as runs/latest")
    check_tensorboard()
    events = read_events(where)
    _make_room(folder, own=folder == run / FOLDER)
    with curves(folder) as into:
        for event in events:
            into.add(event)
        return into.points
