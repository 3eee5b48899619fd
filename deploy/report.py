"""A run's result as a table for the terminal."""

from __future__ import annotations

from pathlib import Path

from deploy.console import table_console, table_of
from deploy.result import RIVALS, NewcomerRow, Result, RivalRow
from deploy.units import exact_bytes


def print_report(result: Result, run_dir: Path) -> None:
    """Newcomers, and beside them what they could have had instead."""
    console = table_console()
    table = table_of(
        *("trained from", "architecture", "labels", "/class", "accuracy", "download"),
        words=range(3),
        title="Test accuracy of newcomers, and of what they could have had instead",
    )
    for row in result.newcomers:
        table.add_row("[bold]DSVs[/bold]", row.architecture, row.labels, str(row.images_per_class), *_figures(row))
    table.add_section()
    for rival in result.rivals:
        words = RIVALS[rival.name]
        count = str(rival.images_per_class) if rival.images_per_class else "-"
        table.add_row(words.short, rival.architecture, words.labels or "-", count, *_figures(rival))
    console.print(table)
    for line in _lines(result):
        console.print(line, soft_wrap=True)
    console.print(f"result: {run_dir / 'result.json'}", soft_wrap=True)


def _figures(row: NewcomerRow | RivalRow) -> tuple[str, str]:
    spread = "" if row.accuracy_std == 0 else f" ± {row.accuracy_std:.1%}"
    return f"{row.accuracy_mean:.1%}{spread}", exact_bytes(row.downloaded_bytes)


def _lines(result: Result) -> list[str]:
    def total(purpose: str, direction: str) -> int:
        return sum(row.bytes for row in result.ledger if (row.purpose, row.direction) == (purpose, direction))

    up, down = total("weights", "up"), total("weights", "down")
    raw = total("raw_images_instead", "up")
    rounds = max(row.round for row in result.ledger)
    plural = f"{rounds} round{'' if rounds == 1 else 's'}"
    seconds = result.seconds
    return [
        f"federation: {result.clients} clients, {plural}: {exact_bytes(up)} up, {exact_bytes(down)} down "
        f"as Flower's messages carry them; uploading the images themselves would take {exact_bytes(raw)}",
        f"seconds: federation {seconds.federation:.0f}, synthesis {seconds.synthesis:.0f}, "
        f"distribution {seconds.distribution:.1f}, newcomers and rivals {seconds.bootstrap:.0f}",
    ]
