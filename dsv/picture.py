"""Picture files in and out. Needs Pillow, which nothing else in this package does."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from dsv.errors import DsvError
from dsv.task import Task

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision's ImageFolder takes for an image."""


def picture_paths(folder: Path) -> list[Path]:
    """All picture files below ``folder``, sorted.

    Raises:
        DsvError: it or a folder in it cannot be read; passed over, its pictures would be missing and nobody told.
    """

    def refuse(error: OSError) -> None:
        raise DsvError(f"cannot read folder {error.filename}: {error.strerror}; let this user read it") from None

    found = [Path(place, name) for place, *names in os.walk(folder, onerror=refuse) for name in chain(*names)]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def folders_in(folder: Path) -> list[Path]:
    """The folders in ``folder``, sorted.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        DsvError: it cannot be read.
    """
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise DsvError(f"cannot read folder {folder}: {error.strerror}; let this user read it") from None


def folders_by_name(folder: Path) -> dict[str, Path]:
    """The folders in ``folder``, by their names.

    A class's name comes from elsewhere, a run, a release or a teacher's file: it is looked for among these, and never
    put behind a path, which ``..`` or a whole path would lead out of.

    Raises:
        FileNotFoundError, NotADirectoryError, DsvError: as ``folders_in``.
    """
    return {entry.name: entry for entry in folders_in(folder)}


def read_picture(path: Path, task: Task) -> Tensor:
    """(C, H, W) uint8 of a picture, upright as its EXIF says, its middle square resized to the task's size (bilinear).

    Raises:
        DsvError: the file cannot be read or decoded, or its grey values have 32 bits or are floats, whose range nobody
            tells.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.mode == "F" or (opened.mode == "I" and opened.format != "PPM"):
                raise DsvError(f"image {path} has grey values of 32 bits; store it with 8 or 16, or remove it")
            opened.load()
            picture = _eight_bit(_upright(opened)).convert("L" if task.channels == 1 else "RGB")
    # OSError: Pillow's own for what it does not know as well; RuntimeError: a damaged AVIF, whatever its name says
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        if reason := getattr(error, "strerror", None):  # the system's own words: Pillow's errors have none
            raise DsvError(f"image {path} cannot be read: {reason}; let this user read it, or remove it") from None
        raise DsvError(f"image {path} cannot be decoded; replace or remove it") from None
    side = task.image_size_px
    if picture.size != (side, side):
        square = min(picture.size)
        left, top = (picture.width - square) // 2, (picture.height - square) // 2
        picture = picture.crop((left, top, left + square, top + square))
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    pixels = numpy.asarray(picture).reshape(side, side, task.channels)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _upright(picture: Picture) -> Picture:
    """As a camera says that it was held."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # whatever a damaged EXIF raises: the picture itself may be whole
        return picture


def _eight_bit(picture: Picture) -> Picture:
    """With 8 bits a channel; Pillow's own conversion would cut 16 bits off at 255 (a PGM's have the mode I)."""
    from PIL import Image

    if picture.mode.startswith("I"):
        return Image.fromarray((numpy.asarray(picture).astype(numpy.float32) / 257).round().astype(numpy.uint8))
    return picture.convert("RGBA") if picture.mode == "P" and "transparency" in picture.info else picture


def write_picture(path: Path, image: Tensor) -> None:
    """Write a (C, H, W) uint8 image as PNG (or what the suffix says)."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)
