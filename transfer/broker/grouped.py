"""Group commit: what is asked for one key while a batch of that key is under way goes together: in the next batch, or in
this one where it has to be tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class Asked(Generic[Item]):
    """One item and its outcome. Nobody waits for it any more once `abandoned`."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.abandoned = False

    def end(self, result: Any) -> None:
        """result: an exception is raised to whoever waits."""
        if self.outcome.done():
            return
        if isinstance(result, BaseException):
            self.outcome.set_exception(result)
            self.outcome.exception()  # seen, also where nobody waits any more
        else:
            self.outcome.set_result(result)


class Batch(Generic[Item]):
    """What is asked for one key and goes together."""

    def __init__(self, queue: list[Asked[Item]], most: int) -> None:
        """queue: grows as more is asked. most: items at a time."""
        self._queue, self._most = queue, most
        self.items: list[Asked[Item]] = []
        self.grow()

    def grow(self) -> None:
        """Take along what has come meanwhile, and leave out what has ended."""
        self.items = [asked for asked in self.items if not asked.outcome.done()]
        while self._queue and len(self.items) < self._most:
            asked = self._queue.pop(0)
            if asked.abandoned:
                asked.outcome.cancel()
            else:
                self.items.append(asked)


class Grouped(Generic[Item]):
    """Batches by key, one at a time for each.

    commit: ends every item of the batch; what it raises ends those it did not.
    """

    def __init__(self, commit: Callable[[str, Batch[Item]], Awaitable[None]], *, most: int) -> None:
        """most: items in a batch."""
        self._commit, self._most = commit, most
        self._waiting: dict[str, list[Asked[Item]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, key: str, item: Item, at_end: Callable[[], None] | None = None) -> Any:
        """The item's outcome. Cancelled, an item that is in no batch yet is left out; one that is goes on.

        at_end: called when the item has its outcome, whoever waits for it.
        """
        asked = Asked(item)
        if at_end is not None:
            asked.outcome.add_done_callback(lambda _: at_end())
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = [asked]
            task = asyncio.create_task(self._work(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            queue.append(asked)
        try:
            return await asyncio.shield(asked.outcome)
        except asyncio.CancelledError:
            asked.abandoned = True
            raise

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _work(self, key: str) -> None:
        queue = self._waiting[key]
        while queue:
            batch = Batch(queue, self._most)
            try:
                if batch.items:
                    await self._commit(key, batch)
            except BaseException as error:
                for asked in batch.items:
                    asked.end(error)
                if not isinstance(error, Exception):
                    raise
            for asked in batch.items:
                asked.end(RuntimeError("a batch left an item without an outcome"))
        del self._waiting[key]
