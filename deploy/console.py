"""The one way that commands print tables."""

from __future__ import annotations

from collections.abc import Collection

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_LEAST_COLUMNS = 120
_LONGEST_FIGURE = 14


def table_console() -> Console:
    """A console without colours for numbers; a file or a pipe has no edge, so no figure is cut off at one."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _LEAST_COLUMNS)
    return console


def table_of(*headings: str, words: Collection[int] = (0,), title: str | None = None) -> Table:
    """An empty table with these columns; those whose numbers stand in ``words`` are text, the others figures, which
    stand at the right and keep to one line. So would a heading, which may break where it is longer than they are."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        figure = number not in words
        table.add_column(
            heading, justify="right" if figure else "left", no_wrap=figure and len(heading) <= _LONGEST_FIGURE
        )
    return table
