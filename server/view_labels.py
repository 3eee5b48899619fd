"""Which views of a release's images the teacher labels for newcomers."""

from __future__ import annotations

from dataclasses import replace

from dsv import DsvError, Task, ViewPlan
from protos.settings import AUTO
from server.start_images import MEASURED_PX, shows_photographs

LARGE = ViewPlan(24_000, temperature=2.0)
SMALL = ViewPlan(4_000, temperature=0.25)
"""Of images of 16 to 64 pixels, and of smaller ones; measured in docs/zero-shot.md."""
LEAVES = 4_000
LEAVES_SHARE = 0.25


def plan_of(choice: str, task: Task, seed: int) -> ViewPlan | None:
    """The plan that the option ``views`` asks for, or None for no views.

    Args:
        choice: a number of views, or ``auto``: what was measured to be better, and none for images above 64 pixels,
            which were not measured. Where images of 16 to 64 pixels are photographs, some of the views' pictures are
            dead leaves.
        seed: of the views.

    Raises:
        DsvError: neither of these.
    """
    usual = SMALL if task.image_size_px < MEASURED_PX.start else LARGE
    if choice == AUTO:
        count = usual.count if task.image_size_px < MEASURED_PX.stop else 0
    elif choice.isdecimal():
        count = int(choice)
    else:
        raise DsvError(f"views must be a number or {AUTO}, got {choice!r}")
    if not count:
        return None
    leaves = LEAVES if shows_photographs(task) else 0
    return replace(usual, count=count, seed=seed, leaves=leaves, leaves_share=LEAVES_SHARE)
