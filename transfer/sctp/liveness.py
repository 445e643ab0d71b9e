"""Whether the peer is still there: whoever is silent is asked, and is lost if nothing comes (RFC 9260 section 8.3).

Any packet is a sign of life. The RFC asks every 30 s and gives up after ten minutes; a transfer that has
another route wants to know at once, and a question costs 60 bytes.
"""

from __future__ import annotations

DEAD = 2.4
"""Seconds without any packet of the peer after which it is lost."""
QUIET, ASK_AGAIN = 0.6, 0.15
"""Seconds of silence before the first question, and between questions: twelve until DEAD, so that losses do not
look like an end."""
LATE = 0.5
"""Seconds by which we come late to look if it was us who slept (a suspended machine): it says nothing of the peer."""


class Liveness:
    """heard: when the last packet came."""

    def __init__(self) -> None:
        self.heard = 0.0
        self._asked = 0.0
        self._expected: float | None = None

    def due(self) -> float:
        """When to look again, if nothing comes before."""
        return min(self.heard + DEAD, max(self.heard + QUIET, self._asked + ASK_AGAIN))

    def lost(self, now: float) -> bool:
        if self._expected is not None and now > self._expected + LATE:
            self.heard = max(self.heard, now - QUIET)
        self._expected = max(now, self.due())
        return now >= self.heard + DEAD

    def asks(self, now: float) -> bool:
        """Whether to send a question now; it counts as sent."""
        asks = now >= max(self.heard + QUIET, self._asked + ASK_AGAIN)
        if asks:
            self._asked = now
        return asks
