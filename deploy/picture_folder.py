"""Where picture files for people go."""

from __future__ import annotations

from pathlib import Path

from dsv import Checkpointing, DsvError

_STATE = ".state"


def new_folder(folder: Path) -> None:
    """Make ``folder``, or take it when it is there and holds nothing but the state of ``state_in``.

    Raises:
        DsvError: it holds something, or it cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or not all(p.name.startswith(_STATE) for p in folder.iterdir())):
        raise DsvError(f"{folder} is not an empty folder; name a new one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DsvError(f"cannot make the folder {folder}: {error.strerror}; name another") from None


def state_in(folder: Path) -> Checkpointing:
    """Of an unfinished synthesis for ``folder``, which holds nothing else until it is done."""
    return Checkpointing(folder / _STATE)
