"""Rows of a table on disk: one JSON object a line, so that a change of one row is a change of one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from protos.files import write_atomically

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Row = TypeVar("Row", bound=DataclassInstance)


def read_rows(kind: type[Row], path: Path) -> list[Row]:
    """The rows that there are; none without a file."""
    return [kind(**row) for row in json.loads(path.read_text())["rows"]] if path.exists() else []


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """All rows, whole or not at all."""
    text = ",\n  ".join(json.dumps(asdict(row)) for row in rows)
    write_atomically(path, f'{{"rows": [\n  {text}\n]}}\n'.encode())
