"""What only one broker does at a time: one has the lease, another one has it soon when that one is gone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from brokers import Place, answers, broker_process, connected, free_port, nats_server
from nats.aio.client import Client

from transfer.broker.lease import BUCKET, Lease

SOON = 60.0


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Place]:
    with nats_server(tmp_path, free_port()) as url:
        yield Place(url, "", {}, tmp_path)


class Chore:
    """Counts who is at it. most: how many ever were at once."""

    def __init__(self) -> None:
        self.at_it, self.most = list[str](), 0

    async def do(self, name: str) -> None:
        self.at_it.append(name)
        self.most = max(self.most, len(self.at_it))
        try:
            await asyncio.sleep(3600)
        finally:
            self.at_it.remove(name)

    async def held_by(self, *names: str) -> str:
        async with asyncio.timeout(SOON):
            while not set(self.at_it) & set(names):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return self.at_it[0]


def keeper(client: Client, chore: Chore, name: str, life: float = 6.0) -> asyncio.Task[None]:
    lease = Lease(client, "chore", life=life)
    return asyncio.ensure_future(lease.keep(lambda: chore.do(name)))


async def ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_at_a_time_for_longer_than_its_life_and_the_next_when_it_leaves(alone: Place) -> None:
    client, chore = await connected(alone), Chore()
    keepers = {name: keeper(client, chore, name) for name in ("a", "b", "c")}
    first = await chore.held_by(*keepers)
    await asyncio.sleep(8)
    assert chore.at_it == [first]
    await ended(keepers.pop(first))
    assert await chore.held_by(*keepers) != first
    assert chore.most == 1
    await ended(*keepers.values())
    await client.close()


async def test_one_that_is_cut_off_stops_before_another_one_begins(alone: Place) -> None:
    """Its connection is gone, so that it can neither renew the lease nor give it back."""
    lost, here, chore = await connected(alone), await connected(alone), Chore()
    holder = keeper(lost, chore, "a")
    assert await chore.held_by("a") == "a"
    heir = keeper(here, chore, "b")
    await lost.close()
    assert await chore.held_by("b") == "b"
    assert chore.most == 1
    await ended(holder, heir)
    await here.close()


async def test_one_whose_lease_was_taken_stops(alone: Place) -> None:
    client, chore = await connected(alone), Chore()
    holder = keeper(client, chore, "a")
    await chore.held_by("a")
    kv = await client.jetstream().key_value(BUCKET)
    for _ in range(20):  # it renews at the same time
        await kv.put("chore", b"another")
    async with asyncio.timeout(SOON):
        while chore.at_it:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await chore.held_by("a")  # the other one never renewed it
    await ended(holder)
    await client.close()


@pytest.mark.long
@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
async def test_when_the_broker_that_sweeps_ends_another_one_sweeps(
    place: Place, tmp_path: Path, ends: signal.Signals
) -> None:
    with nats_server(tmp_path, free_port()) as url:
        here = Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, tmp_path)
        first, second = tmp_path / "first.log", tmp_path / "second.log"
        with broker_process(here, first) as holder:
            client = await connected(here)
            await answers(client)
            await says(first, "has the lease sweeper")
            with broker_process(here, second):
                await says(second, "ready")
                await asyncio.sleep(4)
                assert "has the lease" not in second.read_text()
                holder.send_signal(ends)
                await says(second, "has the lease sweeper")
            await client.close()


async def says(log: Path, words: str) -> None:
    async with asyncio.timeout(SOON):
        while words not in await asyncio.to_thread(log.read_text):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
