"""Public images that a synthesis may start from. Private ones are never here: they stay with the clients."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dsv import DsvError, Task, picture_paths, read_picture


def load_start(folder: str, task: Task, images_per_class: int) -> Tensor:
    """Images for every class, (classes * images_per_class, C, H, W) uint8, sorted by class.

    A folder with one sub-folder per class gives each class its own images. Any other folder is a pool, from which the
    images are dealt in order of their paths: what a picture shows does not matter (the paper's zero-shot setting).

    Raises:
        DsvError: no such folder, too few images, or one that cannot be decoded.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DsvError(f"start folder {folder} does not exist; name a folder of images, or use noise")
    if all((root / name).is_dir() for name in task.class_names):
        return torch.cat([_first(root / name, images_per_class, task) for name in task.class_names])
    return _first(root, images_per_class * task.classes, task)


def _first(folder: Path, count: int, task: Task) -> Tensor:
    paths = picture_paths(folder)
    if len(paths) < count:
        raise DsvError(f"start folder {folder} has {len(paths)} images, {count} are needed; add images")
    return torch.stack([read_picture(path, task) for path in paths[:count]])
