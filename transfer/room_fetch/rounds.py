"""Which items a run takes, in which order, and when it tries again what failed."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from transfer import rooms_api
from transfer.room import Posted
from transfer.room_fetch.consumer import Consumer
from transfer.room_fetch.delivery import Deliveries
from transfer.room_fetch.tally import Tally

Which = Literal["all", "latest"]
RESCAN, SELDOM = 60.0, 3600.0
"""Seconds after which one that follows looks again at what it did not get, or what failed: doubled each time, up to the
second."""


def chooser(match: Sequence[str]) -> Callable[[Posted], bool]:
    """Whether a name at the top of an item matches one of these globs; any does if there are none."""

    def chosen(posted: Posted) -> bool:
        names = [os.fsdecode(name) for name in posted.item.names] if posted.item is not None else []
        return not match or any(fnmatch.fnmatchcase(name, glob) for name in names for glob in match)

    return chosen


class Rounds:
    """chosen: whether an item is to be taken; others are left where they are. which: `latest` takes the newest only."""

    def __init__(
        self,
        consumer: Consumer,
        deliveries: Deliveries,
        tally: Tally,
        chosen: Callable[[Posted], bool],
        which: Which,
    ) -> None:
        self._consumer, self._deliveries, self._tally = consumer, deliveries, tally
        self._chosen, self._which = chosen, which
        self._tries: Counter[int] = Counter()
        self._tried: dict[int, float] = {}  # number to when it may be tried again

    async def all(self, follow: bool) -> None:
        """Until everything was looked at; follow: until cancelled."""
        there, known = await self._consumer.standing()
        self._tally.begins(there, len(known.given_up) if known is not None else 0)
        first, newest = known is None, 0  # what was gone before it came never was for it
        scanned = -RESCAN
        while True:
            again = (
                time.monotonic() - scanned >= RESCAN
            )  # what was given back or failed lies before the newest
            scanned = time.monotonic() if again else scanned
            newest = max(newest, await self.one(0 if again else newest, quietly=first))
            if not follow:
                return
            first = False
            async with contextlib.aclosing(self._consumer.items(newest, rooms_api.MAX_WAIT)) as items:
                async for _ in items:
                    break

    async def one(self, after: int, *, quietly: bool) -> int:
        """Take what there is after that number. Returns the last one that was looked at. quietly: say nothing of what is gone."""
        latest: Posted | None = None
        async with contextlib.aclosing(self._consumer.items(after, 0.0)) as items:
            async for posted in items:
                after = posted.number
                if posted.gone and not self._deliveries.begun(posted.number):
                    await self._deliveries.miss(posted, quietly=quietly)
                elif not self._chosen(posted):
                    self._tally.left(posted)
                elif self._tried.get(posted.number, 0.0) > time.monotonic():
                    continue
                elif self._which == "latest":
                    latest = posted
                else:
                    await self._take(posted)
        if latest is not None:
            await self._take(latest)
        return after

    async def _take(self, posted: Posted) -> None:
        pause = min(SELDOM, RESCAN * 2 ** self._tries[posted.number])
        self._tries[posted.number] += 1
        self._tried[posted.number] = time.monotonic() + pause
        await self._deliveries.take(posted)
