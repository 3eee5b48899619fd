"""How long a device waits, and how it notices that a server keeps it waiting on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Patience:
    """When a download is broken off, tried again, and given up."""

    give_up_after_s: float = 120.0
    """Without new bytes at ``min_bytes_per_s``, over all attempts."""
    first_byte_s: float = 60.0
    """A busy server lets downloads wait for their turn."""
    min_bytes_per_s: float = 1024.0
    window_s: float = 15.0
    """Time over which the rate is taken."""
    slow_attempts: int = 3
    """So many attempts that were too slow are enough."""
    max_backoff_s: float = 10.0

    def backoff_s(self, attempt: int) -> float:
        """Pause before an attempt, counted from 1: doubles up to the longest."""
        return min(self.max_backoff_s, 0.1 * 2.0 ** min(attempt, 20))

    def deadline_s(self, size_bytes: int) -> float:
        """What an attempt takes at the most."""
        return self.first_byte_s + self.window_s + size_bytes / self.min_bytes_per_s


class Pace:
    """Whether attempts, one after the other, bring enough together: a server may break off after every byte.

    Time counts from the beginning of an attempt that brought something to the end of the one that makes it enough, the
    pauses between them included; what a server was away before that does not.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._since: tuple[int, float] | None = None
        self._now = (0, 0.0)

    def begins(self, size_bytes: int) -> None:
        """An attempt begins with so many bytes there."""
        self._now = (size_bytes, time.monotonic())

    def holds(self, size_bytes: int) -> bool:
        """An attempt has ended with more bytes there; whether those since the last time that it held are enough."""
        began_bytes, began_s = self._since = self._since or self._now
        least_s = max(1.0, time.monotonic() - began_s)
        if size_bytes - began_bytes < self._patience.min_bytes_per_s * least_s:
            return False
        self._since = None
        return True


class SlownessGuard:
    """Ends a call that brings too little; a context manager that watches from a thread of its own."""

    def __init__(self, patience: Patience, cancel: Callable[[], object]) -> None:
        self._patience, self._cancel = patience, cancel
        self._bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.too_slow = False

    def arrived(self, size_bytes: int) -> None:
        """Tell that so many bytes came."""
        self._bytes += size_bytes

    def _watch(self) -> None:
        started_s = window_began_s = time.monotonic()
        window_bytes = 0
        while not self._done.wait(min(1.0, self._patience.window_s / 4)):
            now_s = time.monotonic()
            if self._bytes == 0:
                window_began_s = now_s
                if now_s - started_s < self._patience.first_byte_s:
                    continue
            elif now_s - window_began_s < self._patience.window_s:
                continue
            elif self._bytes - window_bytes >= self._patience.min_bytes_per_s * (now_s - window_began_s):
                window_began_s, window_bytes = now_s, self._bytes
                continue
            self.too_slow = True
            self._cancel()
            return

    def __enter__(self) -> SlownessGuard:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
