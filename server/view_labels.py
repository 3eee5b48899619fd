"""Which views of a release's images the teacher labels for newcomers."""

from __future__ import annotations

from dsv import DsvError, Task, ViewPlan, usual_views
from protos.settings import AUTO


def plan_of(choice: str, task: Task, seed: int) -> ViewPlan | None:
    """The plan that the option ``views`` asks for, or None for no views.

    Args:
        choice: a number of views, or ``auto``: those of ``usual_views``.
        seed: of the views.

    Raises:
        DsvError: neither of these.
    """
    if choice == AUTO:
        return usual_views(task, seed=seed)
    if choice.isdecimal():
        return usual_views(task, count=int(choice), seed=seed)
    raise DsvError(f"views must be a number or {AUTO}, got {choice!r}")
