"""What a person sees while a run goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from server.events import Event, IterationDone, LeavesDrawn, Published, RoundDone, RoundEvaluated, ViewsLabelled

_PLAIN_LINES = 10


class Display(Protocol):
    """Shows how far each named piece of work is."""

    def update(self, name: str, done: int, total: int, note: str) -> None:
        """``done`` of ``total`` steps of ``name`` are finished; ``note`` holds the loss terms or the like."""

    def say(self, line: str) -> None:
        """One line that stays."""


class _Plain:
    """About ten lines for every piece of work."""

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}

    def update(self, name: str, done: int, total: int, note: str) -> None:
        tenth = done * _PLAIN_LINES // total
        if done in (1, total) or tenth > self._shown.get(name, 0):
            self._shown[name] = tenth
            self.say(f"{name} {done}/{total}  {note}".rstrip())

    def say(self, line: str) -> None:
        print(line, flush=True)


class _Bars:
    """One bar with an ETA for every piece of work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        self._progress.update(self._tasks[name], completed=done, note=note)

    def say(self, line: str) -> None:
        self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def display(*, quiet: bool) -> Iterator[Display]:
    """Bars when standard output is a terminal and ``quiet`` is off, plain lines otherwise."""
    if quiet or not sys.stdout.isatty():
        yield _Plain()
        return
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("[dim]ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        yield _Bars(progress)


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
        note = f"loss {event.total:.3f} = stationarity {event.stationarity:.3f}, primal {event.primal:.3f}"
        name = f"synthesis {event.images_per_class}/class"
        display.update(name, event.iteration, event.iterations, f"{note}, tv {event.total_variation:.2f}")
    elif isinstance(event, ViewsLabelled):
        display.update(f"views {event.images_per_class}/class", event.done, event.total, "labelled by the teacher")
    elif isinstance(event, Published):
        display.say(f"published {event.images_per_class}/class, {event.size_bytes} bytes: {event.digest}")
