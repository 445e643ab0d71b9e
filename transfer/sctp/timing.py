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
RETRY_MOST = 1.0
"""Seconds between two tries while the peer is silent: a few of them before it counts as lost."""


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


class Silence:
    """What nothing acknowledges is answered: by a probe first, then by the timeout, ever more slowly."""

    def __init__(self) -> None:
        self._since = 0.0
        self._timeouts = 0
        self._probed = False

    def begin(self, now: float) -> None:
        """What is to be acknowledged goes out now, and nothing was on its way before."""
        self._since = now

    def broken(self, now: float) -> None:
        """Something was acknowledged."""
        self._since, self._timeouts, self._probed = now, 0, False

    def due(self, trip: RoundTrip, delay: float) -> float:
        """When it is to be answered. delay: as for `RoundTrip.probe_after`."""
        if not self._probed and not self._timeouts:
            return self._since + trip.probe_after(delay)
        slower = min(RETRY_MOST, trip.timeout * (1 << min(self._timeouts, 5)))
        return self._since + max(trip.timeout, slower)

    def endured(self, now: float) -> int:
        """It is answered now: by a probe if this is 0, else by so many timeouts."""
        if not self._probed and not self._timeouts:
            self._probed = True
        else:
            self._timeouts += 1
            self._since = now
        return self._timeouts
