"""Which views of a release's images the teacher labels for newcomers."""

from __future__ import annotations

from dsv import DsvError, Task, ViewPlan
from protos.settings import AUTO
from server.start_images import MEASURED_PX, shows_photographs

VIEWS = 24_000
LEAVES = 4_000
LEAVES_SHARE = 0.25


def plan_of(choice: str, task: Task, seed: int) -> ViewPlan | None:
    """The plan that the option ``views`` asks for, or None for no views.

    Args:
        choice: a number of views, or ``auto``: what was measured to be better (docs/zero-shot.md), ``VIEWS`` for images
            of 16 to 64 pixels, none for smaller ones, and none for sizes that were not measured. Where these are
            photographs, some of the pictures are dead leaves.
        seed: of the views.

    Raises:
        DsvError: neither of these.
    """
    if choice == AUTO:
        count = VIEWS if task.image_size_px in MEASURED_PX else 0
    elif choice.isdecimal():
        count = int(choice)
    else:
        raise DsvError(f"views must be a number or {AUTO}, got {choice!r}")
    leaves = LEAVES if shows_photographs(task) else 0
    return ViewPlan(count, seed, leaves=leaves, leaves_share=LEAVES_SHARE) if count else None
