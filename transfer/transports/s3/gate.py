"""Who may go on: so many requests at once, so many bytes in memory. First come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Gate:
    """Lets in what fits.

    fits: whether something of that weight may join what is inside (its weight together). What is alone
    always may: else something heavier than everything allowed would wait for ever.
    """

    def __init__(self, fits: Callable[[int], bool]) -> None:
        self._fits = fits
        self._inside = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def inside(self) -> int:
        """The weight of all that is in."""
        return self._inside

    @property
    def waiting(self) -> bool:
        """Whether somebody has to wait."""
        return bool(self._waiting)

    @asynccontextmanager
    async def entered(self, weight: int = 1) -> AsyncIterator[None]:
        await self.enter(weight)
        try:
            yield
        finally:
            self.leave(weight)

    async def enter(self, weight: int = 1) -> None:
        """Whoever enters leaves, with the same weight."""
        if not self._waiting and self._may(weight):
            self._inside += weight
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((weight, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let in at the very moment that it gave up
                self.leave(weight)
            elif (weight, turn) in self._waiting:  # else whoever left meanwhile has passed it over
                self._waiting.remove((weight, turn))
                self._admit()
            raise

    def leave(self, weight: int = 1) -> None:
        self._inside -= weight
        self._admit()

    def _may(self, weight: int) -> bool:
        return not self._inside or self._fits(self._inside + weight)

    def _admit(self) -> None:
        while self._waiting and self._may(self._waiting[0][0]):
            weight, turn = self._waiting.popleft()
            if not turn.done():
                self._inside += weight
                turn.set_result(None)
