"""What really crosses sockets, without root: TCP relays on loopback that count the bytes of each party.

TLS passes through unopened, so its records, handshakes and everything inside them count; TCP's and IP's own headers and
what they send again do not, which only an interface's counters know (benchmarks/ledger.py).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from deploy.addresses import Address
from dsv import DsvError

_HOST = "127.0.0.1"
_CHUNK_BYTES = 65536
_START_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Count:
    """Bytes that a party sent and received so far."""

    up_bytes: int = 0
    down_bytes: int = 0


@dataclass
class Meters:
    """Relays by party; all run on one thread."""

    loop: asyncio.AbstractEventLoop
    _counts: dict[str, Count] = field(default_factory=dict)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _open: set[asyncio.Task[None]] = field(default_factory=set)  # asyncio itself refers to its tasks weakly

    def relay(self, party: str, target: Address, port: int = 0) -> Address:
        """An address on loopback that leads to ``target`` and counts what passes as the party's.

        Args:
            port: TCP port; 0 takes a free one.

        Raises:
            DsvError: the port is taken.
        """
        self._counts[party] = Count()
        try:
            return self._run(self._listen(party, target, port))
        except OSError as error:
            raise DsvError(f"cannot listen on {_HOST}:{port}: {error.strerror}; choose another port") from None

    def read(self) -> dict[str, Count]:
        """What every party has moved so far."""
        return dict(self._counts)

    def close(self) -> None:
        """Take no more connections."""
        for server in self._servers:
            self.loop.call_soon_threadsafe(server.close)

    def _run(self, work: Coroutine[Any, Any, Address]) -> Address:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_START_TIMEOUT_S)

    async def _listen(self, party: str, target: Address, port: int) -> Address:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            carrying = asyncio.ensure_future(self._carry(reader, writer, party, target))
            self._open.add(carrying)
            carrying.add_done_callback(self._open.discard)

        server = await asyncio.start_server(serve, _HOST, port, limit=_CHUNK_BYTES)
        self._servers.append(server)
        return Address(_HOST, server.sockets[0].getsockname()[1])

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, party: str, target: Address
    ) -> None:
        """One connection, to its end."""
        try:
            far_reader, far_writer = await asyncio.open_connection(target.host, target.port)
        except OSError:
            writer.transport.abort()  # as if nobody listened
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, far_writer, party, up=True))
                both.create_task(self._pump(far_reader, writer, party, up=False))
        except* OSError:
            pass  # one side broke off; the other learns of it
        finally:
            writer.close()
            far_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, party: str, *, up: bool) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            self._add(party, **{"up_bytes" if up else "down_bytes": len(data)})
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    def _add(self, party: str, *, up_bytes: int = 0, down_bytes: int = 0) -> None:
        so_far = self._counts[party]  # written by the loop's thread alone
        self._counts[party] = Count(so_far.up_bytes + up_bytes, so_far.down_bytes + down_bytes)


@contextmanager
def meters() -> Iterator[Meters]:
    """A thread for relays; they and their connections are gone at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="meters", daemon=True)
    thread.start()
    made = Meters(loop)
    try:
        yield made
    finally:
        made.close()
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_end_all(), loop).result(_START_TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_START_TIMEOUT_S)
        loop.close()


async def _end_all() -> None:
    """Cancel every relay's connections and see them end."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
