"""What outlived its use goes: expired jobs, and what lies in the store that no job owns; what a job owes the store is
queued anew, should it not be (`debts`).

One broker at a time does so (`lease`). Two of them would do no harm: everything here can be repeated, and a job is
marked void by compare-and-set before anything of it is erased, so that no broker goes on filling it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress

from transfer.api import JobState
from transfer.broker.job import JobRecord, Refusal
from transfer.broker.keys import Place, roots
from transfer.broker.logs import about_job
from transfer.broker.metering import Metering, Unmetered
from transfer.broker.observer import SILENT, Observer
from transfer.broker.records import Records
from transfer.broker.store import OpenUpload, Store
from transfer.errors import UnsupportedVersion, XferError

log = logging.getLogger(__name__)

FIRST_PASS_AFTER = 1.0
FAILURES = 5
"""Jobs that may fail in one pass before it ends: one that the store keeps refusing must not keep the others."""


class Sweeper:
    """Raises (any call): BusUnreachable, StoreUnreachable; ClockSkew before anything is touched, since a clock that
    is off would expire what is not due."""

    def __init__(
        self,
        records: Records,
        store: Store,
        owe: Callable[[Sequence[JobRecord]], Awaitable[None]],
        *,
        orphan_age: float,
        quotas: Metering | None = None,
        observer: Observer = SILENT,
    ) -> None:
        """owe: told of all records of which something is owed. orphan_age: seconds after which what no record names
        is nobody's. quotas: None counts nothing."""
        self.observer = observer
        self._records, self._store, self._owe, self._orphan_age = records, store, owe, orphan_age
        self._quotas = quotas or Unmetered()

    async def jobs(self, now: float) -> int:
        """Expired jobs go, debts are queued. now: seconds since 1970. Returns how many jobs were dropped.

        What fails for one job is raised when the others have had their turn.
        """
        await self._store.check_clock()
        expired, debtors, states = list[str](), list[JobRecord](), Counter[JobState]()
        async with aclosing(self._records.all()) as found:
            async for each in found:
                states[each.record.state] += 1
                if each.record.expired(now):
                    expired.append(each.record.job)
                elif each.record.in_debt or each.record.unsettled:
                    debtors.append(each.record)
        self.observer.jobs(states)
        await self._owe(debtors)
        dropped, failures = 0, list[XferError]()
        for job in expired:
            try:
                with about_job(job):
                    dropped += await self._job(job, now)
            except XferError as error:
                failures.append(error)
                if len(failures) == FAILURES:
                    break
        if failures:
            raise failures[0]
        return dropped

    async def orphans(self, now: float) -> int:
        """Uploads and objects that no job owns go, once they are old enough. Returns how many.

        Lists all of our objects, so it is not for every minute. Never touches an object of an open job: its segment may
        be stored anew under the same key at any moment.
        """
        await self._store.check_clock()
        born_before = now - self._store.skew - self._orphan_age
        return await self._uploads(born_before) + await self._objects(born_before)

    async def _job(self, job: str, now: float) -> bool:
        """True if the job was dropped."""
        found = await self._records.find(job)
        if found is None or not found.record.expired(now):
            return False
        record = found.record
        if not record.settled:
            await self._records.change(job, lambda r: r.void_expired(now))
            return await self._job(job, now)
        # Paid before, perhaps; but an upload that was under way then may have left an object since.
        await self._store.erase(record.folder, {**{u: n for n, u in record.uploads.items()}, **record.owed})
        if any(record.charge.held.counts[2:]):  # the book must hear of it before nobody knows of the job
            with suppress(Refusal):  # another sweeper dropped it meanwhile
                await self._records.change(job, lambda r: r.paid(record))
                await self._settle(job)
            found = await self._records.find(job)
            if found is None or not found.record.settled:
                return False
        return await self._records.drop(found)

    async def _settle(self, job: str) -> None:
        record = await self._records.read(job)
        if record is not None:
            await self._quotas.settle(record)

    async def _uploads(self, born_before: float) -> int:
        aborted = 0
        for upload in await self._store.uploads():
            with suppress(UnsupportedVersion):  # that is for a broker who can read it; below as well
                if upload.since < born_before and await self._unowned(upload):
                    await self._store.abort(upload.place.folder, upload.place.segment, upload.upload)
                    aborted += 1
        return aborted

    async def _unowned(self, upload: OpenUpload) -> bool:
        if upload.place.realm != self._records.realm:
            return False
        record = await self._record(upload.place.job)
        return record is None or record.uploads.get(upload.place.segment) != upload.upload

    async def _objects(self, born_before: float) -> int:
        deleted = 0
        for root in roots(self._records.realm):
            async with aclosing(self._store.objects(root)) as pages:
                async for page in pages:
                    old: dict[str, list[Place]] = {}
                    for stored in page:
                        if stored.since < born_before:
                            old.setdefault(stored.place.folder, []).append(stored.place)
                    for folder, places in old.items():
                        with suppress(UnsupportedVersion):
                            deleted += await self._clear(folder, places)
        return deleted

    async def _clear(self, folder: str, places: list[Place]) -> int:
        """Delete those of a job's objects that it does not own. Returns how many."""
        record = await self._record(places[0].job)
        stray = [place.segment for place in places if _is_stray(record, place.segment)]
        if stray:
            await self._store.delete(folder, stray)
        return len(stray)

    async def _record(self, job: str) -> JobRecord | None:
        record = await self._records.read(job)
        if record is None:
            await self._records.check()
        return record


async def keep_sweeping(sweeper: Sweeper, *, every: float, orphans_every: float) -> None:
    """A pass soon after start, then one every so many seconds, until cancelled. Failures are logged, each once."""
    await asyncio.sleep(min(FIRST_PASS_AFTER, every))
    jobs = _Chore("jobs", "jobs that were over", sweeper.observer)
    orphans = _Chore("orphans", "uploads and objects that no job owned", sweeper.observer)
    orphans_due = 0.0
    while True:
        await jobs.do(sweeper.jobs)
        if time.monotonic() >= orphans_due and await orphans.do(sweeper.orphans):
            orphans_due = time.monotonic() + orphans_every
        await asyncio.sleep(every)


class _Chore:
    """Something that is done over and over. what: what it removes."""

    def __init__(self, name: str, what: str, observer: Observer) -> None:
        self._name, self._what, self._said = name, what, ""
        self._observer = observer

    async def do(self, sweep: Callable[[float], Awaitable[int]]) -> bool:
        """Whether it ended well."""
        begun = time.monotonic()
        try:
            if count := await sweep(time.time()):
                log.info("swept %d %s", count, self._what)
        except XferError as error:
            if error.what != self._said:
                log.warning("cannot sweep %s: %s", self._what, error.what)
            self._said = error.what
            self._observer.sweep_failed(self._name)
            return False
        except Exception:
            log.exception("a sweep failed")
            self._observer.sweep_failed(self._name)
            return False
        seconds = time.monotonic() - begun
        self._observer.swept(self._name, removed=count, seconds=seconds, at=time.time())
        self._said = ""
        return True


def _is_stray(record: JobRecord | None, segment: int) -> bool:
    """Whether an object is nobody's. One of a job that owes uploads is left to whoever pays."""
    if record is None:
        return True
    if record.owed or record.state.unfinished:
        return False
    return record.settled or not record.has(segment)
