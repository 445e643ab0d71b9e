"""What the tests of memory on the S3 route share."""

from __future__ import annotations

import asyncio
import contextlib
import random

from transfer.codec import Codec
from transfer.model import Frame, FrameSet
from transfer.seal import Sealer
from transfer.ticket import Ticket
from transfer.transports.s3 import S3Inbound

JOB = "q" * 16
SEALER = Sealer(Ticket(JOB, bytes(16)))
CODEC = Codec(SEALER)
MEMORY = 1000
"""Bytes: small, so that it is short."""


async def pause(rng: random.Random) -> None:
    for _ in range(rng.randrange(6)):
        await asyncio.sleep(0)


async def taken(made: S3Inbound, wanted: FrameSet, rng: random.Random, upto: int = 10**6) -> list[Frame]:
    """The frames, up to so many; memory is looked at with each of them."""
    got: list[Frame] = []
    async with contextlib.aclosing(made.frames(wanted)) as frames:
        async for frame in frames:
            got.append(Frame(frame.id, bytes(frame.data)))
            # One that is too large goes alone.
            assert made._memory._inside <= max(made.limits.window, 3 * MEMORY)
            await pause(rng)
            if len(got) >= upto:
                break
    return got
