"""Whose jobs there are: what the records say, kept by owner, and brought up to date whenever somebody asks.

To read 10,000 records takes seconds of a broker; to read what has changed since the last time takes next to nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

from transfer import api
from transfer.broker.job import JobRecord
from transfer.broker.kv import MARKER_LIFE
from transfer.broker.records import Records


class Index:
    """Raises BusUnreachable. A broker makes one for all that ask."""

    def __init__(self, records: Records, clock: Callable[[], float] = time.monotonic) -> None:
        self._records, self._clock = records, clock
        self._reading = asyncio.Lock()
        self._owners: dict[str, str] = {}
        self._lines: dict[str, dict[str, api.JobLine]] = {}
        self._seen, self._sure_at = 0, -float("inf")

    async def of(self, user: str) -> dict[str, api.JobLine]:
        """That user's jobs by id, expired ones included, as the records are now.

        Whoever is cut off has not read in vain: the next goes on from there.
        """
        async with self._reading:
            # Of what was dropped only a mark is left, and that goes, too.
            if self._clock() - self._sure_at > MARKER_LIFE / 2:
                self._forget()
            began = self._clock()
            if await self._records.last_change() < self._seen:  # they were made anew
                self._forget()
            async with aclosing(self._records.changes(self._seen)) as changes:
                async for job, record, sequence in changes:
                    self._note(job, record)
                    self._seen = sequence
            self._sure_at = began
            return dict(self._lines.get(user, {}))

    def _forget(self) -> None:
        self._owners, self._lines, self._seen = {}, {}, 0
        self._sure_at = self._clock()

    def _note(self, job: str, record: JobRecord | None) -> None:
        owner = self._owners.pop(job, None)
        if owner is not None:
            mine = self._lines[owner]
            del mine[job]
            if not mine:
                del self._lines[owner]
        if record is not None:
            self._owners[job] = record.owner
            self._lines.setdefault(record.owner, {})[job] = _line(record)


def _line(record: JobRecord) -> api.JobLine:
    return api.JobLine(
        job=record.job,
        state=record.state,
        size=record.size,
        created=record.created,
        expires=record.expires,
        fetched=len(record.receipts),
        fetches=record.fetches,
    )
