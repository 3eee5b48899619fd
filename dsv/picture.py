"""Picture files in and out. Needs Pillow, which nothing else in this package does."""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from torch import Tensor

from dsv.errors import DsvError
from dsv.task import Task

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision's ImageFolder takes for an image."""


def picture_paths(folder: Path) -> list[Path]:
    """All picture files below ``folder``, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def read_picture(path: Path, task: Task) -> Tensor:
    """(C, H, W) uint8 of a picture, its middle square resized to the task's size (bilinear).

    Raises:
        DsvError: the file cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            picture = opened.convert("L" if task.channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise DsvError(f"image {path} cannot be decoded; replace or remove it") from None
    side = task.image_size_px
    if picture.size != (side, side):
        square = min(picture.size)
        left, top = (picture.width - square) // 2, (picture.height - square) // 2
        picture = picture.crop((left, top, left + square, top + square))
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    pixels = numpy.asarray(picture).reshape(side, side, task.channels)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def write_picture(path: Path, image: Tensor) -> None:
    """Write a (C, H, W) uint8 image as PNG (or what the suffix says)."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)
