"""What a synthesis starts from: noise, dead leaves, or public images. Private ones stay with the clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dsv import (
    DEAD_LEAVES,
    GIVEN_IMAGES,
    DsvError,
    Start,
    Task,
    dead_leaves_start,
    folders_by_name,
    picture_paths,
    read_picture,
    shows_photographs,
)
from protos.settings import AUTO, NOISE


def starts_of(
    choice: str,
    task: Task,
    releases: Sequence[int],
    *,
    seed: int,
    label: Callable[[Tensor], Tensor],
    classes: Sequence[int] | None = None,
    on_drawn: Callable[[int, int], None] | None = None,
) -> dict[int, Start | None]:
    """What the synthesis of each release starts from, by its number of images per class; None is noise.

    Args:
        choice: ``noise``, ``dead-leaves``, ``auto`` or a folder. Automatic is what was measured to be better
            (docs/zero-shot.md): dead leaves for colour images of 16 to 64 pixels, noise for grey ones; and noise for
            sizes that were not measured.
        seed: of the dead leaves.
        label: the teacher's probabilities, by which dead leaves are chosen.
        classes: that the releases are of; all of the task when None.
        on_drawn: see ``dead_leaves_start``.

    Raises:
        DsvError: as ``load_start``.
    """
    if choice == AUTO:
        choice = DEAD_LEAVES if shows_photographs(task) else NOISE
    if choice == NOISE:
        return dict.fromkeys(releases)
    if is_folder(choice):
        name = Path(choice).resolve().name  # a release tells no path
        if not is_folder(name) or name in ("", GIVEN_IMAGES):  # nor does a folder pass for what was drawn, or edited
            name = f"folder {name}"
        return {count: Start(name, load_start(choice, task, count, classes)) for count in releases}
    # Drawn once: a smaller release starts from the surest of the largest one's.
    drawn = dead_leaves_start(label, task, max(releases), seed=seed, on_drawn=on_drawn)
    images = drawn.images.view(task.classes, max(releases), *task.image_shape)
    return {count: Start(drawn.name, images[list(_all(classes, task)), :count].flatten(0, 1)) for count in releases}


def is_folder(choice: str) -> bool:
    """Whether the option ``start`` names a folder."""
    return choice not in {AUTO, NOISE, DEAD_LEAVES}


def check_start(choice: str, task: Task, images_per_class: int) -> None:
    """Raise DsvError unless there is what ``starts_of`` needs, so that nobody trains first."""
    if is_folder(choice):
        load_start(choice, task, images_per_class)


def load_start(folder: str, task: Task, images_per_class: int, classes: Sequence[int] | None = None) -> Tensor:
    """Images for each of ``classes`` (all when None) in turn, (len(classes) * images_per_class, C, H, W) uint8.

    A folder with one sub-folder per class gives each class its own images. Any other folder is a pool, from which the
    images are dealt in order of their paths: what a picture shows does not matter (the paper's zero-shot setting).

    Raises:
        DsvError: no such folder, too few images, or one that cannot be decoded.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DsvError(f"start folder {folder} does not exist; name a folder of images, or auto, noise or dead-leaves")
    here = folders_by_name(root)
    names = [task.class_names[index] for index in _all(classes, task)]
    if all(name in here for name in names):
        return torch.cat([_first(here[name], images_per_class, task) for name in names])
    return _first(root, images_per_class * len(names), task)


def _all(classes: Sequence[int] | None, task: Task) -> Sequence[int]:
    return range(task.classes) if classes is None else classes


def _first(folder: Path, count: int, task: Task) -> Tensor:
    paths = picture_paths(folder)
    if len(paths) < count:
        raise DsvError(f"start folder {folder} has {len(paths)} images, {count} are needed; add images")
    return torch.stack([read_picture(path, task) for path in paths[:count]])
