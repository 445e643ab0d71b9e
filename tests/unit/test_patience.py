"""Patience: outages are ridden out for as long as was said, and not a moment longer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import tenacity

from transfer.broker_client import Patience
from transfer.errors import BrokerAbsent, BusUnreachable, NotAllowed, StoreUnreachable


class Clock:
    """Stands in for the `time` module inside tenacity; sleeping moves it at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(tenacity, "time", made)
    return made


async def ask(
    patience: Patience, clock: Clock, call: Callable[[], Awaitable[str]], *kinds: type[Exception]
) -> str:
    """One call, retried as the library retries it, on the test's own clock."""
    async for attempt in patience.retrying(*(kinds or (BrokerAbsent,))).copy(sleep=clock.sleep):
        with attempt:
            return await call()
    raise AssertionError("retrying ends with an answer or an error")


class Broker:
    """Fails that many times, each try taking some seconds, then answers."""

    def __init__(
        self, clock: Clock, failures: float, error: Exception | None = None, takes: float = 0.0
    ) -> None:
        self.clock, self.failures, self.takes = clock, failures, takes
        self.error = error or BrokerAbsent("no broker answers")
        self.calls = 0
        self.began = 0.0

    async def __call__(self) -> str:
        self.calls += 1
        self.began = self.clock.now
        self.clock.now += self.takes
        if self.calls <= self.failures:
            raise self.error
        return "answer"


async def test_a_call_that_succeeds_is_made_once_and_waits_for_nothing(clock: Clock) -> None:
    broker = Broker(clock, 0)
    assert await ask(Patience(60), clock, broker) == "answer"
    assert (broker.calls, clock.slept) == (1, [])


async def test_no_patience_gives_up_at_the_first_failure_even_if_no_time_passed(clock: Clock) -> None:
    """A clock may be too coarse to see the first try."""
    broker = Broker(clock, 5)
    with pytest.raises(BrokerAbsent):
        await ask(Patience(0), clock, broker)
    assert (broker.calls, clock.slept) == (1, [])


async def test_an_outage_shorter_than_the_patience_is_ridden_out(clock: Clock) -> None:
    broker = Broker(clock, 5)
    assert await ask(Patience(600), clock, broker) == "answer"
    assert (broker.calls, len(clock.slept)) == (6, 5)


@pytest.mark.parametrize("seconds", [0.3, 3.0, 60.0, 600.0])
async def test_no_try_begins_after_the_patience_is_over(clock: Clock, seconds: float) -> None:
    for _ in range(20):  # the waits are random
        start = clock.now
        broker = Broker(clock, float("inf"), takes=0.01)
        with pytest.raises(BrokerAbsent):
            await ask(Patience(seconds), clock, broker)
        assert broker.began - start <= seconds
        assert broker.calls > 1 or seconds < 1
    if seconds > 30:
        assert max(clock.slept) > 1


async def test_waits_grow_are_random_and_stay_between_50_ms_and_10_s(clock: Clock) -> None:
    with pytest.raises(BrokerAbsent):
        await ask(Patience(2000), clock, Broker(clock, float("inf")))
    assert min(clock.slept) >= 0.05
    assert max(clock.slept) <= 10.05
    assert max(clock.slept[:2]) <= 0.05 + 0.2 * 2**2
    assert len(set(clock.slept)) == len(clock.slept)


async def test_the_first_own_error_comes_out_and_not_a_wrapper(clock: Clock) -> None:
    error = BrokerAbsent("no broker answers")
    with pytest.raises(BrokerAbsent) as caught:
        await ask(Patience(1), clock, Broker(clock, float("inf"), error))
    assert caught.value is error


async def test_what_is_no_outage_is_not_tried_again(clock: Clock) -> None:
    broker = Broker(clock, 5, NotAllowed("this user may not do that"))
    with pytest.raises(NotAllowed):
        await ask(Patience(60), clock, broker, BusUnreachable, BrokerAbsent, StoreUnreachable)
    assert broker.calls == 1


async def test_a_retry_after_is_honoured(clock: Clock) -> None:
    error = BrokerAbsent("slow down")
    error.retry_after = 7.0
    assert await ask(Patience(60), clock, Broker(clock, 3, error)) == "answer"
    assert clock.slept == [7.0] * 3


async def test_a_retry_after_beyond_the_patience_is_given_up_at_once(clock: Clock) -> None:
    error = BrokerAbsent("slow down")
    error.retry_after = 3600.0
    with pytest.raises(BrokerAbsent):
        await ask(Patience(60), clock, Broker(clock, float("inf"), error))
    assert clock.slept == []


async def test_every_call_has_the_whole_patience_anew(clock: Clock) -> None:
    patience = Patience(20)
    for _ in range(3):
        assert await ask(patience, clock, Broker(clock, 3, takes=4)) == "answer"
    assert clock.now > 1000 + 2 * 20 - 4


async def test_a_short_hiccup_is_not_worth_a_word(clock: Clock) -> None:
    told: list[tuple[str, float, str | None]] = []
    await ask(Patience(60, lambda what, left, on: told.append((what, left, on))), clock, Broker(clock, 2))
    assert told == []


async def test_a_wait_that_the_other_side_asked_for_is_told_at_once(clock: Clock) -> None:
    told: list[tuple[str, float, str | None]] = []
    error = StoreUnreachable("the store at h cannot serve now (503 SlowDown)")
    error.retry_after = 7.0
    patience = Patience(60, lambda what, left, on: told.append((what, left, on)))
    await ask(patience, clock, Broker(clock, 1, error), StoreUnreachable)
    assert told == [("the store at h cannot serve now (503 SlowDown)", 60.0, "store")]
    assert clock.slept[0] >= 7


async def test_what_is_waited_for_is_told_with_the_seconds_that_are_left(clock: Clock) -> None:
    told: list[tuple[str, float, str | None]] = []
    patience = Patience(60, lambda what, left, on: told.append((what, left, on)))
    await ask(patience, clock, Broker(clock, 4, takes=2))
    assert [(what, on) for what, _, on in told] == [("no broker answers", "broker")] * 4
    left = [seconds for _, seconds, _ in told]
    assert left == sorted(left, reverse=True)
    assert left[0] == 58
    assert min(left) >= 0
