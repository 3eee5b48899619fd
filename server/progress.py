"""What a person is told while a run goes on, wherever it is shown: in a log, as plain lines or as bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from server.events import Event, IterationDone, LeavesDrawn, Published, RoundDone, RoundEvaluated, ViewsLabelled

_LINES = 10


class Display(Protocol):
    """Shows how far each named piece of work is."""

    def update(self, name: str, done: int, total: int, note: str) -> None:
        """``done`` of ``total`` steps of ``name`` are finished; ``note`` holds the loss terms or the like."""

    def say(self, line: str) -> None:
        """One line that stays."""


class PlainLines:
    """About ten lines for every piece of work.

    Args:
        say: told each line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._shown: dict[str, int] = {}

    def update(self, name: str, done: int, total: int, note: str) -> None:
        tenth = done * _LINES // total
        if done in (1, total) or tenth > self._shown.get(name, 0):
            self._shown[name] = tenth
            self.say(f"{name} {done}/{total}  {note}".rstrip())

    def say(self, line: str) -> None:
        self._say(line)


def show_event(event: Event, display: Display) -> None:
    """Tell a person what happened."""
    if isinstance(event, RoundDone):
        loss = "" if event.train_loss is None else f"loss {event.train_loss:.3f}"
        refused = f", {event.refused} refused" if event.refused else ""
        display.update("federation rounds", event.round, event.rounds, f"{loss}  {event.averaged} averaged{refused}")
    elif isinstance(event, RoundEvaluated):
        refused = f", {event.refused} refused" if event.refused else ""
        display.say(f"round {event.round}: accuracy {event.accuracy:.1%} on {event.evaluated} clients{refused}")
    elif isinstance(event, LeavesDrawn):
        display.update("pictures to start from", event.done, event.total, "dead leaves")
    elif isinstance(event, IterationDone):
        note = f"loss {event.total:.3f}; stationarity {event.stationarity:.3f}, primal {event.primal:.3f}"
        name = f"synthesis {event.images_per_class}/class"
        display.update(name, event.iteration, event.iterations, f"{note}, tv {event.total_variation:.2f}")
    elif isinstance(event, ViewsLabelled):
        display.update(f"views {event.images_per_class}/class", event.done, event.total, "labelled by the teacher")
    elif isinstance(event, Published):
        display.say(f"published {event.images_per_class}/class, {event.size_bytes:,} bytes: {event.path}")
