"""Wrong tokens: counted by the user who tries them, never by the job, which would lock out its rightful holders.

Every «not found» is answered at a moment that its arrival and its user's earlier ones decide, and nothing else: not whether
there was such a job, nor how long it took to look.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

FIRST, LAST = 0.025, 4.0
"""Seconds from its arrival until a first one is answered, and at most; each later one waits twice as long."""
FORGIVE = 5.0
"""Seconds after which one of them is forgotten."""
HELD = 64
"""Answers to one user that may wait at a time."""
_MOST = 1 + math.log2(LAST / FIRST)
USERS = 4096


class Doubts:
    """By user, in the memory of one broker. clock: seconds, never set back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[str, tuple[float, float]] = {}
        self._held: dict[str, int] = {}

    def wrong(self, user: str, arrived: float) -> float:
        """Another one. When to answer it; `arrived` and the result by our clock."""
        now = self._clock()
        count = min(_MOST, self._count(user, now) + 1)
        self._counts.pop(user, None)
        self._counts[user] = count, now
        if len(self._counts) > USERS:
            self._counts = {u: (n, at) for u, (n, at) in self._counts.items() if self._count(u, now)}
            while len(self._counts) > USERS:
                del self._counts[next(iter(self._counts))]
        due = arrived + min(LAST, FIRST * 2 ** (count - 1))
        late = max(0.0, now - due)
        return (
            due + math.ceil(late / FIRST) * FIRST
        )  # on a grid: a look that took longer shows as little as can be

    def hold(self, user: str) -> bool:
        """An answer is about to wait; False if too many do. Say `release` afterwards."""
        if self._held.get(user, 0) >= HELD:
            return False
        self._held[user] = self._held.get(user, 0) + 1
        return True

    def release(self, user: str) -> None:
        self._held[user] -= 1
        if not self._held[user]:
            del self._held[user]

    def _count(self, user: str, now: float) -> float:
        count, at = self._counts.get(user, (0.0, now))
        return max(0.0, count - (now - at) / FORGIVE)
