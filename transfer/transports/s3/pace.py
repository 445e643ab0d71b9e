"""How many requests to the store run at once: more while that pays, fewer when the store asks for it, or where a receiver
follows and the link is full.

No I/O and no clock. A hill is climbed in steps: after each period in which requests had to wait for their
turn the limit grows by half; if none of the next periods moved more, or the store refused, the step is taken back
and the next try is put off, longer each time. A period that was short of requests (a slow source, a slow disk),
or in which nothing moved (an outage), teaches nothing; and on a link whose queue stands there is nothing to climb.
"""

from __future__ import annotations

START, START_READING, MOST = 6, 10, 16
"""Reading costs memory only for what is read, and against data that is sent over the same link more of them hold out."""
FOLLOWED = 5
"""Requests at once that a full link gets while somebody follows. He reads what is whole, and of what is on its way that is
nothing: each further one only delays all others, and with them him."""
PERIOD = 1.0
"""Seconds that are compared with each other, at least."""
EACH = 1 << 20
"""Bytes per second for which one request is enough, where the user limits them: every further one only makes it longer
until the first is through, and there is more to send again after a pause or a cut."""
WORTH, CHANCES = 1.15, 3
"""A step is kept if it makes the transfer so many times faster, in one of so many periods: a lossy link is uneven."""
TELLING = 1 << 18
"""Bytes from which on a request tells how fast a connection is: what is shorter tells how far away the store is."""
PUT_OFF, PUT_OFF_MOST = 4.0, 120.0
"""Seconds before the next try after one that did not pay, doubled each time up to the most."""


class Pace:
    """limit: requests at once. alone: bytes per second of the last request by itself; None before the first.

    fixed: what the user asked for; nothing adapts then. start: the limit until anything is known. rate: bytes per
    second that all together may move, None: all that go; no more requests run then than that takes.
    """

    def __init__(self, fixed: int | None = None, start: int = START, rate: float | None = None) -> None:
        most = MOST if rate is None else max(1, min(MOST, int(rate / EACH)))
        self.most = fixed or most
        self.limit = fixed or min(start, most)
        self.alone: float | None = None
        self._fixed, self._followed = fixed is not None, False
        self._since: tuple[float, int] | None = None  # when the period began, and what had moved by then
        self._looks = self._waited = self._full = 0
        self._before: tuple[int, float] | None = None  # limit and rate that the step must beat
        self._chances = 0
        self._refused = 0.0
        self._not_before = 0.0
        self._put_off = PUT_OFF

    def done(self, length: int, seconds: float) -> None:
        """A request moved so many bytes in so many seconds."""
        if length >= TELLING:
            self.alone = length / max(seconds, 1e-6)

    def follow(self) -> None:
        """Somebody waits for each request."""
        self._followed = True

    def tick(self, moved: int, now: float, *, waiting: bool, full: bool = False) -> None:
        """Called every now and then.

        moved: bytes so far, of requests that are under way, too. waiting: a request has to wait for its turn.
        full: packets queue up on their way, so no further connection would find room.
        """
        if self._fixed:
            return
        if self._since is None:
            self._begin(moved, now)
        began, before = self._since or (now, moved)
        self._looks += 1
        self._waited += waiting  # between one's end and another's coming nobody does, even in plenty
        self._full += full
        if now - began < PERIOD:
            return
        if self._followed and self.limit > FOLLOWED and 2 * self._full > self._looks:
            self.limit, self._before = FOLLOWED, None
        elif 2 * self._waited > self._looks and moved > before:
            self._judge((moved - before) / (now - began), now)
        self._begin(moved, now)

    def slow_down(self, began: float, now: float) -> None:
        """The store said that this is too much for it (503 SlowDown).

        began: when that request was sent: those that were on their way at the last refusal tell nothing new.
        """
        if not self._fixed and began >= self._refused:
            self._back(self._before[0] if self._before is not None else max(1, self.limit // 2), now)
            self._since = None
            self._refused = now

    def _judge(self, rate: float, now: float) -> None:
        if self._before is not None:
            limit, slower = self._before
            if rate < WORTH * slower:
                self._chances -= 1
                if not self._chances:
                    self._back(limit, now)
                return
            self._before = None
        if now >= self._not_before and self.limit < self.most and 2 * self._full < self._looks:
            self._before, self._chances = (self.limit, rate), CHANCES
            self.limit = min(self.most, self.limit + max(1, self.limit // 2))

    def _back(self, limit: int, now: float) -> None:
        self.limit, self._before = limit, None
        self._not_before = now + self._put_off
        self._put_off = min(PUT_OFF_MOST, 2 * self._put_off)

    def _begin(self, moved: int, now: float) -> None:
        self._since, self._looks, self._waited, self._full = (now, moved), 0, 0, 0
