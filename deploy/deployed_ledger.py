"""The ledger of a deployment: what crossed its sockets, round by round, beside what Flower's messages say."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from deploy.ledger import Crossed, by_purpose, message_rows
from deploy.meter import Count
from deploy.result import LedgerRow
from server.events import BytesMoved, ClientNumbered, Event, EventReader, FederationDone

OPERATOR = "operator"
NEWCOMERS = "newcomers"
_EVERY_S = 0.1


class Counters(Protocol):
    """Whatever counts bytes by party: relays, or the interfaces of machines."""

    def read(self) -> dict[str, Count]:
        """What every party has moved so far."""


@dataclass
class DeployedLedger:
    """Reads the meters whenever a run's events tell that a round begins or the last one has ended.

    Args:
        meters: one counter for every party.
        nodes: Flower's id of every SuperNode, by its party's name.
    """

    meters: Counters
    nodes: Mapping[str, int]
    _crossed: list[Crossed] = field(default_factory=list)
    _messages: list[LedgerRow] = field(default_factory=list)
    _numbers: dict[int, int] = field(default_factory=dict)
    _before: dict[str, Count] = field(default_factory=dict)
    _round: int = 0

    def add(self, event: Event) -> None:
        """Take note of one event, in their order."""
        if isinstance(event, ClientNumbered):
            self._numbers[event.node] = event.client
        elif isinstance(event, FederationDone):
            self._close(0)
        elif isinstance(event, BytesMoved):
            if event.round != self._round:
                self._close(event.round)
            self._messages += message_rows([event])

    @contextmanager
    def following(self, run_dir: Path) -> Iterator[None]:
        """Takes note of a run's events as they come, on a thread of its own: a reading that is late counts the bytes
        of one round as the one before's."""
        reader, stop = EventReader(run_dir), threading.Event()

        def follow() -> None:
            while not stop.wait(_EVERY_S):
                for event in reader.new():
                    self.add(event)

        thread = threading.Thread(target=follow, name="ledger", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            for event in reader.new():
                self.add(event)

    def rows(self) -> list[LedgerRow]:
        """Everything up to now. What crossed before the first round and after the last has round 0."""
        self._close(self._round)
        parties = {name: self._party(name) for name in self.meters.read()}
        named = [Crossed(c.round, parties[str(c.client)], c.up_bytes, c.down_bytes) for c in self._crossed]
        flower = [entry for entry in named if entry.client != NEWCOMERS]
        return by_purpose(flower, self._messages) + _downloads([c for c in named if c.client == NEWCOMERS])

    def _party(self, name: str) -> int | str:
        """A client's number, where the run has numbered it."""
        node = self.nodes.get(name)
        return name if node is None else self._numbers.get(node, name)

    def _close(self, following: int) -> None:
        """What crossed since the last reading was the present round's."""
        now = self.meters.read()
        for name, count in now.items():
            before = self._before.get(name, Count())
            up_bytes, down_bytes = count.up_bytes - before.up_bytes, count.down_bytes - before.down_bytes
            self._crossed.append(Crossed(self._round, name, up_bytes, down_bytes))
        self._before, self._round = now, following


def _downloads(crossed: Sequence[Crossed]) -> list[LedgerRow]:
    sums = {"up": sum(c.up_bytes for c in crossed), "down": sum(c.down_bytes for c in crossed)}
    return [LedgerRow(0, NEWCOMERS, "dsv_download", way, size_bytes) for way, size_bytes in sums.items() if size_bytes]
