"""What a person sees while a run goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from server.progress import Display, PlainLines


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
        yield PlainLines(lambda line: print(line, flush=True))
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
