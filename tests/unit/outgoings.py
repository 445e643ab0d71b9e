"""What the tests of outgoing frames share."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncGenerator, Callable, Sequence

from transfer.codec import Codec, Encoded
from transfer.model import FrameId, Kind
from transfer.seal import Sealer
from transfer.ticket import Ticket

MIB = 1 << 20
CODEC = Codec(Sealer(Ticket("q" * 16, bytes(16))))
SOON = 20.0
"""Seconds after which a test gives up on what should be immediate."""


async def collect(frames: AsyncGenerator[Encoded, None]) -> list[Encoded]:
    return [made async for made in frames]


async def collect_ids(frames: AsyncGenerator[Encoded, None], into: list[FrameId]) -> None:
    """What came before an error is in `into`."""
    async with asyncio.timeout(SOON):
        async for made in frames:
            into += [made.frame.id]


def chunk(index: int) -> FrameId:
    return FrameId(Kind.CHUNK, index)


def raw_of(made: Encoded) -> bytes:
    return bytes(CODEC.decode(made.frame).raw)


def pieces_of(whole: bytes, at_most: int) -> Callable[[int], bytes]:
    stream = io.BytesIO(whole)
    return lambda size: stream.read(min(size, at_most))


def threads(name: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith(name)]


def gone(name: str, before: Sequence[threading.Thread]) -> bool:
    """Whether all threads of that name but those before end soon."""
    ours = [t for t in threads(name) if t not in before]
    for thread in ours:
        thread.join(SOON)
    return not any(t.is_alive() for t in ours)
