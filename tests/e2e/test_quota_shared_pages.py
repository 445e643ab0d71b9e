"""Brokers that share a user's page of the quota's book tell each other what they write there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest
from brokers import Place, connected
from nats.aio.client import Client

from transfer.broker.book import Book, Shelf
from transfer.broker.limits import Quota
from transfer.broker.quotas import Quotas
from transfer.broker.records import Records
from transfer.ticket import Ticket

EACH = 20
Told = tuple[list[str], str, bytes, int]


class Watched(Shelf):
    """Counts what is read of pages, writes that came too late, and what is told and heard. fate: of what is told."""

    def __init__(self, real: Shelf, fate: str) -> None:
        super().__init__(real._client, real._kv)
        self._fate = fate
        self._news = asyncio.Event()
        self.reads = self.late = self.told = self.heard = 0
        self._before: Told | None = None

    async def read(self, key: str) -> tuple[bytes | None, int]:
        self.reads += key.startswith("u.")
        return await super().read(key)

    async def write(self, key: str, value: bytes, revision: int) -> int | None:
        written = await super().write(key, value, revision)
        self.late += written is None and key.startswith("u.")
        return written

    async def tell(self, brokers: Iterable[str], user: str, page: bytes, revision: int) -> None:
        now: Told = list(brokers), user, page, revision
        told: list[Told] = {
            "told": [now], "lost": [], "doubled": [now, now], "late": [self._before or now],
        }[self._fate]  # fmt: skip
        self._before = now
        for each in told:
            self.told += len(now[0])
            await super().tell(*each)

    async def hear(
        self, broker: str, told: Callable[[str, bytes, int], None]
    ) -> Callable[[], Awaitable[None]]:
        def heard(*news: Any) -> None:
            told(*news)
            self.heard += 1
            self._news.set()

        return await super().hear(broker, heard)

    async def all_heard(self, book: Book) -> None:
        async with asyncio.timeout(60):
            await book._grouped.idle()
            while self.heard < self.told:
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    made = await connected(place)
    yield made
    await made.close()


@pytest.mark.parametrize("fate", ["told", "lost", "doubled", "late"])
async def test_two_brokers_that_take_turns_count_all_and_look_only_where_nothing_was_told(
    client: Client, fate: str
) -> None:
    shelf = Watched(await Shelf.attach(client), fate)
    records = await Records.attach(client)
    one, two = (Quotas(shelf, records, Quota) for _ in range(2))
    user = f"u{Ticket.new().job[:8]}"
    for _ in range(EACH):
        for broker in (one, two):
            await broker.reserve(user, Ticket.new().job, 10)
            await shelf.all_heard(broker.book)
    page = await one.book.read(user)
    assert (page.used.day_bytes, len(page.moves)) == (2 * EACH * 10, 2 * EACH)
    assert sorted(share.tally.day_bytes for share in page.shares.values()) == [EACH * 10] * 2
    if fate in ("told", "doubled"):
        assert (shelf.reads, shelf.late) == (3, 0)  # each one's first look, and ours
    else:
        assert shelf.late > EACH
    for broker in (one, two):
        await broker.close()


async def test_racing_brokers_lose_nothing_and_who_left_hears_no_more(client: Client) -> None:
    shelf = Watched(await Shelf.attach(client), "told")
    records = await Records.attach(client)
    brokers = [Quotas(shelf, records, Quota) for _ in range(3)]
    user = f"u{Ticket.new().job[:8]}"
    racing = [brokers[n % 3].reserve(user, Ticket.new().job, 10) for n in range(150)]
    charges = await asyncio.gather(*racing)
    page = await brokers[0].book.read(user)
    assert page.used.day_bytes == 1500
    assert set(page.moves) == {f"{charge.id}.0" for charge in charges}
    for broker in brokers:
        await broker.close()
    assert not [s for s in client._subs.values() if s.subject.startswith("xfer.pages.")]
