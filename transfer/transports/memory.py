"""Channels inside one process: a peer route without a network, for tests of what stands on the seam."""

from __future__ import annotations

import asyncio
from collections import deque

from transfer.errors import PeerLost
from transfer.wire import MAX_MESSAGE

BUFFER = 256 << 10
"""Bytes that one direction holds before `send` waits."""


class MemoryChannel:
    """One end of a pair (`channel_pair`). Messages arrive whole and in order until a close or a cut."""

    def __init__(self, buffer: int = BUFFER, max_message: int = MAX_MESSAGE) -> None:
        self.max_message = max_message
        self._buffer = buffer
        self._arrived: deque[bytes] = deque()
        self._held = 0
        self._end: str | None = None
        self._silent = False
        self._changed = asyncio.Event()
        self._far: MemoryChannel = self

    async def send(self, message: bytes) -> None:
        """Raises PeerLost once either end is gone, ValueError for a message beyond max_message."""
        if len(message) > self.max_message:
            raise ValueError(f"a message of {len(message)} bytes does not fit this channel")
        far = self._far
        while self._end is None and far._held >= self._buffer:
            far._changed.clear()
            await far._changed.wait()
        if self._end is not None:
            raise PeerLost(self._end)
        if not self._silent:
            far._arrived.append(message)
            far._held += len(message)
            far._changed.set()

    async def receive(self) -> bytes:
        """The next message; what arrived before a close is still delivered. Raises PeerLost at the end."""
        while not self._arrived:
            if self._end is not None:
                raise PeerLost(self._end)
            self._changed.clear()
            await self._changed.wait()
        message = self._arrived.popleft()
        self._held -= len(message)
        self._changed.set()
        return message

    async def close(self) -> None:
        self._stop("this end of the channel is closed")
        self._far._stop("the peer closed the channel")

    def cut(self, *, silently: bool = False) -> None:
        """Lose the peer, both ways: at once and noticed; or silently, as when a cable is pulled."""
        for end in (self, self._far):
            if silently:
                end._silent = True
            else:
                end._arrived.clear()
                end._stop("the connection to the peer is gone")

    def _stop(self, why: str) -> None:
        self._end = self._end or why
        self._changed.set()


def channel_pair(buffer: int = BUFFER, max_message: int = MAX_MESSAGE) -> tuple[MemoryChannel, MemoryChannel]:
    """Two ends that hear each other. buffer: bytes each way before `send` waits; max_message: bytes."""
    near, far = MemoryChannel(buffer, max_message), MemoryChannel(buffer, max_message)
    near._far, far._far = far, near
    return near, far
