"""Who may send now, where many want to."""

from __future__ import annotations

import asyncio
from collections import Counter


class Turns:
    """``count`` turns, at least 1, for one event loop. A peer holds three quarters of them at most, and one at least.

    So much, since a thousand devices may share an address; no more, so that the devices of others get theirs while
    one peer reads slowly, or not at all. What is free goes to the waiting peer that holds fewest; among these, to the
    call that came first.
    """

    def __init__(self, count: int) -> None:
        self._free, self._most = count, max(1, count * 3 // 4)
        self._held: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], str] = {}

    async def acquire(self, peer: str) -> None:
        """Return once ``peer`` has a turn, which ``release`` gives back."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[granted] = peer
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            self._waiting.pop(granted, None)
            if not granted.cancelled():  # it was given in the moment when its call ended
                self.release(peer)
            raise

    def release(self, peer: str) -> None:
        """Give a turn of ``peer`` back."""
        self._held[peer] -= 1
        if not self._held[peer]:
            del self._held[peer]  # or it would remember every peer that ever was
        self._free += 1
        self._grant()

    def _grant(self) -> None:
        while self._free:
            may = (call for call, peer in self._waiting.items() if not call.done() and self._held[peer] < self._most)
            call = min(may, key=lambda call: self._held[self._waiting[call]], default=None)
            if call is None:
                return
            self._held[self._waiting.pop(call)] += 1
            self._free -= 1
            call.set_result(None)
