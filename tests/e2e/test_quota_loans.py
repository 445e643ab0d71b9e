"""What is for all users together is lent to brokers, and comes back from those that leave, idle or die."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from brokers import Place, connected, free_port, nats_server

from transfer.api import ErrorCode
from transfer.broker import borrowing
from transfer.broker.book import Shelf
from transfer.broker.job import Refusal
from transfer.broker.limits import Quota
from transfer.broker.quotas import Quotas
from transfer.broker.records import Records
from transfer.broker.rules import read
from transfer.ticket import Ticket

NOON = 1_800_014_400.0
"""Seconds since 1970: midday, so that no test crosses midnight."""
MB, GB = 10**6, 10**9


class Team:
    """Brokers in this process, on a bus of their own. quota: in force for all of them."""

    def __init__(self, shelf: Shelf, records: Records) -> None:
        self._shelf, self._records = shelf, records
        self._keeping: dict[Quotas, asyncio.Task[None]] = {}
        self.quota, self.now = Quota(), NOON

    def join(self) -> Quotas:
        broker = Quotas(self._shelf, self._records, lambda: self.quota, lambda: self.now)
        self._keeping[broker] = asyncio.create_task(broker.keep())
        return broker

    async def die(self, broker: Quotas) -> None:
        keeping = self._keeping.pop(broker)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    async def leave(self, broker: Quotas) -> None:
        await self.die(broker)
        await broker.close()

    async def end(self) -> None:
        for broker in list(self._keeping):
            await self.die(broker)


@pytest.fixture(scope="module")
def bus_of_ours(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("lease")
    with nats_server(folder, free_port()) as url:
        yield Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, folder)


@pytest.fixture
async def team(bus_of_ours: Place) -> AsyncIterator[Team]:
    client = await connected(bus_of_ours)
    with contextlib.suppress(Exception):  # each test has a book of its own
        await client.jetstream().delete_key_value("xfer_quota")
    team = Team(await Shelf.attach(client), await Records.attach(client))
    yield team
    await team.end()
    await client.close()


async def granted(broker: Quotas, size: int, *, user: str | None = None) -> int:
    """Bytes that a job gets, asking again while it is told to."""
    async with asyncio.timeout(90):
        while True:
            try:
                await broker.reserve(user or f"u{secrets.token_hex(3)}", Ticket.new().job, size)
            except Refusal as refused:
                if refused.error.code is ErrorCode.OVER_QUOTA:
                    return 0
                if refused.error.code is not ErrorCode.BUSY:
                    raise
                await asyncio.sleep(0.2)
            else:
                return size


def limited(text: str) -> Quota:
    return read(f"[quota.total]\n{text}".encode()).quota


async def test_an_idle_brokers_block_is_handed_in_when_another_needs_it(team: Team) -> None:
    team.quota = limited('bytes_per_day = "1GB"')
    one, two = team.join(), team.join()
    assert await granted(one, MB) == MB  # and a block beside it
    assert await granted(two, 999 * MB) == 999 * MB
    assert await granted(one, 1) == await granted(two, 1) == 0
    assert (await one.loans.total()).day_bytes == GB


async def test_brokers_racing_for_what_others_hold_get_all_of_it_and_no_more(team: Team) -> None:
    team.quota = limited('bytes_per_day = "1GB"\nopen_jobs = 1000')
    brokers = [team.join() for _ in range(3)]
    each = [granted(brokers[i % 3], 30 * MB) for i in range(50)]
    assert sum(await asyncio.gather(*each)) == 990 * MB
    each = [granted(brokers[i % 3], MB) for i in range(50)]
    assert sum(await asyncio.gather(*each)) == 10 * MB
    assert (await brokers[0].loans.total()).day_bytes == GB


async def test_a_broker_that_leaves_hands_its_block_in(team: Team) -> None:
    team.quota = limited('stored_bytes = "1GB"')
    one, two = team.join(), team.join()
    assert await granted(one, 100 * MB) == 100 * MB
    await team.leave(one)
    assert await granted(two, 900 * MB) == 900 * MB
    assert await granted(two, 1) == 0


async def test_a_dead_brokers_block_comes_back_after_a_while_and_what_it_used_does_not(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(borrowing, "LIFE", 3.0)
    monkeypatch.setattr(borrowing, "RENEW_EVERY", 0.5)
    team.quota = limited('stored_bytes = "1GB"\nopen_jobs = 100')
    one = team.join()
    assert await granted(one, 100 * MB) == 100 * MB
    await team.die(one)
    two = team.join()
    assert await granted(two, 900 * MB) == 900 * MB
    assert await granted(two, 1) == 0


async def test_a_broker_that_was_taken_for_dead_goes_on_under_another_name(team: Team) -> None:
    team.quota = limited('stored_bytes = "1GB"')
    one, two = team.join(), team.join()
    assert await granted(one, 100 * MB) == 100 * MB
    name = one.loans.name
    await two.loans._bury(name)
    assert await granted(two, 850 * MB) == 850 * MB
    await one.loans._renew()
    assert one.loans.name != name
    assert await granted(one, 51 * MB) == 0
    assert await granted(one, 50 * MB) == 50 * MB


async def test_a_limit_that_comes_later_counts_what_was_used_before_it(team: Team) -> None:
    one, two = team.join(), team.join()
    assert await granted(one, 300 * MB) == 300 * MB
    assert await granted(two, 300 * MB) == 300 * MB
    team.quota = limited('bytes_per_day = "1GB"')
    await one.loans._renew()  # as each does within a moment: it owns up to what it used
    await two.loans._renew()
    assert await granted(one, 401 * MB) == 0
    assert await granted(two, 400 * MB) == 400 * MB


async def test_a_limit_that_is_lowered_counts_though_a_larger_block_was_lent_before(team: Team) -> None:
    team.quota = limited('stored_bytes = "100GB"')
    one, two = team.join(), team.join()
    assert await granted(one, 200 * MB) == 200 * MB  # and blocks of gigabytes beside them
    assert await granted(two, 200 * MB) == 200 * MB
    team.quota = limited('stored_bytes = "500MB"')
    assert await granted(one, 101 * MB) == await granted(two, 101 * MB) == 0
    assert await granted(two, 60 * MB) == 60 * MB
    assert await granted(one, 40 * MB) == 40 * MB
    assert await granted(one, 1) == await granted(two, 1) == 0
    team.quota = limited('stored_bytes = "600MB"')
    assert await granted(one, 100 * MB) == 100 * MB


async def test_a_new_day_begins_with_the_whole_limit(team: Team) -> None:
    team.quota = limited('bytes_per_day = "1GB"')
    one, two = team.join(), team.join()
    assert await granted(one, 600 * MB) == 600 * MB
    assert await granted(two, 400 * MB) == 400 * MB
    assert await granted(two, 1) == 0
    team.now += 86_400
    await asyncio.sleep(2 * borrowing.LOOK_EVERY)  # a refusal is remembered for so long
    assert await granted(two, GB) == GB
    assert await granted(one, 1) == 0


async def test_what_was_given_back_through_another_broker_can_be_used_again(team: Team) -> None:
    team.quota = limited("open_jobs = 3")
    one, two = team.join(), team.join()
    charges = [await one.reserve("ann", Ticket.new().job, 0) for _ in range(3)]
    with pytest.raises(Refusal):
        await one.reserve("bob", Ticket.new().job, 0)
    for charge in charges:
        await two.withdraw("ann", Ticket.new().job, charge)
    await asyncio.sleep(2 * borrowing.LOOK_EVERY)
    for _ in range(3):
        await one.reserve("bob", Ticket.new().job, 0)
    with pytest.raises(Refusal):
        await two.reserve("bob", Ticket.new().job, 0)
