"""Round trips, and what is lost by them: RFC 9260 section 6.3 (the timeout), RFC 8985 (RACK and the tail probe).

A packet is lost when one that was sent later has arrived and a little time has passed since, so that packets
that merely overtook each other are not sent twice. Counting acknowledgements, as RFC 9260 does, takes each
reordering for a loss, and never sees that a packet was lost for the second time.
"""

from __future__ import annotations

LEAST_TIMEOUT, FIRST_TIMEOUT, MOST_TIMEOUT = 0.2, 0.5, 10.0
"""Seconds. RFC 9260 has at least 1 s, which costs a short transfer more than the whole of it; TCP has 0.2 here."""
MEMORY = 10.0
"""Seconds for which the shortest round trip counts: the way may have become a longer one."""
LEAST_REORDERING = 0.0005


class RoundTrip:
    """smoothed and variation: seconds, as RFC 6298 has them. shortest: of the last MEMORY seconds."""

    def __init__(self) -> None:
        self.smoothed = self.variation = self.latest = 0.0
        self.shortest = float("inf")
        self.shortest_at = 0.0

    def sample(self, seconds: float, now: float) -> None:
        self.latest = seconds
        if seconds <= self.shortest or now > self.shortest_at + MEMORY:
            self.shortest, self.shortest_at = seconds, now
        if not self.smoothed:
            self.smoothed, self.variation = seconds, seconds / 2
        else:
            self.variation += (abs(self.smoothed - seconds) - self.variation) / 4
            self.smoothed += (seconds - self.smoothed) / 8

    @property
    def timeout(self) -> float:
        if not self.smoothed:
            return FIRST_TIMEOUT
        return min(MOST_TIMEOUT, max(LEAST_TIMEOUT, self.smoothed + 4 * self.variation))

    def probe_after(self, delay: float) -> float:
        """Seconds without an acknowledgement after which the last packet is sent once more.

        delay: what the peer may wait before it acknowledges a lone packet.
        """
        return min(self.timeout, 2 * self.smoothed + delay) if self.smoothed else self.timeout


class Reordering:
    """How long a packet that others have overtaken may still come (RACK's window)."""

    def __init__(self) -> None:
        self._steps = 1

    def window(self, trip: RoundTrip) -> float:
        """Seconds. A quarter of the shortest round trip; more, up to the smoothed one, where that was too little."""
        if trip.shortest == float("inf"):
            return trip.timeout
        least = LEAST_REORDERING + trip.shortest / 4
        return min(max(trip.smoothed, least), least * self._steps)

    def too_short(self) -> None:
        """What was taken for lost came after all: the peer reports it twice."""
        self._steps = min(self._steps + 1, 16)
