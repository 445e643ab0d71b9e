"""The same request, come twice while the first is in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeAlias

import msgspec
import pytest

from transfer import api
from transfer.broker.joined import joined
from transfer.broker.table import Later
from transfer.errors import BusUnreachable, StoreUnreachable

Answer: TypeAlias = msgspec.Struct | Later


class Slow:
    """A verb that takes its time; counts how often it was asked."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked, self.failure, self.go = 0, failure, asyncio.Event()

    async def __call__(self, _user: str, _body: bytes) -> msgspec.Struct:
        self.asked += 1
        await self.go.wait()
        if self.failure:
            raise self.failure
        return api.Begun(f"upload {self.asked}")


async def started(*calls: Awaitable[Answer]) -> list[asyncio.Future[Answer]]:
    tasks: list[asyncio.Future[Answer]] = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)  # each runs as far as it can
    return tasks


async def test_copies_share_one_answer_and_later_requests_get_their_own() -> None:
    slow = Slow()
    verb = joined({"begin": slow})["begin"]
    tasks = await started(verb("ann", b"1"), verb("ann", b"1"), verb("ann", b"1"))
    slow.go.set()
    assert {str(await task) for task in tasks} == {str(api.Begun("upload 1"))}
    assert await verb("ann", b"1") == api.Begun("upload 2")


async def test_what_another_user_asks_is_not_the_same_nor_is_another_request() -> None:
    slow = Slow()
    verb = joined({"begin": slow})["begin"]
    tasks = await started(verb("ann", b"1"), verb("bob", b"1"), verb("ann", b"2"))
    slow.go.set()
    await asyncio.gather(*tasks)
    assert slow.asked == 3


async def test_copies_share_a_refusal() -> None:
    slow = Slow(StoreUnreachable("away"))
    verb = joined({"begin": slow})["begin"]
    tasks = await started(verb("ann", b"1"), verb("ann", b"1"))
    slow.go.set()
    for task in tasks:
        with pytest.raises(StoreUnreachable, match="away"):
            await task
    assert slow.asked == 1


async def test_when_the_first_is_given_up_its_copies_hear_why_and_the_next_is_asked_anew() -> None:
    slow = Slow()
    verb = joined({"begin": slow})["begin"]
    first, copy = await started(verb("ann", b"1"), verb("ann", b"1"))
    first.cancel()
    with pytest.raises(BusUnreachable, match="too long"):
        await copy
    slow.go.set()
    assert await verb("ann", b"1") == api.Begun("upload 2")
