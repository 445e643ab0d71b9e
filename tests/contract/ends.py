"""What the tests of WebRTC connections share."""

from __future__ import annotations

import asyncio
import time

from routes import Talk, webrtc_pair

from transfer.ice_urls import IceServers
from transfer.transports.data_channel import DataChannel
from transfer.transports.interfaces import host_addresses


async def part(*channels: DataChannel) -> None:
    await asyncio.gather(*(channel.close() for channel in channels))


async def connects(sender: Talk, receiver: Talk, servers: IceServers | None = None) -> float:
    """Seconds that it took; a message has crossed each way."""
    started = time.monotonic()
    near, far = await webrtc_pair(sender, receiver, servers)
    took = time.monotonic() - started
    await near.send(b"ping")
    assert await far.receive() == b"ping"
    await far.send(b"pong")
    assert await near.receive() == b"pong"
    await part(near, far)
    return took


def host_address() -> str:
    return next(address for address in host_addresses() if ":" not in address)
