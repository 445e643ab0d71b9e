"""What the tests beside other WebRTC stacks share: random bytes each way at once, told by their digests."""

from __future__ import annotations

import asyncio
import hashlib
import secrets

from transfer.transports.peer import Channel

SIZE, PIECE = 20 << 20, 1 << 14
PATIENCE = 60.0
"""Seconds that 20 MB each way may take on a busy machine."""


async def send_all(channel: Channel, size: int) -> str:
    """Send random bytes. Their digest."""
    data = secrets.token_bytes(size)
    for at in range(0, size, channel.max_message):
        await channel.send(data[at : at + channel.max_message])
    return hashlib.sha256(data).hexdigest()


async def receive_all(channel: Channel, size: int) -> str:
    """The digest of the bytes that came."""
    digest, left = hashlib.sha256(), size
    while left > 0:
        message = await channel.receive()
        digest.update(message)
        left -= len(message)
    assert left == 0
    return digest.hexdigest()


async def both_ways(channel: Channel, size: int = SIZE) -> tuple[str, str]:
    """The digests of what was sent and of what came."""
    async with asyncio.timeout(PATIENCE):
        sent, came = await asyncio.gather(send_all(channel, size), receive_all(channel, size))
    return sent, came
