"""Asking again: soon enough for a broker that died, seldom enough for one that is slow."""

from __future__ import annotations

import asyncio

import pytest

from transfer import hedge
from transfer.errors import BrokerAbsent, StoreUnreachable
from transfer.hedge import Hedge


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hedge, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(hedge, "AGAIN_AFTER_ABSENCE", 0.05)


class Brokers:
    """Answers the n-th copy after so many seconds; None: never. What is an exception is raised."""

    def __init__(self, *plan: float | Exception | None) -> None:
        self.plan, self.asked = list(plan), 0

    async def __call__(self, within: float) -> int:
        number, self.asked = self.asked, self.asked + 1
        does = self.plan[min(number, len(self.plan) - 1)]
        if isinstance(does, Exception):
            raise does
        async with asyncio.timeout(within):
            await asyncio.sleep(1000 if does is None else does)
        return number


async def test_a_quick_answer_is_asked_for_once() -> None:
    brokers = Brokers(0)
    assert await Hedge(10).ask(brokers) == 0
    assert brokers.asked == 1


async def test_a_broker_that_died_with_the_request_costs_one_wait() -> None:
    brokers = Brokers(None, 0)
    assert await asyncio.wait_for(Hedge(60).ask(brokers), 30) == 1


async def test_no_more_than_so_many_copies_are_under_way() -> None:
    brokers = Brokers(None)
    with pytest.raises(TimeoutError):
        await Hedge(2).ask(brokers)
    assert brokers.asked == hedge.COPIES


async def test_of_a_slow_broker_soon_no_copies_are_asked_for() -> None:
    learning = Hedge(0.6)
    while learning.wait < 0.6:
        slow = Brokers(0.45, None)
        assert await learning.ask(slow) == 0
        if slow.asked == 1:  # it waits longer than the broker takes
            break
    again = Brokers(0.3, None)
    assert await learning.ask(again) == 0
    assert again.asked == 1


async def test_quick_answers_bring_the_wait_down_again() -> None:
    learned = Hedge(10)
    learned.wait = 1.0
    for _ in range(50):
        await learned.ask(Brokers(0))
    assert learned.wait == 0.1


async def test_that_nobody_is_there_is_said_at_once() -> None:
    brokers = Brokers(BrokerAbsent("nobody"))
    with pytest.raises(BrokerAbsent):
        await Hedge(60).ask(brokers)
    assert brokers.asked == 1


async def test_a_copy_that_meets_nobody_does_not_end_the_wait_for_a_broker_that_is_leaving() -> None:
    assert await Hedge(60).ask(Brokers(0.5, BrokerAbsent("nobody"))) == 0


async def test_a_copy_that_meets_nobody_is_sent_again_until_somebody_is_there() -> None:
    gone = BrokerAbsent("nobody")
    assert await asyncio.wait_for(Hedge(60).ask(Brokers(None, gone, gone, 0)), 30) == 3


async def test_a_refusal_counts_whichever_copy_it_answers() -> None:
    with pytest.raises(StoreUnreachable):
        await asyncio.wait_for(Hedge(60).ask(Brokers(None, StoreUnreachable("away"))), 30)
