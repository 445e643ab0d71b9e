"""What outlived its use goes: expired jobs, what settled jobs left at the store, uploads that nobody owns.

Any number of brokers may sweep at once: everything here can be repeated, and a job is marked void
by compare-and-set before anything of it is erased, so that no broker goes on filling it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing

from transfer.broker.job import JobRecord
from transfer.broker.records import Records
from transfer.broker.store import OpenUpload, Store
from transfer.errors import XferError

log = logging.getLogger(__name__)

ORPHAN_AGE = 3600.0
"""Seconds; an upload is begun a moment before its job's record says so."""
FIRST_PASS_AFTER = 1.0


async def sweep(records: Records, store: Store, *, now: float) -> int:
    """One pass. now: seconds since 1970.

    Returns how many jobs were dropped. Raises BusUnreachable, StoreUnreachable; ClockSkew before anything is
    touched, since a clock that is off would expire what is not due.
    """
    await store.check_clock()
    async with aclosing(records.all()) as found:
        due = [f.record.job async for f in found if _due(f.record, now)]
    dropped = 0
    for job in due:
        dropped += await _sweep_job(records, store, job, now)
    for upload in await store.uploads():
        if now - store.skew - upload.since > ORPHAN_AGE and not await _owned(records, upload):
            await store.abort(upload.job, upload.segment, upload.upload)
    return dropped


async def keep_sweeping(
    records: Records, store: Store, *, every: float, clock: Callable[[], float] = time.time
) -> None:
    """A pass soon after start, then one every so many seconds, until cancelled. Failures are logged."""
    await asyncio.sleep(min(FIRST_PASS_AFTER, every))
    said = ""
    while True:
        try:
            dropped = await sweep(records, store, now=clock())
            if dropped:
                log.info("swept %d jobs", dropped)
            said = ""
        except XferError as error:
            if error.what != said:
                log.warning("cannot sweep: %s", error.what)
            said = error.what
        except Exception:
            log.exception("a sweep failed")
        await asyncio.sleep(every)


def _due(record: JobRecord, now: float) -> bool:
    return record.expired(now) or (record.settled and not record.erased)


async def _sweep_job(records: Records, store: Store, job: str, now: float) -> bool:
    """True if the job was dropped."""
    found = await records.find(job)
    if found is None or not _due(found.record, now):
        return False
    record = found.record
    if not record.expired(now):
        await store.erase(job, record.uploads)
        await records.change(job, lambda r: r.erase() if r.settled else r)
        return False
    if not record.settled:
        await records.change(job, lambda r: r.void_expired(now))
        return await _sweep_job(records, store, job, now)
    # Erased before, perhaps; but an upload that was under way then may have left an object since.
    await store.erase(job, record.uploads)
    return await records.drop(found)


async def _owned(records: Records, upload: OpenUpload) -> bool:
    record = await records.read(upload.job)
    return record is not None and record.uploads.get(upload.segment) == upload.upload
