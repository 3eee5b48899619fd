"""Many images as one, in rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_GAP_PX = 2
_CELL_MIN_PX = 64


def sheet(rows: Sequence[Tensor]) -> Tensor:
    """(C, H, W) uint8: the images of every row beside each other on white; small ones are enlarged by whole factors.

    Args:
        rows: (n, C, S, S) uint8 each, of one C and S; n may differ. At least one row.
    """
    channels, side = rows[0].shape[1:3]
    scale = enlargement(side)
    cell = side * scale + _GAP_PX
    columns = max(len(row) for row in rows)
    drawn = torch.full((channels, len(rows) * cell + _GAP_PX, columns * cell + _GAP_PX), 255, dtype=torch.uint8)
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            top, left = number * cell + _GAP_PX, column * cell + _GAP_PX
            large = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
            drawn[:, top : top + large.shape[1], left : left + large.shape[2]] = large
    return drawn


def enlargement(side_px: int) -> int:
    """The whole factor that brings an image to at least 64 pixels."""
    return max(1, -(-_CELL_MIN_PX // side_px))
