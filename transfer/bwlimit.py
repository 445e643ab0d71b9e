"""`--bwlimit`: no more than so many bytes a second, over all connections of a transfer together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

Rate = float | Callable[[], float | None]
"""Bytes per second; or what tells how many just now, None while there is no limit (`transfer.timetable`)."""
PIECES = 20
"""A second's bytes go in so many pieces, at least: what is allowed is spread, and not sent in bursts."""
MOST = 1 << 18


class BwLimit:
    """Threads and tasks may share it."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_of = rate if callable(rate) else lambda: rate
        self._clock = clock
        self._lock = threading.Lock()
        self._paid_until = clock()
        self._rate = self._rate_of()

    @property
    def rate(self) -> float | None:
        """Bytes per second, just now; None while there is no limit."""
        return self._rate_of()

    @property
    def piece(self) -> int:
        """Bytes that should be asked for at once."""
        rate = self._rate_of()
        return MOST if rate is None else max(1, min(MOST, int(rate / PIECES)))

    def debt(self, length: int) -> float:
        """Take so many bytes; returns the seconds to wait before, or after, they are moved."""
        with self._lock:
            now, before = self._clock(), self._rate
            self._rate = rate = self._rate_of()
            if rate is None:
                self._paid_until = now
                return 0.0
            wait = max(0.0, self._paid_until - now)
            if before is not None and before != rate:
                wait *= before / rate  # bytes are owed, and are paid at what holds now
            self._paid_until = now + wait + length / rate
            return wait

    async def wait(self, length: int) -> None:
        await asyncio.sleep(self.debt(length))


def limit_of(given: Rate | BwLimit | None) -> BwLimit | None:
    """One that several transfers share, or a new one."""
    if given is None or isinstance(given, BwLimit):
        return given
    return BwLimit(given)
