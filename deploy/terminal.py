"""DSVs drawn in a terminal, for people on a device without a screen.

A character cell is about twice as high as wide, so an upper half block shows two pixels: one in the text's colour, one
in the background's. Where there are too few colours for that, a pixel becomes two characters of a brightness ramp.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.cells import cell_len, set_cell_size
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text
from torch import Tensor
from torch.nn import functional

from dsv import SupportSet, ranked

MAX_CLASSES = 20
_NAME_COLUMNS = 12
_COUNT_COLUMNS = 4  # "+190": how many more there are stands below the name
_SMALLEST_PX, _LARGEST_PX = 16, 32  # what larger images are shrunk to
_WANTED_IN_A_ROW = 4
_RAMP = " .:-=+*#%@"


@dataclass(frozen=True)
class Layout:
    """How images are fitted into a terminal.

    Args:
        name_columns: for the class names.
        side_px: pixels a side that an image is drawn with.
        scale: cells a pixel.
        in_a_row: images of a class that fit.
        colours: half blocks in colour, or characters of a ramp.
    """

    name_columns: int
    side_px: int
    scale: int
    in_a_row: int
    colours: bool

    @property
    def image_columns(self) -> int:
        """Cells that an image is wide."""
        return self.side_px * self.scale * (1 if self.colours else 2)


def layout(support_set: SupportSet, console: Console) -> Layout:
    """The layout for a console: small images are enlarged as long as all of a class fit, large ones are shrunk."""
    colours = console.color_system in ("truecolor", "256") and not console.no_color and _prints(console, "▀")
    names = max(cell_len(name) for name in support_set.task.class_names)
    name_columns = min(_NAME_COLUMNS, max(names, _COUNT_COLUMNS))
    room = max(1, console.width - name_columns)
    a_pixel = 1 if colours else 2
    most = int(support_set.labels.bincount().max())
    share = room // (a_pixel * min(most, _WANTED_IN_A_ROW)) - 1
    side = min(support_set.task.image_size_px, max(_SMALLEST_PX, min(_LARGEST_PX, share)))
    side = max(1, min(side, (room - 1) // a_pixel))
    scale = max(1, min(_LARGEST_PX // side, (room // most - 1) // side, 2)) if colours else 1
    columns = side * a_pixel * scale
    return Layout(name_columns, side, scale, max(1, min(most, room // (columns + 1))), colours)


def print_pictures(support_set: SupportSet, console: Console) -> None:
    """A row for every class, largest multiplier first, as many images as fit; multipliers below them."""
    fitted = layout(support_set, console)
    sign = "λ " if _prints(console, "λ") else ""
    rows = list(ranked(support_set))
    for label, order in rows[:MAX_CLASSES]:
        for line in _class_lines(support_set, label, order, fitted, sign):
            console.print(line, no_wrap=True, overflow="crop", crop=True)
    if len(rows) > MAX_CLASSES:
        console.print(f"... and {len(rows) - MAX_CLASSES} more classes")


def _prints(console: Console, character: str) -> bool:
    try:
        character.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _class_lines(support_set: SupportSet, label: int, order: Tensor, fitted: Layout, sign: str) -> list[Text]:
    shown = order[: fitted.in_a_row]
    images = support_set.images[shown]
    if images.shape[-1] != fitted.side_px:
        images = functional.adaptive_avg_pool2d(images.float(), fitted.side_px).round().to(torch.uint8)
    images = images.repeat_interleave(fitted.scale, 2).repeat_interleave(fitted.scale, 3)
    drawn = [_blocks(image) if fitted.colours else _ramp(image) for image in images]
    name = set_cell_size(support_set.task.class_names[label], fitted.name_columns)
    lines = []
    for number, parts in enumerate(zip(*drawn, strict=True)):
        line = Text().append(name if number == 0 else " " * fitted.name_columns, "bold")
        for part in parts:
            line.append(" ").append_text(part)
        lines.append(line)
    below = Text(" " * fitted.name_columns, style="dim")
    for multiplier in support_set.multipliers[shown].tolist():
        below.append(" " + set_cell_size(sign + _short(multiplier), fitted.image_columns))
    if len(shown) < len(order):
        more = f"+{len(order) - len(shown)}"
        below = Text(set_cell_size(more, fitted.name_columns), style="dim").append_text(below[fitted.name_columns :])
    return [*lines, below]


def _short(multiplier: float) -> str:
    return f"{multiplier:.2f}" if multiplier < 100 else f"{multiplier:.0f}"


def _blocks(image: Tensor) -> list[Text]:
    """Lines of half blocks of a (C, H, W) image."""
    colours = image.expand(3, -1, -1).permute(1, 2, 0).tolist()
    lines = []
    for top in range(0, len(colours), 2):
        line = Text()
        for column in range(len(colours[top])):
            upper = Color.from_rgb(*colours[top][column])
            lower = Color.from_rgb(*colours[top + 1][column]) if top + 1 < len(colours) else None
            line.append("▀", Style(color=upper, bgcolor=lower))
        lines.append(line)
    return lines


def _ramp(image: Tensor) -> list[Text]:
    """Lines of ramp characters, two a pixel: bright pixels are dense, as on a dark terminal."""
    levels = (image.float().mean(0) * (len(_RAMP) - 1) / 255).round().long().tolist()
    return [Text("".join(2 * _RAMP[level] for level in row)) for row in levels]
