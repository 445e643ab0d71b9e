"""Whether a send's owner has it wait, and waiting for that to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from transfer.broker_client import JobPaused

Answer = TypeVar("Answer")


class Hold:
    """paused: nothing more is handed to a route. number: how many pauses there were. doubt: somebody should ask the
    broker how it stands."""

    def __init__(self) -> None:
        self.number = 0
        self.doubt = asyncio.Event()
        self._going, self._held = asyncio.Event(), asyncio.Event()
        self._going.set()

    @property
    def paused(self) -> bool:
        return self._held.is_set()

    def set(self, paused: bool) -> None:
        if paused and not self.paused:
            self.number += 1
        first, then = (self._going, self._held) if paused else (self._held, self._going)
        first.clear()
        then.set()

    async def held(self) -> None:
        """Returns once, or while, it is paused."""
        await self._held.wait()

    async def clear(self) -> None:
        """Returns once, or while, it is not."""
        await self._going.wait()

    async def through(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask what is refused during a pause; wait, and ask again, until it is not. Raises what else it raises."""
        while True:
            await self.clear()
            try:
                return await ask()
            except JobPaused:  # it knew before we did
                self.set(True)
                self.doubt.set()
