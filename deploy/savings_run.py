"""``dsv savings``: measure what is missing, keep it, show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from deploy.console import table_console
from deploy.finished_run import FinishedRun
from deploy.savings import Kind, Way
from deploy.savings_bench import UP_TO_TARGET, SavingsBench, one_shots_to_measure
from deploy.savings_file import FILE_NAME, Savings, read_measured, target_of
from deploy.savings_report import FOOTNOTE, savings_rows, sheets
from deploy.tables import write_rows
from dsv import checked_device
from protos.files import write_output
from server.progress import Display


@dataclass(frozen=True)
class SavingsOptions:
    """Options of ``dsv savings``; its help describes them. ``accuracy`` 0 takes that of the best DSVs, an empty
    ``device`` the run's."""

    accuracy: float
    one_shot: Sequence[str]
    again: bool
    device: str = ""


def savings_of(folder: Path, options: SavingsOptions, display: Display) -> Savings:
    """The comparison for a finished run: what its ``savings.json`` holds, and what that lacks, measured now.

    Every part is in that file as soon as it is measured; a call that was cut off goes on. What was measured up to
    another accuracy than this call's is measured anew.

    Raises:
        DsvError: no finished run, or its images are gone.
    """
    run = FinishedRun.open(folder)
    path = folder / FILE_NAME
    parameters = sum(parameter.numel() for parameter in run.teacher().model.parameters())
    ways: list[Way] = []
    if path.exists() and not options.again:
        before = read_measured(path)
        asked = options.accuracy or target_of(before.ways)
        ways = [way for way in before.ways if asked == before.target or way.kind not in UP_TO_TARGET]

    def kept() -> Savings:
        found = Savings(tuple(ways), options.accuracy or target_of(ways), parameters)
        found.write(path)
        return found

    if ways:
        display.say(f"measured before: {path}; --again measures anew")
    missing = set(Kind) - {way.kind for way in ways}
    if missing - {Kind.ONE_SHOT_DSV, Kind.ONE_SHOT_WEIGHTS} or one_shots_to_measure(run, ways, options.one_shot):
        device = checked_device(options.device or run.settings.device)
        here = replace(run, settings=replace(run.settings, device=str(device)))
        for part in SavingsBench(here, display).parts(ways, options.accuracy, options.one_shot):
            ways += part()
            kept()
    found = kept()
    return replace(found, ways=tuple(way for way in found.ways if _asked_for(way, options)))


def _asked_for(way: Way, options: SavingsOptions) -> bool:
    one_shot = way.kind in (Kind.ONE_SHOT_DSV, Kind.ONE_SHOT_WEIGHTS)
    return not one_shot or way.variant.split()[0].rstrip(",") in options.one_shot


def show(found: Savings, markdown: Path | None, out: Sequence[Path]) -> None:
    """Print the tables and the words, and write the files that are asked for.

    Raises:
        DsvError: a file cannot be written.
    """
    console = table_console()
    for sheet in sheets(found.ways, found.target):
        sheet.show(console)
    console.print(FOOTNOTE)
    for heading, lines in found.words().sections():
        console.print(f"\n[bold]{heading}[/bold]")
        for line in lines:
            console.print(f"  - {line}", soft_wrap=True, markup=False)
    for path in out:
        write_rows(path, savings_rows(found.ways))
        click.echo(f"written: {path}")
    if markdown is not None:
        write_output(markdown, as_markdown(found).encode(), "the tables")
        click.echo(f"written: {markdown}")


def as_markdown(found: Savings) -> str:
    """Tables and words as Markdown."""
    parts = [sheet.markdown() for sheet in sheets(found.ways, found.target)]
    parts.append(FOOTNOTE.replace("*", r"\*"))
    for heading, lines in found.words().sections():
        parts.append(f"**{heading}**\n\n" + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) + "\n"
