"""Picture files for people: where they go, and many images as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dsv import DsvError

_GAP_PX = 2
_CELL_MIN_PX = 64


def new_folder(folder: Path) -> None:
    """Make ``folder``, or take it when it is there and empty.

    Raises:
        DsvError: it holds something, or it cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DsvError(f"{folder} is not an empty folder; name a new one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DsvError(f"cannot make the folder {folder}: {error.strerror}; name another") from None


def sheet(rows: Sequence[Tensor]) -> Tensor:
    """(C, H, W) uint8: the images of every row beside each other on white; small ones are enlarged by whole factors.

    Args:
        rows: (n, C, S, S) uint8 each, of one C and S; n may differ. At least one row.
    """
    channels, side = rows[0].shape[1:3]
    scale = max(1, -(-_CELL_MIN_PX // side))
    cell = side * scale + _GAP_PX
    columns = max(len(row) for row in rows)
    drawn = torch.full((channels, len(rows) * cell + _GAP_PX, columns * cell + _GAP_PX), 255, dtype=torch.uint8)
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            top, left = number * cell + _GAP_PX, column * cell + _GAP_PX
            large = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
            drawn[:, top : top + large.shape[1], left : left + large.shape[2]] = large
    return drawn
