"""Rows of JSON files as dataclasses, with their types checked: a file may have been edited, or be another program's."""

from __future__ import annotations

from enum import Enum
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
MOST = 1 << 63
"""No number in a file of ours reaches it."""


def as_row(kind: type[T], row: Any) -> T:
    """A dataclass of plain fields from a JSON object.

    Raises:
        TypeError, ValueError: a field too many or too few, or of another type; numbers lie from 0 to below 2^63.
    """
    if not isinstance(row, dict):
        raise TypeError(f"{kind.__name__} must be an object")
    hints = get_type_hints(kind)
    return kind(**{name: _checked(hints[name], value) if name in hints else value for name, value in row.items()})


def _checked(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    kinds = tuple(get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,)))
    if isinstance(value, int | float) and not 0 <= value < MOST:  # neither infinity nor NaN
        raise ValueError(f"{value!r} is no number from 0 to below 2^63")
    if float in kinds and type(value) is int:
        value = float(value)
    if type(value) not in kinds:
        raise TypeError(f"{value!r} is not of type {hint}")
    return value
