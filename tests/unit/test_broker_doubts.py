"""When a «not found» is answered, and how often a user may ask."""

from __future__ import annotations

import pytest

from transfer.api import ErrorCode
from transfer.broker.doubts import FIRST, FORGIVE, HELD, LAST, Doubts
from transfer.broker.job import Refusal
from transfer.broker.pace import Pace


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_wait_doubles_up_to_a_bound_and_is_forgiven_with_time() -> None:
    clock = Clock()
    doubts = Doubts(clock)
    waits = [doubts.wrong("ann", clock.now) - clock.now for _ in range(12)]
    assert waits[:4] == pytest.approx([FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST])
    assert waits[-1] == LAST
    assert doubts.wrong("bob", clock.now) - clock.now == pytest.approx(FIRST)
    clock.now += 100 * FORGIVE
    assert doubts.wrong("ann", clock.now) - clock.now == pytest.approx(FIRST)


@pytest.mark.parametrize("looked", [0.0, 0.001, 0.02])
def test_how_long_the_look_up_took_does_not_show(looked: float) -> None:
    clock = Clock()
    arrived, clock.now = clock.now, clock.now + looked
    assert Doubts(clock).wrong("ann", arrived) == pytest.approx(arrived + FIRST)


def test_a_look_up_that_took_longer_than_the_wait_shows_on_a_grid_only() -> None:
    clock = Clock()
    arrived, clock.now = clock.now, clock.now + 3.4 * FIRST
    assert Doubts(clock).wrong("ann", arrived) == pytest.approx(arrived + 4 * FIRST)


def test_few_answers_to_one_user_are_held_back_at_a_time() -> None:
    doubts = Doubts()
    assert all(doubts.hold("ann") for _ in range(HELD))
    assert not doubts.hold("ann")
    assert doubts.hold("bob")
    doubts.release("ann")
    assert doubts.hold("ann")


def test_a_minutes_requests_may_come_at_once_and_then_one_at_a_time() -> None:
    clock = Clock()
    pace = Pace({"ann": 60, "eve": 0}.get, clock)
    for _ in range(60):
        pace.spend("ann")
    with pytest.raises(Refusal, match="more than 60 requests a minute") as refused:
        pace.spend("ann")
    assert (refused.value.error.code, refused.value.error.retry_after) == (ErrorCode.BUSY, pytest.approx(1.0))
    clock.now += 1.0
    pace.spend("ann")
    for _ in range(1000):
        pace.spend("bob")
    with pytest.raises(Refusal, match="may ask nothing") as refused:
        pace.spend("eve")
    assert refused.value.error.code is ErrorCode.OVER_QUOTA
