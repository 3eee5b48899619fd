"""What a synthesis starts from: noise, dead leaves, or public images. Private ones stay with the clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dsv import DEAD_LEAVES, DsvError, Start, Task, dead_leaves_start, picture_paths, read_picture
from protos.settings import AUTO, NOISE

_LEAVES_FROM_PX, _LEAVES_TO_PX = 16, 64


def starts_of(
    choice: str,
    task: Task,
    releases: Sequence[int],
    *,
    seed: int,
    label: Callable[[Tensor], Tensor],
    on_drawn: Callable[[int, int], None] | None = None,
) -> dict[int, Start | None]:
    """What the synthesis of each release starts from, by its number of images per class; None is noise.

    Args:
        choice: ``noise``, ``dead-leaves``, ``auto`` or a folder. Automatic is what was measured to be better
            (docs/zero-shot.md): dead leaves for colour images of 16 to 64 pixels, noise for grey ones; and noise for
            sizes that were not measured.
        seed: of the dead leaves.
        label: the teacher's probabilities, by which dead leaves are chosen.
        on_drawn: see ``dead_leaves_start``.

    Raises:
        DsvError: as ``load_start``.
    """
    if choice == AUTO:
        photographs = task.channels == 3 and _LEAVES_FROM_PX <= task.image_size_px <= _LEAVES_TO_PX
        choice = DEAD_LEAVES if photographs else NOISE
    if choice == NOISE:
        return dict.fromkeys(releases)
    if choice != DEAD_LEAVES:
        return {count: Start(choice, load_start(choice, task, count)) for count in releases}
    # Drawn once: a smaller release starts from the surest of the largest one's.
    drawn = dead_leaves_start(label, task, max(releases), seed=seed, on_drawn=on_drawn)
    images = drawn.images.view(task.classes, max(releases), *task.image_shape)
    return {count: Start(drawn.name, images[:, :count].flatten(0, 1)) for count in releases}


def load_start(folder: str, task: Task, images_per_class: int) -> Tensor:
    """Images for every class, (classes * images_per_class, C, H, W) uint8, sorted by class.

    A folder with one sub-folder per class gives each class its own images. Any other folder is a pool, from which the
    images are dealt in order of their paths: what a picture shows does not matter (the paper's zero-shot setting).

    Raises:
        DsvError: no such folder, too few images, or one that cannot be decoded.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DsvError(f"start folder {folder} does not exist; name a folder of images, or auto, noise or dead-leaves")
    if all((root / name).is_dir() for name in task.class_names):
        return torch.cat([_first(root / name, images_per_class, task) for name in task.class_names])
    return _first(root, images_per_class * task.classes, task)


def _first(folder: Path, count: int, task: Task) -> Tensor:
    paths = picture_paths(folder)
    if len(paths) < count:
        raise DsvError(f"start folder {folder} has {len(paths)} images, {count} are needed; add images")
    return torch.stack([read_picture(path, task) for path in paths[:count]])
