"""Many images as one, in rows, with captions where Pillow is."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

_GAP_PX = 2
_CELL_MIN_PX = 64
_TEXT_PX, _LINE_PX = 12, 15
_LETTERS = 40
_WHITE = 255


def sheet(rows: Sequence[Tensor], *, names: Sequence[str] = (), headings: Sequence[str] = ()) -> Tensor:
    """(C, H, W) uint8: the images of every row beside each other on white; small ones are enlarged by whole factors.

    Args:
        rows: (n, C, S, S) uint8 each, of one C and S; n may differ. At least one row.
        names: of the rows, written before them, up to 40 letters each; none leaves no room. Without Pillow no text is
            drawn.
        headings: of the columns, written above them as far as there is room.
    """
    channels, side = rows[0].shape[1:3]
    scale = enlargement(side)
    cell = side * scale + _GAP_PX
    columns = max(len(row) for row in rows)
    before, above = [_text(name) for name in names], [_text(heading)[:, : cell - _GAP_PX] for heading in headings]
    margin = max((text.shape[1] + 2 * _GAP_PX for text in before if text.numel()), default=0)
    head = max((text.shape[0] + _GAP_PX for text in above if text.numel()), default=0)
    drawn = torch.full(
        (channels, head + len(rows) * cell + _GAP_PX, margin + columns * cell + _GAP_PX), _WHITE, dtype=torch.uint8
    )
    for column, text in enumerate(above):
        _put(drawn, text, _GAP_PX, margin + _GAP_PX + column * cell + (cell - _GAP_PX - text.shape[1]) // 2)
    for number, row in enumerate(rows):
        top = head + number * cell + _GAP_PX
        if number < len(before):
            text = before[number]
            _put(drawn, text, top + (cell - _GAP_PX - text.shape[0]) // 2, margin - _GAP_PX - text.shape[1])
        for column, image in enumerate(row):
            _put(
                drawn,
                image.repeat_interleave(scale, 1).repeat_interleave(scale, 2),
                top,
                margin + column * cell + _GAP_PX,
            )
    return drawn


def enlargement(side_px: int) -> int:
    """The whole factor that brings an image to at least 64 pixels."""
    return max(1, -(-_CELL_MIN_PX // side_px))


def _put(drawn: Tensor, part: Tensor, top: int, left: int) -> None:
    drawn[:, top : top + part.shape[-2], left : left + part.shape[-1]] = part


def _text(line: str) -> Tensor:
    """(H, W) uint8, black on white; (0, 0) where there is no Pillow, which a GPU box needs for nothing else."""
    try:
        from PIL import Image, ImageDraw, ImageFont

        font = ImageFont.load_default(_TEXT_PX)
    except ImportError:  # of Pillow, or of its FreeType
        return torch.empty(0, 0, dtype=torch.uint8)
    # A class's name may be a stranger's, and of any length; and Pillow's own font has plain letters alone.
    short = line if len(line) <= _LETTERS else line[: _LETTERS - 3] + "..."
    plain = "".join(c for c in unicodedata.normalize("NFKD", short) if not unicodedata.combining(c))
    shown = plain.encode("ascii", "replace").decode()[:_LETTERS]
    image = Image.new("L", (max(1, round(font.getlength(shown))), _LINE_PX), _WHITE)
    ImageDraw.Draw(image).text((0, 0), shown, fill=0, font=font)
    return torch.from_numpy(numpy.array(image))
