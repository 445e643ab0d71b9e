"""What is written goes to the ledger, and only then does a route hear of it: both in batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from transfer.model import TRAILER, FrameId

COMMIT_EVERY = 16
COMMIT_SECONDS = 0.1
"""Frames, or seconds, after which what is written goes to the ledger and is acknowledged."""
SHARE = 4
"""What part of a sender's window is acknowledged together: whoever has none left waits for that."""

Ack = Callable[[Sequence[FrameId]], Awaitable[None]]


class Batch:
    """Frames that are written but not yet in the ledger, and so not yet acknowledged.

    write_down: puts frames with their digests into the ledger; may raise DiskFull, and then has not.
    window: encoded bytes that the sender may have on their way unacknowledged; None if it waits for nothing.
    """

    def __init__(
        self, write_down: Callable[[list[tuple[FrameId, bytes]]], None], ack: Ack, window: int | None
    ) -> None:
        self._write_down, self._ack = write_down, ack
        self._most = None if window is None else window // SHARE
        self._frames: list[tuple[FrameId, bytes]] = []
        self._bytes = 0
        self._timer: asyncio.Task[None] | None = None

    async def add(self, frame: FrameId, digest: bytes, length: int) -> None:
        self._frames.append((frame, digest))
        self._bytes += length
        due = self._most is not None and self._bytes >= self._most
        if due or len(self._frames) >= COMMIT_EVERY or frame == TRAILER:
            await self.flush()
        elif self._timer is None or self._timer.done():
            self._timer = asyncio.create_task(self._later())

    async def flush(self) -> None:
        frames = self.commit()
        if frames:
            await self._ack(frames)

    def commit(self) -> list[FrameId]:
        if self._frames:  # what cannot be written down stays here, to fail again where it is seen
            self._write_down(self._frames)
        frames, self._frames, self._bytes = self._frames, [], 0
        return [frame for frame, _ in frames]

    def close(self) -> None:
        """On the way out, whatever the reason: what is written is worth keeping."""
        if self._timer is not None:
            self._timer.cancel()
        self.commit()

    async def _later(self) -> None:
        await asyncio.sleep(COMMIT_SECONDS)
        with contextlib.suppress(Exception):  # a dying route reports itself where its frames are read
            await self.flush()
