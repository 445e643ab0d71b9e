"""What no job owns goes once it is old; what a live job or another set of brokers owns stays."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import boto3
import msgspec
import pytest
from brokers import BUCKET, EXPIRE, Job, Place, broker_process, code, connected, free_port, nats_server
from swept import forget, lies_there, sweeper_on

from transfer.api import ErrorCode, JobState
from transfer.broker import records as records_module
from transfer.broker.keys import DAY, folder_of, place_of
from transfer.broker.records import Records
from transfer.broker.settings import ORPHAN_AGE
from transfer.broker.store import Store
from transfer.broker.sweeper import Sweeper
from transfer.errors import BusUnreachable
from transfer.ticket import Ticket


async def test_old_uploads_that_no_job_owns_are_aborted(
    job: Job, records: Records, store: Store, sweeper: Sweeper
) -> None:
    owned = await job.begin()
    orphan = await store.begin(job.folder, 1)
    stranger = await store.begin(folder_of(Ticket.new().job, records.realm, EXPIRE), 0)
    await sweeper.orphans(time.time() + ORPHAN_AGE - 60)
    assert {orphan, stranger} <= {u.upload for u in await store.uploads()}
    await sweeper.orphans(time.time() + ORPHAN_AGE + 60)
    left = {u.upload for u in await store.uploads()}
    assert owned in left
    assert not {orphan, stranger} & left


async def test_old_objects_that_no_job_owns_are_deleted_and_those_of_live_jobs_are_not(
    job: Job, records: Records, store: Store, sweeper: Sweeper
) -> None:
    await job.store(0, 2)  # 2 lies beyond a gap
    stored, gone = Job(job.client), Job(job.client)
    for other in (stored, gone):
        await other.create()
        other.folder = folder_of(other.id, records.realm, EXPIRE)
        await other.store(0, 1)
        await other.finish(JobState.STORED, 2)
    await forget(records, gone)
    await records.change(stored.id, lambda r: msgspec.structs.replace(r, segments=1))
    late = time.time() + ORPHAN_AGE + 60
    await sweeper.orphans(late - 120)
    assert (await lies_there(store, gone))[1] == {0, 1}
    await sweeper.orphans(late)
    assert (await lies_there(store, gone))[1] == set()
    assert (await lies_there(store, stored))[1] == {0}
    assert (await lies_there(store, job))[1] == {0, 2}


async def test_a_broker_whose_records_were_taken_away_takes_nothing_for_an_orphan(
    place: Place, store: Store, tmp_path: Path
) -> None:
    with nats_server(tmp_path, free_port()) as url:
        client = await connected(Place(url, "", {}, tmp_path))
        records = await Records.attach(client)
        sweeper = sweeper_on(records, store)
        folder = folder_of(Ticket.new().job, records.realm, EXPIRE)
        s3 = boto3.client("s3", endpoint_url=place.s3_endpoint, region_name="us-east-1")
        await asyncio.to_thread(s3.put_object, Bucket=BUCKET, Key=f"xfer/{folder}/000000", Body=b"x")
        upload = await store.begin(folder, 1)
        late = time.time() + 2 * ORPHAN_AGE
        await client.jetstream().delete_key_value(records_module.BUCKET)
        with pytest.raises(BusUnreachable, match="no job records at all"):
            await sweeper.orphans(late)
        assert (await Records.attach(client)).realm != records.realm
        with pytest.raises(BusUnreachable, match="not those that this broker began with"):
            await sweeper.orphans(late)
        await client.close()
    assert upload in {u.upload for u in await store.uploads()}
    assert [page async for page in store.objects(folder + "/")] != [[]]
    await store.erase(folder, {})


async def test_what_another_set_of_brokers_keeps_in_the_same_bucket_is_left_alone(
    job: Job, store: Store, sweeper: Sweeper
) -> None:
    theirs = Job(job.client)
    theirs.folder = folder_of(theirs.id, "elsewhere", EXPIRE)
    upload = await store.begin(theirs.folder, 0)
    stranger = boto3.client("s3", endpoint_url=store._endpoint_url, region_name="us-east-1")
    keys = [f"xfer/{theirs.folder}/000001", f"xfer/30d/{theirs.id}", "xfer/notes.txt"]
    for key in keys:
        await asyncio.to_thread(stranger.put_object, Bucket=BUCKET, Key=key, Body=b"kept")
    await sweeper.orphans(time.time() + 2 * ORPHAN_AGE)
    assert upload in {u.upload for u in await store.uploads()}
    listed = await asyncio.to_thread(stranger.list_objects_v2, Bucket=BUCKET)
    assert set(keys) <= {row["Key"] for row in listed["Contents"]}
    await store.erase(theirs.folder, {})


async def test_the_broker_itself_removes_what_no_job_owns(place: Place, store: Store, tmp_path: Path) -> None:
    with nats_server(tmp_path, free_port()) as url:
        alone = Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, tmp_path)
        client = await connected(alone)
        realm = (await Records.attach(client)).realm
        nobodys = folder_of(Ticket.new().job, realm, EXPIRE)
        await store.begin(nobodys, 0)
        s3 = boto3.client("s3", endpoint_url=place.s3_endpoint, region_name="us-east-1")
        await asyncio.to_thread(s3.put_object, Bucket=BUCKET, Key=f"xfer/{nobodys}/000001", Body=b"x")
        with broker_process(alone, tmp_path / "log", XFER_ORPHAN_AGE="1", XFER_SWEEP_EVERY="0.2"):
            async with asyncio.timeout(30):
                while any(u.place.folder == nobodys for u in await store.uploads()) or [  # noqa: ASYNC110
                    page async for page in store.objects(nobodys + "/") if page
                ]:
                    await asyncio.sleep(0.1)
        await client.close()


async def test_keys_begin_with_a_lifetime_that_their_job_fits_in(job: Job, records: Records) -> None:
    long = Job(job.client)
    await long.create(expire=10 * 366 * DAY)
    record = await records.read(long.id)
    assert record is not None
    assert record.folder == f"3660d/{records.realm}/{long.id}"
    assert place_of(f"{record.folder}/000007") == (record.folder, records.realm, long.id, 7)
    assert code(await Job(job.client).create(expire=10 * 366 * DAY + 1)) is ErrorCode.BAD_REQUEST
