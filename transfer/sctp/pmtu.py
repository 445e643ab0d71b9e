"""How large a packet the path takes, found by sending padded ones and seeing which are answered (RFC 8899).

Sizes are of SCTP packets. Below them stand DTLS (37 bytes with AES-GCM), UDP and IP, so 1,432 fills an
Ethernet frame over IPv4. It only searches upwards and once: a transfer seldom outlives its path. When packets
of a found size are lost for good (a smaller path, and nobody says so), it goes back to the least.
"""

from __future__ import annotations

LEAST = 1188
"""Fits the least MTU of IPv6, 1280."""
SIZES = (1356, 1412, 1432, 8932, 16384)
"""Tried in this order: tunnels, Ethernet over IPv6 and IPv4, jumbo frames, loopback (a DTLS record holds no more)."""
ATTEMPTS = 3
FIRST_WAIT = 0.25
"""Seconds that a first answer may take; later a few round trips."""


class PathMtu:
    """size: bytes of the packets to send. shrank: larger ones had been sent, and were lost for good."""

    def __init__(self, largest: int) -> None:
        """largest: bytes of the largest packet that the peer takes."""
        self.size = LEAST
        self.shrank = False
        self._left = [size for size in SIZES if size <= largest]
        self._attempts = 0
        self._again = 0.0

    def due(self) -> float | None:
        """When the next probe is to be sent; None: the search is over."""
        return self._again if self._left else None

    def probe(self, now: float, timeout: float) -> int | None:
        """The size of the probe to send now, if there is one. timeout: seconds that its answer may take."""
        if self._left and self._attempts == ATTEMPTS and now >= self._again:
            self._left = []
        if not self._left or now < self._again:
            return None
        self._attempts += 1
        self._again = now + max(FIRST_WAIT, timeout)
        return self._left[0]

    def answered(self, size: int) -> None:
        """A probe of that size came through."""
        if self._left and size >= self._left[0]:
            self.size = self._left.pop(0)
            self._attempts, self._again = 0, 0.0

    def lost(self) -> bool:
        """Everything on the way was lost, again and again: back to the least. Whether that is a change."""
        changed, self.size, self._left = self.size != LEAST, LEAST, []
        self.shrank = self.shrank or changed
        return changed
