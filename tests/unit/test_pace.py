"""Requests at once, on model links: soon as many as pay, hardly more, and at rest after a while."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from transfer.transports.s3.pace import (
    CHANCES,
    FOLLOWED,
    MOST,
    PERIOD,
    PUT_OFF_MOST,
    START,
    TELLING,
    Pace,
)

M = 1e6
PART = 8 << 20
LOOK = 0.25
"""Seconds between two looks of the pace, as in the store."""
SMALLER = 2 / 3
"""A step goes up by half: one down is this much."""


def steady(rate: float) -> Callable[[float], float]:
    return lambda _now: rate


AT_ONCE = steady(1e12)


@dataclass
class Request:
    began: float
    left: float
    weight: float


@dataclass
class Transfer:
    """Requests over a link, on a clock of their own.

    total: bytes per second of the whole link at a time. alone: what one connection comes to, at most.
    source: bytes per second that there are to send. takes: more requests at once the store refuses.
    ahead: how many wait for their turn, at most. gap: seconds until the next one waits.
    """

    total: Callable[[float], float]
    alone: float
    source: Callable[[float], float] = AT_ONCE
    takes: int = 1000
    ahead: int = 1
    gap: float = 0.003
    seed: int = 1
    pace: Pace = field(default_factory=Pace)
    now: float = 0.0
    moved: float = 0.0
    refused: int = 0
    steps: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._active: list[Request] = []
        self._waiting = 0
        self._coming: list[float] = []
        self._source_free = 0.0
        self._look_at = LOOK

    def run(self, until: float) -> float:
        """Bytes per second from now until then."""
        began, before = self.now, self.moved
        while self.now < until:
            self._begin_what_may()
            self._go_on()
            limit = self.pace.limit
            assert 1 <= limit <= self.pace.most
            if limit != (self.steps[-1][1] if self.steps else START):
                self.steps.append((self.now, limit))
        return (self.moved - before) / (self.now - began)

    def _begin_what_may(self) -> None:
        while len(self._active) + self._waiting + len(self._coming) < self.pace.limit + self.ahead:
            self._source_free = max(self.now, self._source_free) + PART / self.source(self.now)
            self._coming.append(max(self._source_free, self.now + self.gap))
        self._waiting += sum(at <= self.now for at in self._coming)
        self._coming = [at for at in self._coming if at > self.now]
        while self._waiting and len(self._active) < self.pace.limit:
            self._waiting -= 1
            if len(self._active) >= self.takes:
                self.refused += 1
                self.pace.slow_down(self.now, self.now)
                self._coming.append(self.now + 0.1 + self._random.random())
            else:
                self._active.append(Request(self.now, PART, 0.9 + 0.2 * self._random.random()))

    def _go_on(self) -> None:
        together = sum(request.weight for request in self._active)
        rates = [min(self.alone, self.total(self.now) / together) * r.weight for r in self._active]
        ends = [request.left / rate for request, rate in zip(self._active, rates, strict=True)]
        step = min([*ends, *(at - self.now for at in self._coming), self._look_at - self.now])
        self.now += max(step, 1e-6)
        for request, rate in zip(self._active, rates, strict=True):
            request.left -= step * rate
            self.moved += step * rate
        for request in [r for r in self._active if r.left < 1]:
            self._active.remove(request)
            self.pace.done(PART, self.now - request.began)
        if self.now >= self._look_at - 1e-6:
            self._look_at += LOOK
            self.pace.tick(int(self.moved), self.now, waiting=self._waiting > 0)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("ahead", [1, 8], ids=["up", "down"])
@pytest.mark.parametrize(
    ("total", "alone"),
    [(50, 100), (50, 10), (120, 10), (120, 30), (300, 100), (40, 3), (1000, 100), (1000, 400)],
)
def test_it_soon_ends_near_the_fewest_that_fill_the_link(
    total: int, alone: int, ahead: int, seed: int
) -> None:
    transfer = Transfer(steady(total * M), alone * M, ahead=ahead, seed=seed)
    transfer.run(20)
    assert transfer.run(80) > 0.85 * min(total, MOST * alone) * M
    enough = min(MOST, max(START, total / alone))
    assert SMALLER * enough <= transfer.pace.limit <= enough / SMALLER / SMALLER


@pytest.mark.parametrize("alone", [5, 50, 100])
def test_a_link_that_more_requests_always_fill_better_gets_the_most_within_seconds(alone: int) -> None:
    transfer = Transfer(steady(1e5 * M), alone * M)
    transfer.run(20 if alone < 50 else 8)
    assert transfer.pace.limit == transfer.pace.most == MOST


@pytest.mark.parametrize(
    ("total", "alone", "takes"), [(50, 100, 1000), (120, 10, 1000), (400, 10, 6), (400, 10, 2)]
)
def test_it_comes_to_rest(total: int, alone: int, takes: int) -> None:
    """A try every two minutes, up and down again, is all that is left."""
    transfer = Transfer(steady(total * M), alone * M, takes=takes)
    transfer.run(300)
    before = len(transfer.steps)
    transfer.run(300 + 10 * PUT_OFF_MOST)
    assert len(transfer.steps) - before <= 2 * 10


def test_an_uneven_link_does_not_talk_it_out_of_a_step_that_pays() -> None:
    uneven = random.Random(5)
    transfer = Transfer(lambda _now: 1e4 * M, 10 * M)
    moved = 0.0
    for look in range(
        200
    ):  # each period by itself says little: the rate is the limit's, half more or half less
        now = look * LOOK
        if look % 4 == 0:
            luck = uneven.uniform(0.5, 1.5)
        moved += LOOK * transfer.pace.limit * 10 * M * luck
        transfer.pace.tick(int(moved), now, waiting=True)
    assert transfer.pace.limit == MOST


@pytest.mark.parametrize("takes", [1, 2, 3, 6, 12])
def test_a_store_that_refuses_gets_about_as_many_as_it_takes(takes: int) -> None:
    transfer = Transfer(steady(400 * M), 10 * M, takes=takes)
    transfer.run(30)
    assert transfer.run(300) > 0.65 * takes * 10 * M
    assert SMALLER * takes <= transfer.pace.limit <= takes
    assert transfer.refused < 20


def test_many_refusals_at_once_are_one() -> None:
    pace = Pace()
    pace.limit = 16
    for late in range(16):  # all had been sent before the first answer came
        pace.slow_down(100.0, 100.5 + late / 100)
    assert pace.limit == 8
    pace.slow_down(100.6, 101.0)  # one that was sent after it
    assert pace.limit == 4


def test_a_step_that_the_store_refuses_is_taken_back() -> None:
    pace = climbing()
    assert pace.limit > START
    pace.slow_down(10.0, 10.1)
    assert pace.limit == START


def test_one_request_stays_however_often_the_store_refuses() -> None:
    pace = Pace()
    for at in range(20):
        pace.slow_down(float(at), at + 0.5)
    assert pace.limit == 1


@pytest.mark.parametrize("rate", [5, 30, 57])
def test_a_slow_source_teaches_nothing(rate: int) -> None:
    """As many connections as there are at first would move 60 MB/s."""
    transfer = Transfer(steady(400 * M), 10 * M, source=steady(rate * M))
    transfer.run(200)
    assert not transfer.steps


def test_a_source_that_gets_fast_is_followed() -> None:
    transfer = Transfer(steady(400 * M), 10 * M, source=lambda now: (20 if now < 50 else 2000) * M)
    transfer.run(70)
    assert transfer.pace.limit == MOST


def test_a_link_that_gets_faster_is_followed_at_the_next_try() -> None:
    transfer = Transfer(lambda now: (50 if now < 60 else 400) * M, 10 * M)
    transfer.run(60 + PUT_OFF_MOST)
    assert transfer.pace.limit == MOST


def test_on_a_link_that_gets_slower_it_grows_no_more_and_the_link_stays_full() -> None:
    transfer = Transfer(lambda now: (100 if now < 60 else 40) * M, 10 * M)
    transfer.run(60)
    before = transfer.pace.limit
    assert transfer.run(300) > 0.95 * 40 * M
    assert transfer.pace.limit <= before


def test_an_outage_teaches_nothing() -> None:
    """Requests hang, more of them wait, and whatever comes after it is faster than nothing."""
    pace = Pace()
    for look in range(400):
        pace.tick(0, look * LOOK, waiting=True)
    assert pace.limit == START


@pytest.mark.parametrize(("queued", "grows"), [(0, True), (1, True), (3, False), (4, False)])
def test_where_packets_queue_up_most_of_the_time_no_connection_is_added(queued: int, grows: bool) -> None:
    pace = Pace()
    for look in range(40):
        pace.tick(int(look * M), look * LOOK, waiting=True, full=look % 4 < queued)
        if pace.limit > START:
            break
    assert (pace.limit > START) is grows


@pytest.mark.parametrize(
    ("fixed", "rate", "queued", "limit"),
    [(None, None, 3, FOLLOWED), (None, None, 2, START), (10, None, 3, 10), (None, 3e6, 3, 2)],
)
def test_while_somebody_follows_a_full_link_gets_fewer(
    fixed: int | None, rate: float | None, queued: int, limit: int
) -> None:
    """But what the user fixed stays, and there are never more than before."""
    pace = Pace(fixed, rate=rate)
    for look in range(5):
        pace.tick(int(look * M), look * LOOK, waiting=False, full=look % 4 < queued)
    before = pace.limit
    pace.follow()
    assert pace.limit == before, "what is under way tells whether the link is full"
    for look in range(5, 13):
        pace.tick(int(look * M), look * LOOK, waiting=False, full=look % 4 < queued)
    assert pace.limit == limit


def test_a_link_that_is_not_full_gets_more_whoever_follows() -> None:
    pace = Pace()
    pace.follow()
    for look in range(40):
        pace.tick(int(look * M), look * LOOK, waiting=True)
        if pace.limit > START:
            return
    pytest.fail("it never grew")


def climbing() -> Pace:
    """A pace in the middle of its first step."""
    pace = Pace()
    for look in range(6):
        pace.tick(int(look * M), look * LOOK, waiting=True)
    return pace


def test_a_step_has_so_many_chances() -> None:
    pace = climbing()
    now, moved = 5 * LOOK, 5 * M
    judged = 0
    while pace.limit > START:
        now, moved = now + PERIOD, moved + PERIOD / LOOK * M
        pace.tick(int(moved), now, waiting=True)
        judged += 1
    assert pace.limit == START
    assert judged == CHANCES


def test_what_the_user_fixed_stays() -> None:
    transfer = Transfer(steady(400 * M), 10 * M, takes=40, pace=Pace(64))
    transfer.steps.append((0.0, 64))
    transfer.run(30)
    assert transfer.refused
    assert (transfer.pace.limit, transfer.pace.most, len(transfer.steps)) == (64, 64, 1)
    assert transfer.pace.alone == pytest.approx(10 * M, rel=0.15)


def test_a_short_request_tells_nothing_of_a_connection() -> None:
    """A segment's index takes a round trip, whatever the connection could."""
    pace = Pace()
    pace.done(2000, 0.05)
    assert pace.alone is None
    pace.done(TELLING, 0.05)
    pace.done(2000, 0.05)
    assert pace.alone == TELLING / 0.05
    pace.done(PART, 0.0)  # a clock that has not moved
    assert pace.alone is not None


@pytest.mark.parametrize(
    ("rate", "most"), [(1000.0, 1), (1e6, 1), (4e6, 3), (20e6, MOST), (1e9, MOST), (None, MOST)]
)
def test_where_bytes_a_second_are_limited_no_more_requests_run_than_that_takes(
    rate: float | None, most: int
) -> None:
    pace = Pace(rate=rate)
    assert (pace.most, pace.limit) == (most, min(START, most))
    assert Pace(5, rate=rate).limit == 5  # what was asked for is kept to
