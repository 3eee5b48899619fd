"""Which of a device's own images its model rests on. The images and what is said of them stay here."""

from __future__ import annotations

from collections.abc import Callable

from client.data import ImageSplit, open_split
from dsv import Compute, DsvError, Selection, SelectionConfig, select
from protos.checkpoint import Checkpoint


def select_own_images(
    teacher: Checkpoint,
    data: str,
    root: str,
    config: SelectionConfig,
    compute: Compute,
    *,
    on_iteration: Callable[[int, float], None] | None = None,
) -> tuple[Selection, ImageSplit]:
    """Multipliers of the training images of ``data`` under ``teacher``, and those images.

    Raises:
        DsvError: as ``open_split`` and ``select``, or images of other classes than the teacher's.
    """
    split = open_split(data, root, "train", teacher.task)
    if len(split) and int(split.labels.max()) >= teacher.task.classes:
        raise DsvError(f"data {data} has more classes than the teacher's {teacher.task.classes}; name its own data")
    chosen = select(
        teacher.model, split.load, split.labels, teacher.task, config, compute=compute, on_iteration=on_iteration
    )
    return chosen, split
