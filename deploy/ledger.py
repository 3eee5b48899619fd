"""The ledger: every byte by round, party, purpose and direction; read, summed up and split."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from deploy.console import table_console, table_of
from deploy.meter import Count
from deploy.result import LedgerRow, read_result
from deploy.rows import as_row
from deploy.tables import Row
from deploy.units import exact_bytes
from dsv import DsvError
from protos.files import write_output
from server.events import BytesMoved, Event, read_events
from server.message_bytes import CONTROL, WEIGHTS
from server.run_folder import RESULT_FILE, run_folder_of

LEDGER_FILE = "ledger.json"
TRANSPORT = "transport"
"""What crossed a socket beyond Flower's messages: HTTP, TLS, polling, the app's bundle, retries."""
NOT_SENT = "raw_images_instead"
"""What uploading the images would take; nothing of it moved."""
_MESSAGES = (WEIGHTS, CONTROL)
_Key = tuple[int, int | str, str, str]
"""Round, client, purpose, direction."""


@dataclass(frozen=True)
class Crossed:
    """What crossed one party's sockets in one round."""

    round: int
    client: int | str
    up_bytes: int
    down_bytes: int


def by_purpose(crossed: Iterable[Crossed], messages: Sequence[LedgerRow]) -> list[LedgerRow]:
    """Split what crossed sockets by purpose: Flower's messages, and the transport around them.

    The rows of a party and direction sum to what crossed. A message that the server counted but that did not cross (its
    device was gone) is not counted. A reading comes a moment after the round that it closes, so that the beginning of
    a round's messages may be in the reading before: what a round lacks is taken from there.

    Args:
        crossed: in order of time; a round may come more than once.
        messages: rows of ``weights`` and ``control``, as Flower serialises its messages.
    """
    told: Counter[_Key] = Counter()
    for row in messages:
        told[row.round, row.client, row.purpose, row.direction] += row.bytes
    windows: dict[tuple[int | str, str], list[tuple[int, int]]] = {}
    for entry in crossed:
        windows.setdefault((entry.client, "up"), []).append((entry.round, entry.up_bytes))
        windows.setdefault((entry.client, "down"), []).append((entry.round, entry.down_bytes))
    sums: Counter[_Key] = Counter()
    for (client, direction), found in windows.items():
        needed = [sum(told[number, client, purpose, direction] for purpose in _MESSAGES) for number, _ in found]
        for (number, _), size_bytes in zip(found, _settled([size for _, size in found], needed), strict=True):
            left = size_bytes
            for purpose in _MESSAGES:
                key = (number, client, purpose, direction)
                carried = min(told[key], left)
                told[key] -= carried
                left -= carried
                sums[key] += carried
            sums[number, client, TRANSPORT, direction] += left
    return [LedgerRow(*key, size_bytes) for key, size_bytes in sums.items() if size_bytes]


def _settled(sizes_bytes: Sequence[int], needed: Sequence[int]) -> list[int]:
    """Sizes of consecutive readings, of which a later one takes what it lacks from what the one before has to spare."""
    sizes = list(sizes_bytes)
    for at in range(len(sizes) - 1, 0, -1):
        moved = min(max(0, needed[at] - sizes[at]), max(0, sizes[at - 1] - needed[at - 1]))
        sizes[at] += moved
        sizes[at - 1] -= moved
    return sizes


def sums_of(counts: Mapping[str, Count], before: Iterable[LedgerRow] = ()) -> list[LedgerRow]:
    """Rows of counters that know parties and directions alone, on top of those that there were."""
    sums: Counter[_Key] = Counter()
    for row in before:
        sums[row.round, row.client, row.purpose, row.direction] += row.bytes
    for party, count in counts.items():
        sums[0, party, TRANSPORT, "up"] += count.up_bytes
        sums[0, party, TRANSPORT, "down"] += count.down_bytes
    return [LedgerRow(*key, size_bytes) for key, size_bytes in sums.items()]


def write_ledger(path: Path, rows: Sequence[LedgerRow]) -> None:
    """Write a deployment's ledger, whole or not at all.

    Raises:
        DsvError: it cannot be written.
    """
    write_output(path, (json.dumps({"ledger": ledger_rows(rows)}, indent=1) + "\n").encode(), "the ledger")


def message_rows(events: Iterable[Event]) -> list[LedgerRow]:
    """The bytes of Flower's messages among a run's events."""
    return [LedgerRow(**asdict(event)) for event in events if isinstance(event, BytesMoved)]


def read_ledger(folder: Path) -> list[LedgerRow]:
    """The ledger in the folder of a run or of a deployment; of a run that nobody measured (``flwr run``, ``dsv deploy
    run``), or that is still going on, Flower's messages so far.

    Raises:
        DsvError: there is none.
    """
    path, run_dir = folder / LEDGER_FILE, run_folder_of(folder)
    if not path.exists():
        measured = (run_dir / RESULT_FILE).exists()
        moved = [] if measured else message_rows(read_events(run_dir))
        return moved or read_result(run_dir / RESULT_FILE).ledger
    try:
        return [as_row(LedgerRow, row) for row in json.loads(path.read_text(encoding="utf-8"))["ledger"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DsvError(f"{path} is not a ledger that dsv wrote, or it is truncated") from None


def ledger_rows(rows: Iterable[LedgerRow]) -> list[Row]:
    """Rows for a file."""
    return [asdict(row) for row in rows]


def print_ledger(rows: Sequence[LedgerRow], folder: Path) -> None:
    """Sums by purpose and direction, and by party."""
    console = table_console()
    console.print(f"ledger of {folder}", soft_wrap=True, markup=False)
    console.print(_table("Bytes by purpose", "purpose", rows, [row.purpose for row in rows]))
    moved = [row for row in rows if row.purpose != NOT_SENT]
    console.print(_table("Bytes moved by party", "party", moved, [_party(row.client) for row in moved]))


def _table(title: str, heading: str, rows: Sequence[LedgerRow], keys: Sequence[str]) -> Table:
    table = table_of(heading, "up", "down", "rounds", title=title)
    for key in sorted(set(keys), key=natural) if heading == "party" else dict.fromkeys(keys):
        own = [row for row, named in zip(rows, keys, strict=True) if named == key]
        up, down = (sum(row.bytes for row in own if row.direction == d) for d in ("up", "down"))
        rounds = len({row.round for row in own if row.round})
        table.add_row(key, exact_bytes(up), exact_bytes(down), str(rounds) if rounds else "-")
    return table


def natural(name: str) -> list[tuple[int, str]]:
    """``client 2`` before ``client 10``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", name)]


def _party(client: int | str) -> str:
    return f"client {client}" if isinstance(client, int) else client
