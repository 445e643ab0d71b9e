"""The routes that `test_routes.py` holds to the contract of `transfer/transport.py`: one maker each."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from transfer import plan, wire
from transfer.api import Create, JobState
from transfer.broker_client import Patience, connected
from transfer.codec import Codec
from transfer.config import Context
from transfer.ice_urls import IceServers
from transfer.model import Frame, FrameId, Kind, SegmentRef
from transfer.plan import Part
from transfer.seal import Sealer
from transfer.ticket import Ticket
from transfer.transport import Inbound, Outbound
from transfer.transports.data_channel import DataChannel
from transfer.transports.memory import MemoryChannel, channel_pair
from transfer.transports.peer import Channel, PeerInbound, PeerOutbound
from transfer.transports.s3 import S3Inbound, S3Outbound, inbound
from transfer.transports.webrtc import answer, offer

TICKET = Ticket("q" * 16, bytes(16))
SEALER = Sealer(TICKET)
CODEC = Codec(SEALER, compress="off")
WINDOW = 1 << 20
"""Bytes: small, so that a test reaches it soon."""
SILENCE = 2.0
"""Seconds: longer than aiortc's least retransmission time of 1 s."""


@dataclass
class Route:
    """Both ends of an open route. What a route without a live peer cannot do is None.

    lose: the connection ends and both can notice. kill: the named end is gone without a word.
    garble: each end hears, as from the other, bytes that are no message.
    """

    outbound: Outbound
    inbound: Inbound
    lose: Callable[[], Awaitable[None]] | None = None
    kill_inbound: Callable[[], None] | None = None
    kill_outbound: Callable[[], None] | None = None
    garble: Callable[[], Awaitable[None]] | None = None


@contextlib.asynccontextmanager
async def memory_route(_request: pytest.FixtureRequest) -> AsyncIterator[Route]:
    near, far = channel_pair()

    async def lose() -> None:
        near.cut()

    yield _peer_route(near, far, lose, lambda: near.cut(silently=True), lambda: near.cut(silently=True))


@contextlib.asynccontextmanager
async def webrtc_route(_request: pytest.FixtureRequest) -> AsyncIterator[Route]:
    near, far = await webrtc_pair()

    async def lose() -> None:
        await far._link.close()

    yield _peer_route(near, far, lose, lambda: vanish(far), lambda: vanish(near))


class StoredWhenFinished(S3Outbound):
    """The job is said to be stored when the route has finished, as `transfer.send` does."""

    async def finish(self) -> None:
        await super().finish()
        await self._broker.finish(self._job, JobState.STORED, self.segments)


class SameDigest(dict[FrameId, bytes]):
    """The route does not look into frames; the digests in its index are of no matter here."""

    def __missing__(self, key: FrameId) -> bytes:
        return bytes(32)


class NoLog:
    def segment_begun(self, segment: int, upload: str) -> None: ...
    def part_made(self, segment: int, part: Part, crc: str) -> None: ...
    def segment_stored(self, ref: SegmentRef) -> None: ...


@contextlib.asynccontextmanager
async def s3_route(request: pytest.FixtureRequest) -> AsyncIterator[Route]:
    """Through the real broker and store: no live peer, so nothing to lose, kill or garble."""
    servers = request.getfixturevalue("servers")
    patch = request.getfixturevalue("monkeypatch")
    patch.setattr(plan, "SEGMENT_SECONDS", 0.3)
    patch.setattr(inbound, "POLL_SECONDS", 0.1)  # no references here: the broker is asked
    context = Context(name="contract", nats_url=servers.nats_url, nats_creds=servers.creds, user="local")
    ticket = Ticket.new()
    sealer = Sealer(ticket)
    patience = Patience(5)
    async with connected(context, "contract", patience) as (_, broker):
        hashed = sealer.token_hash()
        await broker.create(Create(job=ticket.job, token_hash=hashed, size=None, expire=60))
        codec = Codec(sealer)
        outbound = StoredWhenFinished(
            broker, ticket.job, codec, SameDigest(), NoLog(), patience=patience, total=None
        )
        yield Route(outbound, S3Inbound(broker, sealer, codec, patience=patience))


MAKERS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Route]]] = {
    "memory": memory_route,
    "webrtc": webrtc_route,
    "s3": s3_route,
    # A new route is one line here: a context manager that yields both open ends. `request` gets it fixtures.
}


def open_sockets() -> int:
    """How many this process has open; 0 where the system does not say."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return 0
    links = []
    for entry in os.listdir(folder):
        with contextlib.suppress(OSError):
            links.append(os.readlink(folder / entry))
    return sum(link.startswith("socket:") for link in links)


def chunk(index: int, size: int = 1 << 16) -> Frame:
    """An encoded chunk of `size` raw bytes."""
    return CODEC.encode(FrameId(Kind.CHUNK, index), bytes([index % 251]) * size).frame


class Talk:
    """One end of a conversation without a bus. `meddle` may alter, replace or drop what is said."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[wire.AnySignal] = asyncio.Queue()
        self.said: list[wire.AnySignal] = []
        self.meddle: Callable[[wire.AnySignal], list[wire.AnySignal]] = lambda signal: [signal]
        self.far = self

    async def say(self, kind: type[wire.AnySignal], **fields: Any) -> None:
        signal = kind(session=b"s" * 16, seq=len(self.said), **fields)
        self.said.append(signal)
        for heard in self.meddle(signal):
            self.far.heard.put_nowait(heard)

    async def hear(self) -> wire.AnySignal:
        return await self.heard.get()

    async def hear_offer(self) -> wire.Offer:
        signal = await self.hear()
        assert isinstance(signal, wire.Offer)
        return signal


def talks() -> tuple[Talk, Talk]:
    """Of the sender and of the receiver."""
    sender, receiver = Talk(), Talk()
    sender.far, receiver.far = receiver, sender
    return sender, receiver


async def set_up(
    sender: Talk, receiver: Talk, servers: IceServers | None = None, deadline: float = 10.0
) -> tuple[DataChannel | BaseException, DataChannel | BaseException]:
    """What the sender's and the receiver's set-up each came to, over this host's own network."""
    ice = servers or IceServers()

    async def answering() -> Channel:
        return await answer(receiver, await receiver.hear_offer(), ice, deadline=deadline)

    offering = offer(sender, ice, deadline=deadline)
    near, far = await asyncio.gather(offering, answering(), return_exceptions=True)
    assert isinstance(near, DataChannel | BaseException)
    assert isinstance(far, DataChannel | BaseException)
    return near, far


async def webrtc_pair(
    sender: Talk | None = None, receiver: Talk | None = None, servers: IceServers | None = None
) -> tuple[DataChannel, DataChannel]:
    """Two connected ends in this process."""
    if sender is None or receiver is None:
        sender, receiver = talks()
    near, far = await set_up(sender, receiver, servers)
    if isinstance(near, BaseException):
        raise near
    if isinstance(far, BaseException):
        raise far
    return near, far


def vanish(channel: DataChannel) -> None:
    """Close its sockets without a word, as a killed process does."""
    for protocol in channel._link.ice._connection.ends:
        protocol.transport.abort()


def _peer_route(
    near: MemoryChannel | DataChannel,
    far: MemoryChannel | DataChannel,
    lose: Callable[[], Awaitable[None]],
    kill_inbound: Callable[[], None],
    kill_outbound: Callable[[], None],
) -> Route:
    async def garble() -> None:
        await near.send(b"\xffgarbage")
        await far.send(b"\xffgarbage")

    return Route(
        PeerOutbound(near, window=WINDOW, silence=SILENCE),
        PeerInbound(far, window=WINDOW, silence=SILENCE),
        lose,
        kill_inbound,
        kill_outbound,
        garble,
    )


async def until(true: Callable[[], bool]) -> None:
    """Wait for what no one announces."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
