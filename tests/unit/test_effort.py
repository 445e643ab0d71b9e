"""How hard to compress, on model links: as hard as pays, off only where that is faster, and settled after a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from transfer.effort import LADDER, PUT_OFF_MOST, Effort

M = 1e6
RAW = 4 << 20
AHEAD = 6
"""Frames that are made ahead, as for chunks of 4 MiB."""
ON_THE_WAY = 64 << 20
"""Bytes that the route holds before it makes its sender wait."""
CONNECTIONS = 4
Kinds = dict[int, tuple[float, float]]
"""For each level: raw bytes per second that all threads together compress, and raw bytes for one encoded."""
JSON: Kinds = {
    0: (2000 * M, 1.0), 1: (500 * M, 3.6), 3: (350 * M, 3.9),
    5: (150 * M, 4.2), 7: (90 * M, 4.5), 9: (60 * M, 4.7),
}  # fmt: skip
TAR: Kinds = {
    0: (2000 * M, 1.0), 1: (400 * M, 1.6), 3: (280 * M, 1.75),
    5: (120 * M, 1.8), 7: (70 * M, 1.83), 9: (50 * M, 1.85),
}  # fmt: skip
NOISE: Kinds = dict.fromkeys(LADDER, (1500 * M, 1.0))


def steady(rate: float) -> Callable[[float], float]:
    return lambda _now: rate


AT_ONCE = steady(1e12)


@dataclass
class Sending:
    """A compressor, a buffer and a link, on a clock of their own.

    link, source: bytes per second at a time. share: of the link that one connection has by itself.
    """

    data: Kinds
    link: Callable[[float], float]
    source: Callable[[float], float] = AT_ONCE
    share: float = 1 / CONNECTIONS
    effort: Effort = field(default_factory=lambda: Effort(3))
    now: float = 0.0
    raw: float = 0.0
    steps: list[tuple[float, int]] = field(default_factory=list)
    _made: deque[tuple[float, float, float]] = field(default_factory=deque)
    _maker_free: float = 0.0
    _held: float = 0.0
    _held_at: float = 0.0

    def run(self, until: float) -> float:
        """Raw bytes per second from now until then."""
        began, before = self.now, self.raw
        while self.now < until:
            self._one()
        return (self.raw - before) / (self.now - began)

    def _one(self) -> None:
        while len(self._made) < AHEAD:
            self._make()
        ready, encoded, compressing = self._made.popleft()
        there = max(self.now, ready)
        made = min(there - self.now, compressing)
        source = there - self.now - made
        self._drain(there)
        link = self.link(there)
        self._drain(there + max(0.0, self._held + encoded - ON_THE_WAY) / link)
        self._held += encoded
        self.effort.moved(RAW, made, source, self._held_at - there, link * self.share)
        if self.effort.level != (self.steps[-1][1] if self.steps else 3):
            self.steps.append((self._held_at, self.effort.level))
        self.now = self._held_at
        self.raw += RAW

    def _make(self) -> None:
        begins = max(self._maker_free, self.now if len(self._made) == AHEAD - 1 else 0.0)
        speed, ratio = self.data[self.effort.level]
        compressing = RAW / speed
        self._maker_free = begins + max(compressing, RAW / self.source(begins))
        self._made.append((self._maker_free, RAW / ratio, compressing))

    def _drain(self, upto: float) -> None:
        self._held = max(0.0, self._held - (upto - self._held_at) * self.link(self._held_at))
        self._held_at = upto


def best(data: Kinds, link: float) -> dict[int, float]:
    """What each level by itself comes to, raw bytes per second: the full search."""
    return {level: min(speed, link * ratio) for level, (speed, ratio) in data.items()}


def beside(level: int, rates: dict[int, float]) -> bool:
    """Whether it is one of the best, or next to one on the ladder."""
    most = max(rates.values())
    good = [LADDER.index(at) for at, rate in rates.items() if rate > 0.97 * most]
    return min(abs(LADDER.index(level) - at) for at in good) <= 1


@pytest.mark.parametrize("data", [JSON, TAR, NOISE], ids=["json", "tar", "noise"])
@pytest.mark.parametrize("link", [1, 5, 10, 20, 30, 50, 80, 120, 200, 400, 800, 1600, 4000])
def test_it_comes_to_what_the_best_level_would(data: Kinds, link: int) -> None:
    """Within what the tries cost."""
    sending = Sending(data, steady(link * M))
    sending.run(20)
    rate = sending.run(80)
    rates = best(data, link * M)
    assert rate > 0.85 * max(rates[at] for at in LADDER[1:])
    if link != 30:  # where several levels are nearly as good, a try goes over some of them
        assert beside(sending.effort.level, rates)


@pytest.mark.parametrize("link", [2, 30, 120, 800])
def test_it_settles(link: int) -> None:
    """After the first minutes a try a good while apart, each over the ladder and back at most."""
    sending = Sending(JSON, steady(link * M))
    sending.run(300)
    before = len(sending.steps)
    sending.run(300 + 5 * PUT_OFF_MOST)
    assert len(sending.steps) - before <= 5 * 2 * (len(LADDER) - 1)


@pytest.mark.parametrize(("early", "late"), [(5, 400), (400, 5), (800, 20), (30, 150)])
def test_it_follows_a_link_that_gets_faster_or_slower(early: int, late: int) -> None:
    sending = Sending(JSON, lambda now: (early if now < 60 else late) * M)
    sending.run(60)
    sending.run(60 + 2.5 * PUT_OFF_MOST)
    rates = best(JSON, late * M)
    assert sending.run(sending.now + 60) > 0.85 * max(rates[at] for at in LADDER[1:])


@pytest.mark.parametrize("link", [50, 100, 400, 4000])
def test_a_slow_source_is_no_reason_to_compress_less(link: int) -> None:
    """The compressor has time enough, and whoever fetches may have a slow link: dropping it would only cost."""
    sending = Sending(JSON, steady(link * M), source=steady(20 * M), share=1.0)
    sending.run(120)
    assert sending.effort.level >= 3
    assert not sending.steps


def test_a_source_that_was_slow_is_no_excuse_for_a_slow_compressor() -> None:
    sending = Sending(JSON, steady(4000 * M), source=lambda now: (20 if now < 30 else 5000) * M)
    sending.run(60)
    assert sending.effort.level == 0


def settled(level: int, made: float, route: float, alone: float | None, source: float = 0.0) -> int:
    """The level after one judgement."""
    effort = Effort(level)
    effort.moved(100_000_000, made, source, route, alone)
    return effort.level


def test_off_is_taken_only_where_one_connection_alone_is_faster() -> None:
    assert settled(1, 1.0, 0.0, 101 * M) == 0
    assert settled(1, 1.0, 0.0, 99 * M) == 1
    assert settled(1, 1.0, 0.0, None) == 1
    assert settled(3, 1.0, 0.0, None) == 1  # lighter is not off


def test_the_ends_of_the_ladder_hold() -> None:
    assert settled(LADDER[-1], 0.0, 1.0, 1 * M) == LADDER[-1]
    assert settled(0, 1.0, 0.0, 1e12) == 0


def test_nothing_changes_before_enough_was_waited_nor_while_both_are_waited_for() -> None:
    assert settled(3, 0.4, 0.0, None) == settled(3, 0.0, 0.4, None) == 3
    assert settled(3, 0.4, 0.6, None) == settled(3, 0.6, 0.4, None) == 3
    assert settled(3, 0.6, 0.0, None, source=0.4) == settled(3, 0.0, 0.6, None, source=0.4) == 3


def test_a_level_that_was_too_slow_is_tried_again_later_and_later() -> None:
    effort, waits = Effort(3), []
    for _ in range(8):
        effort.moved(RAW, 1.0, 0.0, 0.0, None)
        assert effort.level == 1
        waited = 0
        while effort.level == 1:
            effort.moved(RAW, 0.0, 0.0, 1.0, None)
            waited += 1
        waits.append(waited)
    assert waits == [8, 16, 32, 64, 120, 120, 120, 120]
