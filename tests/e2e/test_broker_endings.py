"""How a job ends: stored, delivered, void."""

from __future__ import annotations

import asyncio
import base64
from functools import partial

import msgspec
import pytest
from broker_asked import NOT_FOUND
from brokers import Job, code, gone, got  # fmt: skip
from nats.aio.client import Client

from transfer.api import ErrorCode, JobState
from transfer.broker import records as records_module
from transfer.broker.job import Refusal
from transfer.broker.records import Records
from transfer.broker.store import Store


async def test_the_last_allowed_receipt_removes_the_objects(client: Client, store: Store) -> None:
    job = Job(client)
    await job.create(fetches=2)
    await job.store(0, 1)
    await job.finish(JobState.STORED, 2)
    [signed] = await job.gets(0)
    assert (await job.receipt("one")).state is JobState.STORED
    assert (await job.receipt("one")).state is JobState.STORED
    assert (await got(signed.url))[0] == 200
    assert (await job.receipt("two")).state is JobState.DELIVERED
    assert await gone(signed.url)
    assert (await job.open()).state is JobState.DELIVERED
    assert await job.gets(0) == NOT_FOUND
    assert (await job.segments()).refs == []
    assert len((await job.status()).receipts) == 2


async def test_a_receipt_may_overtake_the_senders_stored(client: Client) -> None:
    job = Job(client)
    await job.create(fetches=1)
    await job.store(0)
    assert (await job.receipt("quick")).state is JobState.DELIVERED
    assert (await job.finish(JobState.STORED, 1)).state is JobState.DELIVERED


async def test_receipts_given_at_once_all_count(client: Client) -> None:
    job = Job(client)
    await job.create()
    await asyncio.gather(*(job.receipt(f"r{n}", b"sealed %d" % n) for n in range(12)))
    texts = {base64.b64decode(r) for r in (await job.status()).receipts}
    assert texts == {b"sealed %d" % n for n in range(12)}


async def test_a_void_job_is_erased_at_once_and_says_so(job: Job, store: Store) -> None:
    await job.store(0)
    [signed] = await job.gets(0)
    upload = await job.begin(1)
    assert (await job.finish(JobState.VOID)).state is JobState.VOID
    assert await gone(signed.url)
    assert not (await store.list_parts(job.folder, 1, upload)).open
    assert (await job.open()).state is JobState.VOID
    assert code(await job.begin(2)) is ErrorCode.CONFLICT
    assert code(await job.finish(JobState.STORED, 1)) is ErrorCode.CONFLICT


async def test_a_stored_job_has_no_open_upload(job: Job, store: Store) -> None:
    await job.store(0)
    upload = await job.begin(1)
    await job.finish(JobState.STORED, 1)
    assert (await job.status()).open_uploads == {}
    async with asyncio.timeout(20):
        while (await store.list_parts(job.folder, 1, upload)).open:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_stored_needs_all_its_segments(job: Job) -> None:
    await job.store(0, 2)
    assert code(await job.finish(JobState.STORED, 3)) is ErrorCode.CONFLICT
    assert code(await job.finish(JobState.STORED, 1)) is ErrorCode.CONFLICT
    await job.store(1)
    assert (await job.finish(JobState.STORED, 3)).state is JobState.STORED


async def test_contention_ends_in_busy(job: Job, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "ATTEMPTS", 1)
    changes = [records.change(job.id, partial(msgspec.structs.replace, size=n)) for n in range(100, 110)]
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    lost = [o for o in outcomes if isinstance(o, Refusal)]
    assert lost
    assert {o.error.code for o in lost} == {ErrorCode.BUSY}
