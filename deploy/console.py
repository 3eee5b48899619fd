"""The one way that commands print tables."""

from __future__ import annotations

from rich.console import Console

_LEAST_COLUMNS = 120


def table_console() -> Console:
    """A console without colours for numbers; a file or a pipe has no edge, so no figure is cut off at one."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _LEAST_COLUMNS)
    return console
