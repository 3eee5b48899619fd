"""Lists and classes as a user writes them on the command line."""

from __future__ import annotations

from dsv import DsvError, Task


def class_index(text: str, task: Task) -> int:
    """The class that ``text`` names, or else counts from 0.

    Raises:
        DsvError: neither a name nor an index of the task's.
    """
    if text in task.class_names:
        return task.class_names.index(text)
    if text.isdecimal() and int(text) < task.classes:
        return int(text)
    raise DsvError(
        f"there is no class {text!r}; give 0 to {task.classes - 1} or a name such as {', '.join(task.class_names[:3])}"
    )


def class_indices(text: str, task: Task) -> list[int]:
    """The classes that ``text`` names, separated by commas, in its order. A name with a comma is given by its index.

    Raises:
        DsvError: as ``class_index``; a class that is there twice.
    """
    found = [class_index(name.strip(), task) for name in text.split(",")]
    for index in found:
        if found.count(index) > 1:
            raise DsvError(f"the class {task.class_names[index]!r} was given twice in {text!r}; give it once")
    return found


def numbers(text: str, name: str, note: str = "") -> list[float]:
    """Those that ``text`` holds, separated by commas.

    Raises:
        DsvError: something else; it calls them ``name`` and says ``note`` of how many.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise DsvError(f"{name} must be numbers separated by commas{note}, got {text!r}") from None
