"""A controller that keeps a model of the path: its rate and its shortest round trip (after BBR, draft-ietf-ccwg-bbr).

It sends at the rate at which data has been arriving, tries a little more every few seconds, and keeps about
what the path holds on its way. So a lost packet by itself changes nothing, which is what makes it fast where
packets are lost for other reasons than a full queue. Two things of its own, where BBR goes by a fixed share of
losses (2 %, at which random loss stops it, too):

- What is lost while no queue stands is the path's own loss, and learned as that. A round that loses clearly more
  while a queue stands has filled somebody's queue: the ceiling on what is on its way is lowered by a fifth.
- A queue that stands for rounds although no more is being tried is shared with somebody: the window then keeps to the
  path's content and a fair part of a queue, and does not grow it.

The ceiling takes what a flow has above its content, never the content itself, nor the few packets to spare. Those are
as many for each flow, and what they add to a queue comes out of everybody's rate: so whoever has less gains, and flows
that share a path end with equal parts of it (as TCP Vegas has it). A ceiling below the content would keep the parts as
they were when it was cut.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from transfer.sctp.sending import Sample
from transfer.sctp.timing import RoundTrip

LEAST_WINDOW, SPARE = 4, 16
"""Packets: the least window, and what it has above what the path holds, for acknowledgements that come in batches."""
FAST, SPARE_FAST = 30e6, 3 << 16
"""Bytes per second from which on the batches are larger, and bytes of them. What stands there is often no queue but
a processor that is busy, so the window yields less to it (SHARED_GAIN_FAST)."""
MOST = 16 << 20
STARTUP_GAIN, DRAIN_GAIN = 2.77, 0.35
UP_GAIN, DOWN_GAIN = 1.25, 0.85
WINDOW_GAIN, STARTUP_WINDOW_GAIN, SHARED_GAIN, SHARED_GAIN_FAST = 2.0, 2.8, 1.1, 1.25
GROWING, ROUNDS_WITHOUT = 1.25, 3
"""The start ends once the rate did not grow so many times in so many rounds."""
SAMPLES, SLOWER = 8, 0.004
"""The start ends, too, once so many packets of a round all came so many seconds later, or by an eighth (as HyStart has it)."""
BANDWIDTH_ROUNDS = 10
PROBE_EVERY, PROBE_TRIPS, PROBE_LEAST = 2.0, 8, 0.2
"""Cruising between two tries for more: so many round trips, but at most and at least so many seconds."""
STANDING = 0.1, 0.003
"""A queue stands in a round whose shortest trip exceeds the path's by so much of it, and so many seconds."""
CLEARLY = 0.02
"""Share of losses above the path's own that a full queue is known by."""
TOO_MUCH = 0.25
"""Share of losses in a round that ends the start: twice what the path takes was sent, into a queue too short to show."""
CEILING_CUT, CEILING_RAISED = 0.8, 1.5
"""The second where more was tried and no queue stood: whoever filled it, the start of the flow itself perhaps, is gone."""
SHORTEST_SECONDS, LOOK_SECONDS = 10.0, 0.2
"""The shortest round trip is looked for anew when it was not seen for so long: half the content for so long."""


class Phase(Enum):
    STARTUP = auto()
    DRAIN = auto()
    CRUISE = auto()
    UP = auto()
    DOWN = auto()
    LOOK = auto()


class Model:
    """window and rate as `congestion.Controller` has them.

    piece: bytes of payload of a packet. window: bytes to begin with.
    """

    def __init__(self, piece: int, window: int) -> None:
        self.window = window
        self.rate = 0.0
        self.phase = Phase.STARTUP
        self.bandwidth = 0.0
        self.shortest = float("inf")
        self.piece = piece
        self._shortest_at = 0.0
        self._rates: deque[tuple[int, float]] = deque()
        self._rounds = 0
        self._round_ends = 0
        self._full_rate, self._without = 0.0, 0
        self._since = 0.0
        self._ceiling = float("inf")
        self._own_loss = 0.0
        self._acked = self._lost = 0
        self._round_trip, self._round_samples = float("inf"), 0
        self._standing = False
        self._restore = 0
        self._first_window, self._first_rate = window, 0.0

    @property
    def content(self) -> float:
        """Bytes that the path holds: its rate times its shortest round trip."""
        return self.bandwidth * self.shortest if self.bandwidth else 0.0

    @property
    def _queue(self) -> float:
        """Seconds that this round's packets have waited on their way, all of them."""
        return self._round_trip - self.shortest if self._round_samples else 0.0

    def sacked(self, sample: Sample, trip: RoundTrip, flight: int, now: float) -> None:
        if self._restore and sample.acked:
            self.window, self._restore = max(self.window, self._restore), 0
        self._acked += sample.acked
        self._lost += sample.lost
        self._see_trip(sample.trip, now)
        if not sample.acked:
            return
        new_round = sample.before >= self._round_ends
        if new_round:
            self._rounds += 1
            self._round_ends = sample.delivered
        self._see_rate(sample)
        if new_round:
            self._round_passed(sample, now)
        self._advance(flight, now)
        self._apply(sample.acked)

    def timed_out(self, flight: int, now: float) -> None:
        self._restore = self._restore or self.window
        self.window = LEAST_WINDOW * self.piece

    def _see_trip(self, seconds: float, now: float) -> None:
        if not seconds:
            return
        self._round_trip = min(self._round_trip, seconds)
        self._round_samples += 1
        if seconds <= self.shortest or (
            self.phase is Phase.LOOK
            and now - self._shortest_at > SHORTEST_SECONDS
            and self._since < now - seconds
        ):
            self.shortest, self._shortest_at = seconds, now

    def _see_rate(self, sample: Sample) -> None:
        if not sample.rate or (sample.limited and sample.rate <= self.bandwidth):
            return
        rates = self._rates
        while rates and rates[-1][1] <= sample.rate:
            rates.pop()
        rates.append((self._rounds, sample.rate))
        while rates[0][0] < self._rounds - BANDWIDTH_ROUNDS:
            rates.popleft()
        self.bandwidth = rates[0][1]

    def _round_passed(self, sample: Sample, now: float) -> None:
        loss = self._lost / (self._acked + self._lost)
        self._standing = self._queue > STANDING[0] * self.shortest + STANDING[1]
        began = self.phase in (Phase.STARTUP, Phase.DRAIN)
        if not self._standing and not began:
            self._own_loss += (min(loss, 0.3) - self._own_loss) / 8
        crowded = self._standing and loss > 1.5 * self._own_loss + CLEARLY
        if crowded:
            self._ceiling = CEILING_CUT * max(self.content, min(self._ceiling, sample.flight))
        if self.phase is Phase.STARTUP and not sample.limited:
            if self.bandwidth >= GROWING * self._full_rate:
                self._full_rate, self._without = self.bandwidth, 0
            else:
                self._without += 1
            if self._without >= ROUNDS_WITHOUT or (crowded and self._rounds > 3) or loss > TOO_MUCH:
                if loss > TOO_MUCH:
                    self._ceiling = max(self.content, LEAST_WINDOW * self.piece)
                self._enter(Phase.DRAIN, now)
        self._acked = self._lost = 0
        self._round_trip, self._round_samples = float("inf"), 0

    def _advance(self, flight: int, now: float) -> None:
        spent = now - self._since
        match self.phase:
            case Phase.STARTUP:
                if self._round_samples >= SAMPLES and self._queue > max(SLOWER, self.shortest / 8):
                    self._enter(Phase.DRAIN, now)
            case Phase.DRAIN:
                if flight <= self.content or spent > 4 * self.shortest + 0.1:
                    self._enter(Phase.CRUISE, now)
            case Phase.CRUISE:
                if now - self._shortest_at > SHORTEST_SECONDS:
                    self._enter(Phase.LOOK, now)
                elif spent > min(PROBE_EVERY, max(PROBE_TRIPS * self.shortest, PROBE_LEAST)):
                    self._enter(Phase.UP, now)
            case Phase.UP:
                full = flight >= UP_GAIN * self.content or flight >= self._ceiling
                if spent > self.shortest and (full or self._standing or spent > 3 * self.shortest):
                    if not self._standing and self._ceiling < float("inf"):
                        self._ceiling = max(self._ceiling * CEILING_RAISED, flight)
                        if self._ceiling > 2.5 * self.content:
                            self._ceiling = float("inf")
                    self._enter(Phase.DOWN, now)
            case Phase.DOWN:
                if flight <= 0.95 * self.content or spent > 3 * self.shortest:
                    self._enter(Phase.CRUISE, now)
            case Phase.LOOK:
                if spent > LOOK_SECONDS + self.shortest:
                    self._shortest_at = now
                    self._enter(Phase.CRUISE, now)

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase, self._since = phase, now

    def _apply(self, acked: int) -> None:
        if not self.bandwidth:
            self.window = min(MOST, self.window + acked)
            return
        gain = {
            Phase.STARTUP: STARTUP_GAIN,
            Phase.DRAIN: DRAIN_GAIN,
            Phase.UP: UP_GAIN,
            Phase.DOWN: DOWN_GAIN,
        }.get(self.phase, 1.0)
        least = LEAST_WINDOW * self.piece
        self.rate = max(gain * self.bandwidth, least / max(self.shortest, 0.01) / 2)
        if self.phase is Phase.STARTUP:  # the first few packets, or a pause, say little of the path
            self._first_rate = max(
                self._first_rate, self.rate, STARTUP_GAIN * self._first_window / self.shortest
            )
            self.rate = self._first_rate
        fast = self.bandwidth > FAST
        spare = SPARE_FAST if fast else SPARE * self.piece
        if self.phase is Phase.STARTUP:
            if self.window < STARTUP_WINDOW_GAIN * self.content or self._rounds < 2:
                self.window += acked
        else:
            wanted = WINDOW_GAIN * self.content + spare
            if self._standing:
                wanted = (SHARED_GAIN_FAST if fast else SHARED_GAIN) * self.content + spare
            self.window = min(self.window + acked, int(wanted))
            if self.phase is Phase.LOOK:
                self.window = min(self.window, max(least, int(self.content / 2)))
        most = max(self._ceiling, self.content) + spare
        self.window = int(min(max(self.window, 2 * least), most, MOST))
