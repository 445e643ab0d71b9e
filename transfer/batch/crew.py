"""How a plan is worked off: its steps taken in a thread, some of the work done at once, until all is done or over."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from transfer.batch.plan import Step, What
from transfer.batch.sender import EVERYBODYS
from transfer.errors import XferError
from transfer.tasks import ended

TOGETHER = 256
"""Steps that are taken from the plan at once, where none of them is to be begun without delay."""
_WITHOUT_DELAY = (What.SEND, What.ATTACH)
LEFT_WITHIN = 1.0
"""Seconds that the thread has when the run is cancelled: it may be stuck in a read that never ends."""


class _Over(Exception):
    """The run has ended, and its thread is to end as well."""


class Crew:
    """concurrency: steps that are worked at at once. stopped: the first trouble that is everybody's; nothing is begun anew."""

    def __init__(self, concurrency: int) -> None:
        self.stopped: XferError | None = None
        self._concurrency = concurrency
        self._over = threading.Event()

    async def each(
        self, steps: Iterator[Step], work: Callable[[Step], Awaitable[None]], note: Callable[[Step], bool]
    ) -> None:
        """Work at every step that `note` does not say is done with by being noted. What fails otherwise raises here."""
        running: set[asyncio.Future[None]] = set()
        try:
            async for step in self.taken(steps):
                if self.stopped is not None:
                    break
                if note(step):
                    continue
                running.add(asyncio.ensure_future(work(step)))
                if len(running) >= self._concurrency:
                    running = await _some(running, asyncio.FIRST_COMPLETED)
            await _some(running, asyncio.ALL_COMPLETED)
        finally:
            await ended(*running)

    async def taken(self, steps: Iterator[Step], *, hurried: bool = True) -> AsyncIterator[Step]:
        """Taken in a thread: files are looked at, and read, for them. hurried: what is to be sent is not waited with."""
        while True:
            taking = asyncio.ensure_future(asyncio.to_thread(self._take, steps, hurried))
            try:
                taken = await asyncio.shield(taking)
            except asyncio.CancelledError:
                self.end()
                await asyncio.wait({taking}, timeout=LEFT_WITHIN)
                raise
            if not taken:
                return
            for step in taken:
                yield step

    def trouble(self, error: XferError) -> None:
        """Stop, if the next file would have it, too."""
        if isinstance(error, EVERYBODYS) and self.stopped is None:
            self.stopped = error

    def end(self) -> None:
        """Have the thread end at its next checkpoint."""
        self._over.set()

    def checkpoint(self) -> None:
        """In a thread: raises if the run has ended."""
        if self._over.is_set():
            raise _Over

    def pause(self, seconds: float) -> None:
        """As `checkpoint`, after so long."""
        self._over.wait(seconds)
        self.checkpoint()

    def _take(self, steps: Iterator[Step], hurried: bool) -> list[Step]:
        taken: list[Step] = []
        with contextlib.suppress(_Over):
            for step in steps:
                taken.append(step)
                if len(taken) >= TOGETHER or (hurried and step.what in _WITHOUT_DELAY):
                    break
        return taken


async def _some(running: set[asyncio.Future[None]], when: str) -> set[asyncio.Future[None]]:
    """Wait for some of it; what failed raises here. Gives what still runs."""
    if not running:
        return running
    done, left = await asyncio.wait(running, return_when=when)
    for task in done:
        task.result()
    return left
