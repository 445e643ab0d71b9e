"""Channels set up by SDP between two of our own ends: roles, deadlines, and what an end that misbehaves comes to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from interop import both_ways
from sdp_channel import answer_sdp, offer_sdp

from transfer.errors import PeerLost, ProtocolError
from transfer.ice_urls import IceServers
from transfer.sctp.association import Association
from transfer.sctp.dcep import Line, Protocol
from transfer.transports import ice
from transfer.transports.data_channel import DataChannel
from transfer.transports.webrtc import DEADLINE

Change = Callable[[str], str]


async def set_up(
    alter_offer: Change = str, alter_answer: Change = str, deadline: float = 10.0
) -> list[DataChannel | BaseException]:
    """What the end that offers and the one that answers came to."""
    offers: asyncio.Queue[str] = asyncio.Queue()
    answers: asyncio.Queue[str] = asyncio.Queue()

    async def exchange(offer: str) -> str:
        offers.put_nowait(alter_offer(offer))
        return alter_answer(await answers.get())

    async def answering() -> Any:
        return await answer_sdp(await offers.get(), answers.put, IceServers(), deadline=deadline)

    offering = offer_sdp(exchange, IceServers(), deadline=deadline)
    return await asyncio.gather(offering, answering(), return_exceptions=True)  # type: ignore[return-value]


@contextlib.asynccontextmanager
async def connected(alter_offer: Change = str) -> AsyncIterator[list[DataChannel]]:
    ends = await set_up(alter_offer)
    channels = [end for end in ends if isinstance(end, DataChannel)]
    try:
        assert len(channels) == 2, ends
        yield channels
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def mirrored(near: DataChannel, far: DataChannel, size: int) -> None:
    (sent, came), (sent_back, came_there) = await asyncio.gather(both_ways(near, size), both_ways(far, size))
    assert (sent, sent_back) == (came_there, came)


@pytest.mark.parametrize(("setup", "stream"), [("actpass", 1), ("passive", 1), ("active", 0)])
async def test_whoever_begins_the_encryption_data_crosses(setup: str, stream: int) -> None:
    async with connected(lambda offer: offer.replace("a=setup:actpass", f"a=setup:{setup}")) as (near, far):
        assert near._line.stream == far._line.stream == stream
        await mirrored(near, far, 1 << 20)


async def test_another_name_is_taken_over() -> None:
    def alter(offer: str) -> str:
        return offer.replace("a=mid:0", "a=mid:data").replace("BUNDLE 0", "BUNDLE data")

    answers: list[str] = []
    near, far = await set_up(alter, lambda answer: answers.append(answer) or answer)
    assert isinstance(near, DataChannel)
    assert isinstance(far, DataChannel)
    await asyncio.gather(near.close(), far.close())
    assert "a=mid:data" in answers[0]
    assert "a=group:BUNDLE data" in answers[0]


async def test_two_ends_that_both_think_to_lead_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leading(ice.Ice):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "controlling": True})

    monkeypatch.setattr(ice, "Ice", Leading)
    async with connected() as (near, far):
        await mirrored(near, far, 1 << 16)


async def test_a_smaller_message_is_all_that_is_sent_to_who_takes_no_larger() -> None:
    async with connected(lambda offer: offer.replace("size:65536", "size:2000")) as (near, far):
        assert far.max_message == 2000
        await mirrored(near, far, 1 << 16)


async def test_one_who_closes_is_heard_as_having_closed() -> None:
    async with connected() as (near, far):
        await near.send(b"last")
        await near.close()
        assert await far.receive() == b"last"
        with pytest.raises(PeerLost, match="the peer closed the channel"):
            await far.receive()


async def test_text_ends_a_channel_for_bytes() -> None:
    async with connected() as (near, far):
        near._association.send(1, Protocol.STRING, b"text")
        near._stir()
        with pytest.raises(ProtocolError, match="sent text"):
            await far.receive()


async def test_a_channel_that_is_never_opened_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(association: Association, stream: int, label: str) -> Line:
        return Line(association, stream)

    monkeypatch.setattr(Line, "opening", silent)
    near, far = await set_up(deadline=2.0)
    assert isinstance(near, DataChannel)
    await near.close()
    assert isinstance(far, PeerLost)
    assert far.what == "the peer did not open the data channel in time"


async def test_an_offer_that_nobody_answers_is_given_up_in_time() -> None:
    async def silence(offer: str) -> str:
        await asyncio.Event().wait()
        return offer

    started = time.monotonic()
    with pytest.raises(PeerLost, match="did not answer the offer in time"):
        await offer_sdp(silence, IceServers(), deadline=0.3)
    assert time.monotonic() - started < DEADLINE  # which is not the one that was given


@pytest.mark.parametrize("text", ["", "garbage", "v=0\r\n" * 5, "x" * 10_000_000])
async def test_what_is_no_sdp_is_refused_from_either_side(text: str) -> None:
    async def told(answer: str) -> None:
        raise AssertionError(answer)

    async def exchange(offer: str) -> str:
        return text

    with pytest.raises(ProtocolError):
        await answer_sdp(text, told, IceServers())
    with pytest.raises(ProtocolError):
        await offer_sdp(exchange, IceServers())


async def test_another_certificate_than_the_announced_one_is_refused() -> None:
    def other(offer: str) -> str:
        at = offer.index("a=fingerprint:sha-256 ") + 22
        return offer[:at] + ("00" if offer[at : at + 2] != "00" else "01") + offer[at + 2 :]

    near, far = await set_up(other, deadline=3.0)
    assert isinstance(far, PeerLost)
    assert "certificate is not the announced one" in far.what
    assert isinstance(near, PeerLost)
