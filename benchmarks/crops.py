"""Crops of public pictures, which a server may use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dsv import Task, picture_paths, read_picture

_LEAST_SIDE_PX = 128


def random_crops(folder: Path, task: Task, count: int, generator: torch.Generator) -> Tensor:
    """Square crops, a quarter to the whole of the side, of a folder's pictures, (count, C, H, W) uint8 of ``task``.

    Raises:
        DsvError: no such folder, no picture in it, or one that cannot be decoded.
    """
    large = replace(task, image_size_px=max(_LEAST_SIDE_PX, task.image_size_px))
    pictures = torch.stack([read_picture(path, large) for path in picture_paths(folder)])
    crops = []
    for _ in range(count):
        picture = pictures[int(torch.randint(len(pictures), (1,), generator=generator))]
        side = int(large.image_size_px * float(0.25 + 0.75 * torch.rand(1, generator=generator)))
        room = large.image_size_px - side + 1
        top, left = (int(torch.randint(room, (1,), generator=generator)) for _ in range(2))
        crop = picture[None, :, top : top + side, left : left + side].float()
        crops.append(functional.interpolate(crop, task.image_size_px, mode="area").round().to(torch.uint8))
    return torch.cat(crops)
