"""The broker's main path: a job's segments are begun, put, completed and read, however often it is asked."""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from brokers import Job, answered, ask, code, got  # fmt: skip
from nats.aio.client import Client

from transfer import api
from transfer.api import ErrorCode, JobState
from transfer.broker.records import Records
from transfer.broker.store import Store
from transfer.broker.verbs import Verbs
from transfer.errors import ProtocolError
from transfer.model import SegmentRef

ROOT = Path(__file__).resolve().parents[2]
MIB5 = 5 << 20


async def test_what_goes_in_by_signed_parts_comes_out_by_a_signed_get(job: Job) -> None:
    first, second = os.urandom(MIB5), os.urandom(1000)
    upload = await job.begin()
    parts = await job.put(upload, first, second)
    assert isinstance(done := await job.complete(upload, parts), api.Completed)
    assert done.ref == SegmentRef(0, MIB5 + 1000, 9)
    assert (await job.segments()).refs == [done.ref]
    [signed] = await job.gets(0)
    assert await got(signed.url) == (200, first + second)


async def test_expiry_counts_from_completion(job: Job) -> None:
    await job.store(0)
    unfinished = await job.open()
    finished = await job.finish(JobState.STORED, 1)
    assert unfinished.expires == pytest.approx(time.time() + 7 * 86_400, abs=30)
    assert finished.expires == pytest.approx(time.time() + 1000, abs=30)
    assert (await job.open()).state is JobState.STORED
    assert await job.finish(JobState.STORED, 1) == finished


async def test_parts_of_an_open_upload_are_listed_and_those_of_a_complete_one_are_not(job: Job) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"a" * MIB5, b"b")
    listed = await job.list_parts(upload)
    assert listed.open
    assert [(p.number, p.etag, p.length) for p in listed.parts] == [
        (p.number, p.etag, p.length) for p in parts
    ]
    await job.complete(upload, parts)
    assert await job.list_parts(upload) == api.PartList([], open=False)


async def test_completing_twice_gives_the_same_answer(job: Job) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"segment")
    assert await job.complete(upload, parts, index=3) == await job.complete(upload, parts, index=3)
    assert (await job.open()).segments == 1
    assert code(await job.complete(upload, parts, index=4)) is ErrorCode.CONFLICT


async def test_a_crash_between_store_and_record_is_made_good_by_asking_again(job: Job, store: Store) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"segment")
    await store.complete(job.folder, 0, upload, parts)
    await store.complete(job.folder, 0, upload, parts)
    assert isinstance(await job.complete(upload, parts, index=3), api.Completed)


async def test_an_upload_that_is_gone_is_complete_only_with_an_object_of_the_right_size(
    job: Job, store: Store
) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"123456789")
    await store.abort(job.folder, 0, upload)
    refused = await job.complete(upload, parts)
    assert refused == api.ApiError(ErrorCode.CONFLICT, "that upload of segment 0 is not open any more")
    upload = await job.begin()
    parts = await job.put(upload, b"123456789")
    wrong = [msgspec.structs.replace(parts[0], length=10)]
    with pytest.raises(ProtocolError, match="9 bytes, not 10"):
        await store.complete(job.folder, 0, upload, wrong)
    await store.complete(job.folder, 0, upload, parts)


async def test_segments_complete_out_of_order_and_show_without_a_gap(job: Job) -> None:
    await job.store(1)
    assert (await job.segments()).refs == []
    assert (await job.open()).segments == 0
    assert (await job.status()).complete == [1]
    await job.store(0)
    assert [r.number for r in (await job.segments()).refs] == [0, 1]
    assert [r.number for r in (await job.segments(1)).refs] == [1]


async def test_many_segments_completed_at_once_are_all_on_record(job: Job) -> None:
    numbers = [7, 3, 5, 1, 6, 0, 4, 2]
    uploads = [await job.begin(n) for n in numbers]
    parts = [await job.put(u, b"segment 0", segment=n) for u, n in zip(uploads, numbers, strict=True)]
    done = await asyncio.gather(
        *(job.complete(u, p, n) for u, p, n in zip(uploads, parts, numbers, strict=True))
    )
    assert all(isinstance(d, api.Completed) for d in done)
    assert (await job.status()).complete == list(range(8))
    assert [r.number for r in (await job.segments()).refs] == list(range(8))


async def test_references_span_pages(job: Job, records: Records) -> None:
    for number in range(60, 70):
        await records.change(job.id, partial(msgspec.structs.replace, uploads={number: "u"}))
        await records.put_ref(job.id, SegmentRef(number, number, 1), "u")
    assert [r.number for r in await records.refs(job.id, 60, 200)] == list(range(60, 70))
    assert await records.refs(job.id, 59, 200) == []


async def test_creating_again_is_fine_for_its_owner_only(job: Job, client: Client) -> None:
    assert isinstance(await job.create(), api.Created)
    assert code(await job.create(token_hash="0" * 64)) is ErrorCode.CONFLICT
    job.owner = "bob"
    assert code(await job.create()) is ErrorCode.CONFLICT


async def test_beginning_again_drops_the_first_upload(job: Job, store: Store) -> None:
    first = await job.begin()
    await job.put(first, b"lost")
    second = await job.begin()
    assert not (await job.list_parts(first)).open
    async with asyncio.timeout(20):
        while (await store.list_parts(job.folder, 0, first)).open:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await job.list_parts(second)).open
    assert code(await job.sign(first, b"x")) is ErrorCode.CONFLICT
    assert (await job.status()).open_uploads == {0: second}


async def test_the_same_begin_gets_the_same_upload_however_often_and_however_late_it_comes(
    job: Job, store: Store
) -> None:
    begin = api.Begin(job=job.id, segment=1, key="k1")
    many = [await answered(job.client, "begin", begin, api.Begun)]
    many += await asyncio.gather(*(answered(job.client, "begin", begin, api.Begun) for _ in range(5)))
    assert len({each.upload for each in many}) == 1
    parts = await job.put(many[0].upload, b"segment", segment=1)
    assert isinstance(await job.complete(many[0].upload, parts, segment=1, index=3), api.Completed)
    assert code(await ask(job.client, "begin", begin, api.Begun)) is ErrorCode.CONFLICT
    assert (await job.status()).complete == [1], "a late copy took a stored segment back"
    other = await answered(job.client, "begin", msgspec.structs.replace(begin, key="k2"), api.Begun)
    assert (await job.status()).open_uploads == {1: other.upload}
    async with asyncio.timeout(20):
        while [u for u in await store.uploads() if u.place.job == job.id and u.upload != other.upload]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (
        code(await ask(job.client, "begin", msgspec.structs.replace(begin, key="a b"), api.Begun))
        is ErrorCode.BAD_REQUEST
    )


async def test_two_brokers_that_are_asked_the_same_begin_at_once_open_one_upload(
    job: Job, records: Records, store: Store
) -> None:
    """The second one's store is slower, and the first has put its upload on record by then."""
    request = api.Begin(job=job.id, segment=0, key="k")

    class Overtaken(Store):
        async def begin(self, folder: str, segment: int) -> str:
            self.other = await super().begin(folder, segment)
            answer = await answered(job.client, "begin", request, api.Begun)
            assert answer.upload != self.other
            return self.other

    async def owe(_record: object) -> None:
        pass

    slow = Overtaken(endpoint_url=store._endpoint_url, bucket="broker-tests")
    verbs = Verbs(records, slow, owe, version="1.0.0", unfinished_life=1000)
    begun = await verbs.begin("alice", request)
    assert (await job.status()).open_uploads == {0: begun.upload}
    assert not (await store.list_parts(job.folder, 0, slow.other)).open
    slow.close()


async def test_what_a_killed_run_said_last_comes_too_late_once_another_goes_on(job: Job) -> None:
    """The new run would store a segment under the same number, and the old one's request take it away again."""

    async def begin(run: str, segment: int = 0) -> Any:
        request = api.Begin(job=job.id, segment=segment, key=f"{run}-{segment}", run=run)
        return await ask(job.client, "begin", request, api.Begun)

    async def go_on(run: str) -> Any:
        return await ask(job.client, "status", api.Status(job=job.id, run=run), api.JobStatus)

    await go_on("one")
    upload = (await begin("one")).upload
    parts = await job.put(upload, b"of the first run")
    await go_on("two")
    assert code(await begin("one", 1)) is ErrorCode.CONFLICT
    late = api.Complete(job=job.id, segment=0, upload=upload, parts=parts, index=1, run="one")
    assert code(await ask(job.client, "complete", late, api.Completed)) is ErrorCode.CONFLICT
    newer = (await begin("two")).upload
    parts = await job.put(newer, b"of the second")
    done = api.Complete(job=job.id, segment=0, upload=newer, parts=parts, index=1, run="two")
    assert isinstance(await ask(job.client, "complete", done, api.Completed), api.Completed)
    assert code(await begin("one")) is ErrorCode.CONFLICT
    for outcome in (JobState.STORED, JobState.VOID):
        finish = api.Finish(job=job.id, outcome=outcome, segments=1, run="one")
        assert code(await ask(job.client, "finish", finish, api.Finished)) is ErrorCode.CONFLICT
    assert (await job.status()).complete == [0]
    assert (await job.finish(JobState.STORED, 1)).state is JobState.STORED
    assert code(await ask(job.client, "finish", finish, api.Finished)) is ErrorCode.CONFLICT
    assert (await job.status()).state is JobState.STORED


async def test_a_stored_segment_is_not_begun_again(job: Job) -> None:
    await job.store(0)
    assert code(await job.begin(0)) is ErrorCode.CONFLICT
