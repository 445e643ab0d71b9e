"""How many requests to the store run at once: more while that pays, fewer when the store asks for it.

No I/O and no clock. A hill is climbed in steps: after each period in which requests had to wait for their
turn the limit grows by half; if the next period moved hardly more, the step is taken back and the next
try is put off, longer each time. What is not short of requests (a slow source, a slow disk) teaches nothing.
"""

from __future__ import annotations

START, MOST = 4, 16
PERIOD = 1.0
"""Seconds that are compared with each other, at least."""
WORTH = 1.1
"""A step is kept if it makes the transfer so many times faster."""
PUT_OFF, PUT_OFF_MOST = 8.0, 120.0
"""Seconds before the next try after one that did not pay, doubled each time up to the most."""


class Pace:
    """limit: requests at once. alone: bytes per second of the last request by itself; None before the first.

    fixed: what the user asked for; nothing adapts then.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.limit = fixed or START
        self.most = fixed or MOST
        self.alone: float | None = None
        self._fixed = fixed is not None
        self._began: float | None = None
        self._bytes = self._requests = 0
        self._starved = False
        self._before: tuple[int, float] | None = None  # limit and rate that the step must beat
        self._not_before = 0.0
        self._put_off = PUT_OFF

    def done(self, length: int, seconds: float, now: float, *, waiting: bool) -> None:
        """A request moved so many bytes in so many seconds. waiting: another one had to wait for its turn."""
        self.alone = length / max(seconds, 1e-6)
        if self._fixed:
            return
        if self._began is None:
            self._began = now
            return  # bytes of a time that was not measured
        self._bytes += length
        self._requests += 1
        self._starved = self._starved or not waiting
        if now - self._began >= PERIOD and self._requests >= 2 * self.limit:
            if not self._starved:
                self._judge(self._bytes / (now - self._began), now)
            self._begin(now)

    def slow_down(self, now: float) -> None:
        """The store said that this is too much for it (503 SlowDown)."""
        if not self._fixed:
            self.limit = max(1, self.limit // 2)
            self._before = None
            self._not_before = now + self._put_off
            self._begin(now)

    def _judge(self, rate: float, now: float) -> None:
        if self._before is not None:
            limit, slower = self._before
            self._before = None
            if rate < WORTH * slower:
                self.limit = limit
                self._not_before = now + self._put_off
                self._put_off = min(PUT_OFF_MOST, 2 * self._put_off)
                return
            self._put_off = PUT_OFF
        if now >= self._not_before and self.limit < self.most:
            self._before = (self.limit, rate)
            self.limit = min(self.most, self.limit + max(1, self.limit // 2))

    def _begin(self, now: float) -> None:
        self._began, self._bytes, self._requests, self._starved = now, 0, 0, False
