"""What was measured to serve newcomers best, by the kind of images; docs/zero-shot.md has the figures."""

from __future__ import annotations

from dataclasses import replace

from dsv.task import Task
from dsv.views import ViewPlan

_MEASURED_PX = range(16, 65)
_LARGE = ViewPlan(24_000, temperature=2.0)
_SMALL = ViewPlan(4_000, temperature=0.25)
_LEAVES, _LEAVES_SHARE = 4_000, 0.25


def shows_photographs(task: Task) -> bool:
    """Whether dead leaves were measured to be of use for the images: they are in colour, of 16 to 64 pixels."""
    return task.channels == 3 and task.image_size_px in _MEASURED_PX


def usual_views(task: Task, *, count: int | None = None, seed: int = 0) -> ViewPlan | None:
    """Views for a teacher to label: 24,000 for images of 16 to 64 pixels, 4,000 for smaller ones.

    Where the images are photographs, some of the views' pictures are dead leaves.

    Args:
        count: another number of them; 0 for none.
        seed: of the views.

    Returns:
        The plan, or None for no views: also for images above 64 pixels, which were not measured, without ``count``.

    Raises:
        DsvError: as ``ViewPlan``.
    """
    usual = _SMALL if task.image_size_px < _MEASURED_PX.start else _LARGE
    if count is None:
        count = usual.count if task.image_size_px < _MEASURED_PX.stop else 0
    if count == 0:
        return None
    leaves = _LEAVES if shows_photographs(task) else 0
    return replace(usual, count=count, seed=seed, leaves=leaves, leaves_share=_LEAVES_SHARE)
