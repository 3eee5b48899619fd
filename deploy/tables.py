"""Rows as files that other programs read: JSON, CSV, Parquet. The file's ending chooses."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dsv import DsvError
from protos.files import check_output, write_output

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]
ENDINGS = (".json", ".csv", ".parquet")


def check_outputs(paths: Sequence[Path]) -> None:
    """Raise DsvError unless every file can be written: known ending, a folder, and for Parquet its library."""
    for path in paths:
        check_output(path, "the rows")
        if path.suffix not in ENDINGS:
            raise DsvError(f"{path} must end in one of: {', '.join(ENDINGS)}")
        if path.suffix == ".parquet":
            _pyarrow()


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, which all have the same columns.

    Numbers stay numbers; in CSV, a column that holds numbers and words (a ledger's clients) is words to the reader, and
    Parquet, whose columns have one type, gets words there too.

    Raises:
        DsvError: unknown ending, a library that is missing, or a file that cannot be written.
    """
    check_outputs([path])
    write = {".json": _json_bytes, ".csv": _csv_bytes, ".parquet": _parquet_bytes}[path.suffix]
    write_output(path, write(rows), "the rows")


def _json_bytes(rows: Sequence[Row]) -> bytes:
    return (json.dumps([dict(row) for row in rows], indent=1) + "\n").encode()


def _csv_bytes(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet_bytes(rows: Sequence[Row]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    columns = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        mixed = len({type(value) for value in values if value is not None} - {int, float}) > 0
        columns[name] = [str(v) for v in values] if mixed and not all(isinstance(v, bool) for v in values) else values
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), content)
    return content.getvalue()


def _pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        raise DsvError("Parquet needs pyarrow; install feddsv with its extra 'export', or write .csv") from None
