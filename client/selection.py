"""Which of a device's own images its model rests on. The images and what is said of them stay here."""

from __future__ import annotations

from collections.abc import Callable

import torch

from client.data import ImageSplit, open_split
from dsv import Checkpointing, Compute, DsvError, Selection, SelectionConfig, select
from protos.checkpoint import Checkpoint


def select_own_images(
    teacher: Checkpoint,
    data: str,
    root: str,
    config: SelectionConfig,
    compute: Compute,
    *,
    per_class: int = 1,
    checkpointing: Checkpointing | None = None,
    on_iteration: Callable[[int, float], None] | None = None,
) -> tuple[Selection, ImageSplit]:
    """Multipliers of the training images of ``data`` under ``teacher``, and those images.

    Args:
        per_class: how many images of every class will be asked for.
        checkpointing: where the selection's state is saved, from which it goes on after a kill.

    Raises:
        DsvError: as ``open_split`` and ``select``, or a class has fewer images than are asked for.
    """
    split = open_split(data, root, "train", teacher.task)
    fewest = int(torch.bincount(split.labels, minlength=teacher.task.classes).min())
    if per_class > fewest:
        raise DsvError(f"a class has {fewest} images; ask for 1 to {fewest} per class")
    chosen = select(
        *(teacher.model, split.load, split.labels, teacher.task, config),
        compute=compute,
        checkpointing=checkpointing,
        on_iteration=on_iteration,
    )
    return chosen, split
