"""`--bwlimit`: no more than so many bytes a second, over all connections of a transfer together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

PIECES = 20
"""A second's bytes go in so many pieces, at least: what is allowed is spread, and not sent in bursts."""
MOST = 1 << 18


class BwLimit:
    """rate: bytes per second. Threads and tasks may share it."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._clock = rate, clock
        self._lock = threading.Lock()
        self._paid_until = clock()

    @property
    def piece(self) -> int:
        """Bytes that should be asked for at once."""
        return max(1, min(MOST, int(self.rate / PIECES)))

    def debt(self, length: int) -> float:
        """Take so many bytes; returns the seconds to wait before, or after, they are moved."""
        with self._lock:
            now = self._clock()
            wait = max(0.0, self._paid_until - now)
            self._paid_until = max(now, self._paid_until) + length / self.rate
            return wait

    async def wait(self, length: int) -> None:
        await asyncio.sleep(self.debt(length))
