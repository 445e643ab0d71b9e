"""A store that does not drop what it should: it is owed, and dropped later."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from brokers import BUCKET, EXPIRE, Job, Place, got
from swept import LIFE, lies_there, sweeper_on, verbs_on

from transfer import api
from transfer.api import ErrorCode, JobState
from transfer.broker.job import JobRecord, Refusal
from transfer.broker.keys import DAY, folder_of
from transfer.broker.records import Records
from transfer.broker.store import Store
from transfer.broker.sweeper import Sweeper
from transfer.errors import StoreUnreachable


@pytest.fixture
async def flaky(place: Place, store: Store) -> AsyncIterator[Flaky]:
    refusing = Flaky(endpoint_url=place.s3_endpoint, bucket=BUCKET)
    yield refusing
    refusing.close()


class Flaky(Store):
    """A store that drops nothing while it is `away`."""

    away = True

    async def abort(self, folder: str, segment: int, upload: str) -> None:
        self._check()
        await super().abort(folder, segment, upload)

    async def erase(self, folder: str, uploads: Any) -> None:
        self._check()
        await super().erase(folder, uploads)

    def _check(self) -> None:
        if self.away:
            raise StoreUnreachable("the store is away")


async def test_an_upload_that_could_not_be_aborted_is_aborted_by_the_next_sweep(
    job: Job, records: Records, store: Store, sweeper: Sweeper, flaky: Flaky
) -> None:
    verbs = verbs_on(records, flaky)
    first = await verbs.begin("alice", api.Begin(job=job.id, segment=0))
    second = await verbs.begin("alice", api.Begin(job=job.id, segment=0))
    both = {first.upload, second.upload}  # a broker that works off what is owed may have been quicker
    assert {second.upload} <= (await lies_there(store, job))[0].keys() <= both
    assert (await job.status()).open_uploads == {0: second.upload}
    await sweeper.jobs(time.time())
    assert (await lies_there(store, job))[0].keys() == {second.upload}
    record = await records.read(job.id)
    assert record is not None
    assert not record.owed


async def test_an_upload_begun_too_late_while_the_store_is_away_is_owed(
    job: Job, records: Records, store: Store, sweeper: Sweeper, flaky: Flaky
) -> None:
    class Late(Flaky):
        async def begin(self, folder: str, segment: int) -> str:
            await job.finish(JobState.VOID)
            return await super().begin(folder, segment)

    late = Late(endpoint_url=flaky._endpoint_url, bucket=BUCKET)
    with pytest.raises(Refusal):
        await verbs_on(records, late).begin("alice", api.Begin(job=job.id, segment=0))
    late.close()
    assert len((await lies_there(store, job))[0]) == 1
    await sweeper.jobs(time.time())
    assert await lies_there(store, job) == ({}, set())


async def test_a_store_that_drops_nothing_is_given_no_more_than_so_many_uploads(
    job: Job, records: Records, flaky: Flaky
) -> None:
    verbs = verbs_on(records, flaky)
    await records.change(job.id, lambda r: r.owe({f"u{n}": 0 for n in range(64)}))
    with pytest.raises(Refusal) as refused:
        await verbs.begin("alice", api.Begin(job=job.id, segment=0))
    assert refused.value.error.code is ErrorCode.BUSY
    await records.change(job.id, lambda r: r.paid(r))


async def test_one_job_that_cannot_be_swept_does_not_keep_the_others(
    job: Job, records: Records, store: Store
) -> None:
    """Tried again if the broker's own pass, 5 s after its start, came in between and swept them all."""
    assert await swept_but_one(job, records, store) or await swept_but_one(
        Job(job.client), records, store, create=True
    )


async def swept_but_one(job: Job, records: Records, store: Store, *, create: bool = False) -> bool:
    """Whether the others went and that one stayed, which cannot be erased."""

    class Picky(Store):
        async def erase(self, folder: str, uploads: Any) -> None:
            if folder == job.folder:
                raise StoreUnreachable("not that one")
            await super().erase(folder, uploads)

    picky = Picky(endpoint_url=store._endpoint_url, bucket=BUCKET)
    others = [Job(job.client) for _ in range(3)]
    for other in (job, *others):
        other.folder = folder_of(other.id, records.realm, EXPIRE)
        if create or other is not job:
            await other.create()
        await other.store(0)
    for other in (job, *others):
        await records.change(other.id, lambda r: r.settle(JobState.VOID, now=time.time()))
    refused = False
    try:
        await sweeper_on(records, picky).jobs(time.time() + LIFE + 2 * DAY)
    except StoreUnreachable as error:
        refused = error.what == "not that one"
    picky.close()
    for other in others:
        assert await lies_there(store, other) == ({}, set())
    return refused and (await lies_there(store, job))[1] == {0}


class Overtaken(Store):
    """A store during whose calls the job becomes void, as when another broker is asked to finish it."""

    records: Records

    async def begin(self, folder: str, segment: int) -> str:
        self.upload = await super().begin(folder, segment)
        await self.settle(folder)
        return self.upload

    async def complete(self, folder: str, segment: int, upload: str, parts: Sequence[api.StoredPart]) -> None:
        await super().complete(folder, segment, upload, parts)
        await self.settle(folder)

    async def settle(self, folder: str) -> None:
        def void(record: JobRecord) -> JobRecord:
            settled = record.settle(JobState.VOID, now=time.time())
            return settled.paid(settled)

        await self.records.change(folder.rpartition("/")[2], void)


@pytest.fixture
async def overtaken(place: Place, store: Store, records: Records) -> AsyncIterator[Overtaken]:
    late = Overtaken(endpoint_url=place.s3_endpoint, bucket=BUCKET)
    late.records = records
    yield late
    late.close()


async def test_an_upload_begun_while_its_job_ends_is_aborted(
    job: Job, overtaken: Overtaken, records: Records
) -> None:
    with pytest.raises(Refusal):
        await verbs_on(records, overtaken).begin("alice", api.Begin(job=job.id, segment=0))
    assert not (await overtaken.list_parts(job.folder, 0, overtaken.upload)).open


async def test_a_segment_completed_while_its_job_ends_is_erased(
    job: Job, overtaken: Overtaken, records: Records
) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"too late")
    with pytest.raises(Refusal):
        await verbs_on(records, overtaken).complete(
            "alice", api.Complete(job=job.id, segment=0, upload=upload, parts=parts, index=1)
        )
    [signed] = await overtaken.sign_gets(job.folder, [0])
    assert (await got(signed.url))[0] == 404
