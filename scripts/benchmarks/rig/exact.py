"""One end of a channel that carries seeded messages both ways at once, as a process of its own: `exact.py ROLE SEED BYTES`.

ROLE: `sender` or `receiver`; the receiver sends a quarter as much. Whatever arrives must be message for message what was
sent, in order, and nothing after it; else this process ends with what was wrong. What the ends must know of each
other crosses stdin and stdout; the sender's last line is JSON: `seconds` and `setup`, from both being there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from scripts.benchmarks.rig.channel import DEADLINE, MESSAGE, Talk, both_ready, incoming
from scripts.benchmarks.rig.datasets import messages
from transfer import wire
from transfer.errors import PeerLost
from transfer.ice_urls import IceServers
from transfer.transports.peer import Channel
from transfer.transports.webrtc import answer, offer, prepare

BACK = 4
LINGER = 0.3
"""Seconds in which nothing may come after the last message."""


async def say(channel: Channel, seed: int, size: int) -> None:
    for message in messages(seed, size, MESSAGE):
        await channel.send(message)


async def hear(channel: Channel, seed: int, size: int) -> None:
    for number, message in enumerate(messages(seed, size, MESSAGE)):
        if (got := await channel.receive()) != message:
            sys.exit(
                f"message {number} has {len(got)} bytes that differ from the {len(message)} that were sent"
            )


async def nothing_more(channel: Channel) -> None:
    try:
        async with asyncio.timeout(LINGER):
            extra = await channel.receive()
    except (TimeoutError, PeerLost):
        return
    sys.exit(f"{len(extra)} bytes came after the last message")


async def main() -> None:
    role, seed, size = sys.argv[1], 2 * int(sys.argv[2]), int(sys.argv[3])
    lines = await incoming()
    await prepare()
    await both_ready(lines)
    talk, began = Talk(lines), time.perf_counter()
    if role == "sender":
        channel = await offer(talk, IceServers(), deadline=DEADLINE)
        setup = time.perf_counter() - began
        await asyncio.gather(say(channel, seed, size), hear(channel, seed + 1, size // BACK))
        if await channel.receive() != b"all":
            sys.exit("the receiver does not say that it has all")
        await nothing_more(channel)
        print(json.dumps({"seconds": time.perf_counter() - began, "setup": setup}), flush=True)
    else:
        their_offer = await talk.hear()
        assert isinstance(their_offer, wire.Offer)
        channel = await answer(talk, their_offer, IceServers(), deadline=DEADLINE)
        await asyncio.gather(hear(channel, seed, size), say(channel, seed + 1, size // BACK))
        await channel.send(b"all")
        await nothing_more(channel)
        await asyncio.sleep(LINGER)
    await channel.close()


if __name__ == "__main__":
    asyncio.run(main())
