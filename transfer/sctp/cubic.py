"""CUBIC (RFC 9438) with HyStart (RFC 9406): the window grows until packets are lost."""

from __future__ import annotations

from transfer.sctp.sending import Sample
from transfer.sctp.timing import RoundTrip

FIRST_WINDOW = 32
"""Packets. RFC 6928 has 10 for TCP; all peers of ours have been heard of before: ICE and DTLS took round trips."""
LEAST_WINDOW = 4
MOST = 16 << 20
"""Bytes: more than any receiver's window here."""
BETA, SCALE = 0.7, 0.4
FRIENDLY = 3 * (1 - BETA) / (1 + BETA)
SLOWER_LEAST, SLOWER_MOST = 0.004, 0.016
"""Seconds by which a round must be slower than the one before to end the slow start (HyStart)."""


class Cubic:
    """window and rate as `congestion.Controller` has them. piece: bytes of payload of a packet."""

    rate = 0.0

    def __init__(self, piece: int, window: int = 0) -> None:
        self.window = window or FIRST_WINDOW * piece
        self.piece = piece
        self._threshold = MOST
        self._before_loss = 0.0
        self._epoch: float | None = None
        self._origin = self._climb = self._friendly = 0.0
        self._recovered = 0
        self._round_ends = 0
        self._round, self._last_round = float("inf"), float("inf")

    def sacked(self, sample: Sample, trip: RoundTrip, flight: int, now: float) -> None:
        if sample.lost and sample.before >= self._recovered:
            self._reduce(sample.delivered + flight)
        if not sample.acked:
            return
        if sample.trip:
            self._round = min(self._round, sample.trip)
        if sample.before >= self._round_ends:
            self._round_passed(sample.delivered)
        if sample.flight + 2 * self.piece < 0.8 * self.window or sample.before < self._recovered:
            return  # the window was not what held us back
        if self.window < self._threshold:
            self.window = min(MOST, self.window + sample.acked)
        else:
            self._grow(sample.acked, trip.smoothed, now)

    def timed_out(self, flight: int, now: float) -> None:
        self._threshold = max(self.window // 2, 8 * self.piece)
        self.window = LEAST_WINDOW * self.piece
        self._epoch = None

    def _reduce(self, recovered: int) -> None:
        self._before_loss = float(self.window)
        self.window = self._threshold = max(int(self.window * BETA), LEAST_WINDOW * self.piece)
        self._epoch = None
        self._recovered = recovered

    def _round_passed(self, delivered: int) -> None:
        """HyStart: when a round trip is slower than the one before, a queue has begun to build up."""
        slower = min(SLOWER_MOST, max(SLOWER_LEAST, self._last_round / 8))
        if self.window < self._threshold and self._round > self._last_round + slower:
            self._threshold = self.window
        self._last_round = min(self._round, self._last_round)
        self._round = float("inf")
        self._round_ends = delivered

    def _grow(self, acked: int, smoothed: float, now: float) -> None:
        piece = self.piece
        if self._epoch is None:
            self._epoch = now
            self._friendly = float(self.window)
            above = max(0.0, self._before_loss - self.window)
            self._climb = (above / piece / SCALE) ** (1 / 3)
            self._origin = max(self._before_loss, self.window)
        after = now - self._epoch + smoothed - self._climb
        wanted = self._origin + SCALE * after**3 * piece
        self._friendly += FRIENDLY * acked * piece / self.window
        wanted = max(wanted, self._friendly)
        if wanted > self.window:
            more = min((wanted - self.window) * acked / self.window, acked / 2)
            self.window = min(MOST, int(self.window + more))
