"""Nothing is orphaned: wherever a broker dies, whatever the store refuses, the next sweeps leave what live jobs own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest
from brokers import BUCKET, EXPIRE, Job, Place, broker_process, code, connected, free_port, got, nats_server

from transfer import api
from transfer.api import ErrorCode, JobState
from transfer.broker import bucket as bucket_module
from transfer.broker import kv as kv_module
from transfer.broker import lifecycle
from transfer.broker import records as records_module
from transfer.broker.debts import pay
from transfer.broker.job import JobRecord, Refusal
from transfer.broker.keys import folder_of, place_of
from transfer.broker.records import Records
from transfer.broker.settings import DAY, ORPHAN_AGE
from transfer.broker.store import Store
from transfer.broker.sweeper import Sweeper
from transfer.broker.verbs import Verbs
from transfer.errors import BusUnreachable, ClockSkew, StoreUnreachable, XferError
from transfer.ticket import Ticket

NOT_FOUND = api.ApiError(ErrorCode.NOT_FOUND, "there is no such job, or it has expired")
SEGMENT = b"what a segment holds"
LIFE = 7 * DAY


@pytest.fixture
def sweeper(records: Records, store: Store) -> Sweeper:
    return sweeper_on(records, store)


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


def verbs_on(records: Any, store: Any) -> Verbs:
    """With a queue of work that is worked off at once."""

    async def owe(record: JobRecord) -> None:
        with contextlib.suppress(XferError):
            await pay(records, store, record)

    return Verbs(records, store, owe, version="1.0.0", unfinished_life=LIFE)


def sweeper_on(records: Records, store: Store) -> Sweeper:
    """The same."""

    async def owe(debtors: Sequence[JobRecord]) -> None:
        for record in debtors:
            await pay(records, store, record)

    return Sweeper(records, store, owe, orphan_age=ORPHAN_AGE)


async def lies_there(store: Store, job: Job) -> tuple[dict[str, int], set[int]]:
    """A job's uploads, id to segment, and the segments that have an object."""
    uploads = {u.upload: u.place.segment for u in await store.uploads() if u.place.job == job.id}
    root = job.folder.removesuffix(job.id)
    objects = {o.place.segment async for page in store.objects(root) for o in page if o.place.job == job.id}
    return uploads, objects


async def nothing_lies_there(store: Store, job: Job) -> bool:
    """Within a while: the broker works off what it owes when it comes to it."""
    for _ in range(400):
        if await lies_there(store, job) == ({}, set()):
            return True
        await asyncio.sleep(0.05)
    return False


async def forget(records: Records, job: Job) -> None:
    """Drop its record, as the sweeper does: again where the broker, which works off what it owes, was quicker."""
    async with asyncio.timeout(20):
        while (found := await records.find(job.id)) is not None:
            await records.drop(found)


def owned(record: JobRecord | None) -> tuple[dict[str, int], set[int]]:
    """What may lie there once everything was swept."""
    if record is None or record.settled:
        return {}, set()
    return {u: n for n, u in record.uploads.items()}, {*range(record.segments), *record.ahead}


# --- a broker that dies


class Died(BaseException):
    """Not an Exception: nothing of the broker's may catch it."""


class Mortal:
    """Passes calls on; dies before one of them. steps: how many are made until then, shared by all of its kind."""

    def __init__(self, what: Any, steps: list[int]) -> None:
        self._what, self._steps = what, steps

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._what, name)
        if not asyncio.iscoroutinefunction(value):
            return value

        async def call(*args: Any, **more: Any) -> Any:
            if self._steps[0] == 0:
                raise Died
            self._steps[0] -= 1
            return await value(*args, **more)

        return call


Act = Callable[[Verbs, Job], Awaitable[object]]


async def begin_twice(verbs: Verbs, job: Job) -> None:
    for _ in range(2):
        await verbs.begin("alice", api.Begin(job=job.id, segment=0))


async def begin_the_same_twice(verbs: Verbs, job: Job) -> None:
    for _ in range(2):
        await verbs.begin("alice", api.Begin(job=job.id, segment=0, key="k"))


async def complete(verbs: Verbs, job: Job) -> None:
    upload = await job.begin()
    parts = await job.put(upload, SEGMENT)
    await verbs.complete("alice", api.Complete(job=job.id, segment=0, upload=upload, parts=parts, index=1))


async def finish_with_leftovers(verbs: Verbs, job: Job) -> None:
    """Of one upload that is left over the parts were joined, but no record says so."""
    await job.store(0)
    upload = await job.begin(2)
    await job.put(await job.begin(1), SEGMENT, segment=1)
    parts = await job.put(upload, SEGMENT, segment=2)
    await verbs._store.complete(job.folder, 2, upload, parts)
    await verbs.finish("alice", api.Finish(job=job.id, outcome=JobState.STORED, segments=1))


async def void(verbs: Verbs, job: Job) -> None:
    await job.store(0)
    await job.begin(1)
    await verbs.finish("alice", api.Finish(job=job.id, outcome=JobState.VOID))


async def last_receipt(verbs: Verbs, job: Job) -> None:
    await job.store(0)
    await job.finish(JobState.STORED, 1)
    give = api.GiveReceipt(job=job.id, token=job.token, receiver="me", sealed="c2VhbGVk")
    await verbs.receipt("bob", give)


@pytest.mark.parametrize(
    "act", [begin_twice, begin_the_same_twice, complete, finish_with_leftovers, void, last_receipt]
)
async def test_wherever_a_broker_dies_the_next_sweeps_leave_only_what_is_owned(
    job: Job, records: Records, store: Store, sweeper: Sweeper, act: Act
) -> None:
    for step in range(30):
        job = Job(job.client)
        await job.create(fetches=1)
        job.folder = folder_of(job.id, records.realm, EXPIRE)
        steps = [step]
        verbs = verbs_on(Mortal(records, steps), Mortal(store, steps))
        try:
            await act(verbs, job)
            survived = True
        except Died:
            survived = False
        await sweeper.jobs(time.time())
        record = await records.read(job.id)
        uploads, objects = await lies_there(store, job)
        unheard_of = uploads.keys() - owned(record)[0]
        assert len(unheard_of) <= (act in (begin_twice, begin_the_same_twice)), (
            "only an upload that nobody heard of may wait"
        )
        assert objects <= owned(record)[1] | set(record.uploads if record else {})
        await sweeper.orphans(time.time() + ORPHAN_AGE + 5)
        uploads, left = await lies_there(store, job)
        assert uploads.keys() <= owned(record)[0].keys()
        assert left == objects, "what an open job may yet put on record stays"
        await job.finish(JobState.VOID)
        assert await nothing_lies_there(store, job)
        if survived:
            assert step > 1
            return
    raise AssertionError("it never came to its end")


async def test_a_sender_asks_again_after_a_broker_died_and_gets_on(
    job: Job, records: Records, store: Store
) -> None:
    upload = await job.begin()
    parts = await job.put(upload, SEGMENT)
    request = api.Complete(job=job.id, segment=0, upload=upload, parts=parts, index=1)
    for step in range(30):
        steps = [step]
        try:
            await verbs_on(Mortal(records, steps), Mortal(store, steps)).complete("alice", request)
            break
        except Died:
            pass
    assert (await job.status()).complete == [0]
    assert await lies_there(store, job) == ({}, {0})


# --- a store that does not drop what it should


async def test_an_upload_that_could_not_be_aborted_is_aborted_by_the_next_sweep(
    job: Job, records: Records, store: Store, sweeper: Sweeper, flaky: Flaky
) -> None:
    verbs = verbs_on(records, flaky)
    first = await verbs.begin("alice", api.Begin(job=job.id, segment=0))
    second = await verbs.begin("alice", api.Begin(job=job.id, segment=0))
    assert (await lies_there(store, job))[0].keys() == {first.upload, second.upload}
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


# --- jobs that are over


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


# --- what no job owns


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


# --- the second net


async def test_the_buckets_rules_join_those_that_are_there(
    place: Place, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", lifecycle.__name__)
    own = Store(endpoint_url=place.s3_endpoint, bucket="rules-tests")
    await own.ensure_bucket()
    foreign = {
        "ID": "theirs",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 3},
    }
    outdated = {**foreign, "ID": "xfer:xfer/:1d", "Filter": {"Prefix": "xfer/1d/"}}
    s3 = boto3.client("s3", endpoint_url=place.s3_endpoint, region_name="us-east-1")
    given = {"Rules": [foreign, outdated]}
    await asyncio.to_thread(
        s3.put_bucket_lifecycle_configuration, Bucket="rules-tests", LifecycleConfiguration=given
    )
    for _ in range(2):
        await lifecycle.install(own, LIFE)
        there = await asyncio.to_thread(s3.get_bucket_lifecycle_configuration, Bucket="rules-tests")
        assert there["Rules"] == [foreign, *lifecycle.rules("xfer/", LIFE)]
    own.close()
    assert [r.getMessage() for r in caplog.records] == ["the bucket has lifecycle rules now"]


async def test_what_is_stored_under_the_rules_reads_as_before(job: Job, store: Store) -> None:
    await lifecycle.install(store, LIFE)
    long = Job(job.client)
    await long.create(expire=3000 * DAY)
    for one in (job, long):
        await one.store(0, data=b"as it was")
        [signed] = await one.gets(0)
        assert await got(signed.url) == (200, b"as it was")


async def test_the_broker_itself_installs_the_rules(broker: object, store: Store) -> None:
    s3 = boto3.client("s3", endpoint_url=store._endpoint_url, region_name="us-east-1")
    wanted = {rule["ID"] for rule in lifecycle.rules("xfer/", LIFE)}
    async with asyncio.timeout(20):
        while True:
            try:
                there = await asyncio.to_thread(s3.get_bucket_lifecycle_configuration, Bucket=BUCKET)
                break
            except s3.exceptions.ClientError:
                await asyncio.sleep(0.1)
    assert wanted <= {rule["ID"] for rule in there["Rules"]}
