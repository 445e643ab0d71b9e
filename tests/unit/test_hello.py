"""Saying hello to a sender, and which of its offers is answered."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from transfer import hello, wire
from transfer.hello import Greeter
from transfer.ice_urls import IceServers


class Talk:
    def __init__(self, session: bytes) -> None:
        self.session, self.open = session, True
        self.said: asyncio.Queue[type[object]] = asyncio.Queue()

    async def say(self, kind: type[object], **_fields: object) -> None:
        self.said.put_nowait(kind)

    def close(self) -> None:
        self.open = False


class Box:
    def __init__(self) -> None:
        self.talks: list[Talk] = []
        self.news = asyncio.Event()

    def converse(self, session: bytes, _peer: str) -> Talk:
        self.talks.append(Talk(session))
        self.news.set()
        return self.talks[-1]

    async def newest(self) -> Talk:
        """Once a hello was said in it."""
        await self.news.wait()
        self.news.clear()
        assert await self.talks[-1].said.get() is wire.Hello
        return self.talks[-1]


def offer_in(talk: Talk) -> wire.Offer:
    return wire.Offer(session=talk.session, seq=0, description=cast(Any, None))


async def test_an_offer_of_an_earlier_conversation_is_never_answered_in_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered: list[tuple[bytes, bytes]] = []

    async def answer(talk: Talk, theirs: wire.Offer, _servers: IceServers) -> str:
        answered.append((talk.session, theirs.session))
        return "channel"

    async def prepared() -> None: ...

    monkeypatch.setattr(hello, "answer", answer)
    monkeypatch.setattr(hello, "prepare", prepared)
    box = Box()
    greeter = Greeter(cast(Any, box), "sam", "rita", "r1")

    meeting = asyncio.create_task(greeter.meet(IceServers()))
    first = await box.newest()
    greeter.hear(offer_in(first))
    assert await cast(Any, meeting) == "channel"
    greeter.hear(offer_in(first))  # the sender had begun anew before it heard our answer
    greeter.part()
    assert not first.open

    meeting = asyncio.create_task(greeter.meet(IceServers()))
    second = await box.newest()
    greeter.hear(offer_in(first))
    greeter.hear(offer_in(second))
    assert await cast(Any, meeting) == "channel"
    assert answered == [(first.session, first.session), (second.session, second.session)]
    assert cast(Any, greeter.talk) is second
