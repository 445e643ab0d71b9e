"""Jobs that are over go, with all that they stored."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from brokers import EXPIRE, Job, code, got
from swept import LIFE, forget, lies_there

from transfer import api
from transfer.api import ErrorCode, JobState
from transfer.broker import bucket as bucket_module
from transfer.broker import kv as kv_module
from transfer.broker import records as records_module
from transfer.broker.keys import folder_of
from transfer.broker.records import Records
from transfer.broker.settings import ORPHAN_AGE
from transfer.broker.store import Store
from transfer.broker.sweeper import Sweeper
from transfer.errors import ClockSkew
from transfer.ticket import Ticket

NOT_FOUND = api.ApiError(ErrorCode.NOT_FOUND, "there is no such job, or it has expired")


async def test_an_expired_job_goes_with_all_it_stored(
    job: Job, records: Records, store: Store, sweeper: Sweeper
) -> None:
    await job.store(0)
    upload = await job.begin(1)
    [signed] = await job.gets(0)
    await sweeper.jobs(time.time() + LIFE - 60)
    assert (await got(signed.url))[0] == 200
    dropped = await asyncio.gather(*(sweeper.jobs(time.time() + LIFE + 60) for _ in range(3)))
    assert sum(dropped) >= 1
    assert (await got(signed.url))[0] == 404
    assert not (await store.list_parts(job.folder, 1, upload)).open
    assert await records.read(job.id) is None
    assert await records.refs(job.id, 0, 1) == []
    assert await job.open() == NOT_FOUND


async def test_a_stored_job_goes_when_its_time_is_over(job: Job, records: Records, sweeper: Sweeper) -> None:
    await job.store(0)
    finished = await job.finish(JobState.STORED, 1)
    await sweeper.jobs(finished.expires - 1)
    assert await records.read(job.id) is not None
    await sweeper.jobs(finished.expires)
    assert await records.read(job.id) is None


async def test_a_delivered_job_is_remembered_for_a_day(job: Job, sweeper: Sweeper) -> None:
    await job.finish(JobState.DELIVERED)
    now = time.time()
    await sweeper.jobs(now + 86_000)
    assert (await job.open()).state is JobState.DELIVERED
    await sweeper.jobs(now + 87_000)
    assert await job.open() == NOT_FOUND


async def test_what_a_settled_job_could_not_erase_is_erased_later(
    job: Job, records: Records, sweeper: Sweeper
) -> None:
    await job.store(0)
    [signed] = await job.gets(0)
    await records.change(job.id, lambda r: r.settle(JobState.VOID, now=time.time()))
    await sweeper.jobs(time.time())
    assert (await got(signed.url))[0] == 404
    record = await records.read(job.id)
    assert record is not None
    assert record.cleared


async def test_a_job_that_changed_meanwhile_is_not_dropped(job: Job, records: Records) -> None:
    found = await records.find(job.id)
    assert found is not None
    await job.begin()
    assert not await records.drop(found)
    assert await records.read(job.id) is not None


async def test_a_record_that_cannot_be_read_stops_neither_sweeps_nor_its_own_jobs_data(
    job: Job, records: Records, store: Store, sweeper: Sweeper
) -> None:
    unread = Job(job.client)
    await unread.create()
    unread.folder = folder_of(unread.id, records.realm, EXPIRE)
    await unread.store(0)
    await unread.begin(1)
    found = await records.find(unread.id)
    assert found is not None
    newer = msgspec.json.encode(msgspec.structs.replace(found.record, v=99))
    await records._kv.update(f"j.{unread.id}", newer, found.revision)
    await job.store(0)
    await records.change(job.id, lambda r: r.settle(JobState.VOID, now=time.time()))
    await sweeper.jobs(time.time())
    await sweeper.orphans(time.time() + ORPHAN_AGE + 5)
    assert await lies_there(store, job) == ({}, set())
    uploads, objects = await lies_there(store, unread)
    assert (list(uploads.values()), objects) == ([1], {0})
    assert code(await unread.open()) is ErrorCode.VERSION
    await records._kv.delete(f"j.{unread.id}")


async def test_an_upload_that_a_broker_opened_and_died_goes_once_the_job_is_stored(
    job: Job, records: Records, store: Store, sweeper: Sweeper
) -> None:
    """No record names it, and it is not old."""
    await job.store(0)
    lost = await store.begin(job.folder, 1)
    owned = await store.begin(folder_of(Ticket.new().job, records.realm, EXPIRE), 0)
    await job.finish(JobState.STORED, 1)
    await sweeper.jobs(time.time())
    left = {u.upload for u in await store.uploads()}
    assert lost not in left
    assert owned in left
    assert (await lies_there(store, job))[1] == {0}
    record = await records.read(job.id)
    assert record is not None
    assert not record.in_debt


async def test_a_listing_has_every_job_once_and_none_that_is_gone(
    job: Job, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_module, "LISTED_AT_ONCE", 3)
    jobs = [Job(job.client) for _ in range(11)]
    for other in jobs:
        await other.create()
    await forget(records, jobs[4])
    listed = [found.record.job async for found in records.all()]
    wanted = {job.id, *(other.id for other in jobs)} - {jobs[4].id}
    assert wanted <= set(listed)
    assert jobs[4].id not in listed
    assert len(listed) == len(set(listed))
    revisions = {found.record.job: found.revision async for found in records.all()}
    here = await records.find(job.id)
    assert here is not None
    assert revisions[job.id] == here.revision


async def test_the_server_soon_forgets_a_listing(job: Job, records: Records) -> None:
    assert job.id in [found.record.job async for found in records.all()]
    consumers = await job.client.jetstream().consumers_info(f"KV_{records_module.BUCKET}")
    assert kv_module.LISTING_WITHIN in [c.config.inactive_threshold for c in consumers]


async def test_a_broker_that_mistrusts_its_clock_sweeps_nothing(
    job: Job, records: Records, store: Store, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    truly = time.time
    monkeypatch.setattr(time, "time", lambda: truly() + 8 * 86_400)
    for chore in (sweeper.jobs, sweeper.orphans):
        with pytest.raises(ClockSkew, match="ahead of"):
            await chore(time.time())
    assert await records.read(job.id) is not None
    monkeypatch.undo()
    monkeypatch.setattr(bucket_module, "MEASURED_LONG_AGO", 0.0)
    await store.check_clock()
