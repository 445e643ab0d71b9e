"""What an owner may ask of the jobs themselves, at a real broker: which there are, pause, cancel, remove, extend, history."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from brokers import EXPIRE, Job, answered, ask, code, gone
from nats.aio.client import Client

from transfer import api, bus
from transfer.announce import Announcement
from transfer.api import ErrorCode, JobState
from transfer.broker.job import JobRecord
from transfer.broker.keys import DAY, folder_of
from transfer.broker.records import Records
from transfer.broker.store import Store
from transfer.broker.sweeper import Sweeper
from transfer.watch import missed

NOT_FOUND = api.ApiError(ErrorCode.NOT_FOUND, "there is no such job, or it has expired")
CHANGES: dict[str, type[api.Pause | api.Resume | api.Cancel | api.Remove]] = {
    "pause": api.Pause,
    "resume": api.Resume,
    "cancel": api.Cancel,
    "remove": api.Remove,
}


async def change(job: Job, verb: str, user: str = "alice") -> Any:
    """The answer, or the ApiError; as of all of a Job's calls."""
    return await ask(job.client, verb, CHANGES[verb](job=job.id), api.Changed, user)


async def extend(job: Job, expire: float, user: str = "alice") -> Any:
    return await ask(job.client, "extend", api.Extend(job=job.id, expire=expire), api.Changed, user)


async def listed(client: Client, user: str, *states: JobState, begins: str = "") -> list[api.JobLine]:
    """All pages."""
    found: list[api.JobLine] = []
    more = True
    while more:
        request = api.ListJobs(states=[*states], begins=begins, after=found[-1].job if found else "")
        page = await ask(client, "list", request, api.JobPage, user)
        assert isinstance(page, api.JobPage), page
        found, more = found + page.jobs, page.more
    return found


async def of(client: Client, user: str, **changes: object) -> Job:
    """A job of that user's."""
    job = Job(client, user)
    assert isinstance(await job.create(**changes), api.Created)
    return job


# --- pause and resume


async def test_a_paused_job_begins_nothing_signs_nothing_and_completes_what_is_under_way(job: Job) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"what a segment holds")
    paused = await change(job, "pause")
    assert isinstance(paused, api.Changed)
    assert paused.state is JobState.PAUSED
    assert await change(job, "pause") == await change(job, "pause")
    for refused in (await job.begin(1), await job.sign(upload, b"x"), await job.sign(upload, b"x")):
        assert refused == api.ApiError(ErrorCode.PAUSED, "that job is paused by its owner")
    assert isinstance(await job.complete(upload, parts), api.Completed)
    assert (await job.segments()).state is JobState.PAUSED
    assert (await job.open()).state is JobState.PAUSED
    assert len((await job.segments()).refs) == 1
    assert (await change(job, "resume")).state is JobState.OPEN
    assert isinstance(await job.begin(1), str)


async def test_a_job_whose_last_segment_was_completed_during_a_pause_may_be_stored(job: Job) -> None:
    await job.store(0)
    await change(job, "pause")
    assert (await job.finish(JobState.STORED, 1)).state is JobState.STORED
    refused = await change(job, "pause")
    assert code(refused) is ErrorCode.CONFLICT
    assert "stored" in refused.message


async def test_whatever_runs_a_job_is_told_of_each_change_with_a_rising_revision(job: Job) -> None:
    heard: asyncio.Queue[api.Nudge] = asyncio.Queue()

    def take(data: bytes) -> None:
        heard.put_nowait(msgspec.json.decode(data, type=api.Nudge))

    told = []
    async with bus.hearing(job.client, bus.control_subject("alice", job.id), take):
        await job.client.flush()
        for verb in ("pause", "resume", "cancel"):
            await change(job, verb)
            async with asyncio.timeout(20):
                told.append(await heard.get())
    assert [nudge.state for nudge in told] == [JobState.PAUSED, JobState.OPEN, JobState.VOID]
    revisions = [nudge.revision for nudge in told]
    assert revisions == sorted(set(revisions))


# --- cancel and remove


async def test_a_cancelled_job_is_void_at_once_and_its_objects_are_gone(job: Job, store: Store) -> None:
    await job.store(0)
    [signed] = await job.gets(0)
    upload = await job.begin(1)
    assert (await change(job, "cancel")).state is JobState.VOID
    assert (await change(job, "cancel")).state is JobState.VOID
    assert await gone(signed.url)
    assert not (await store.list_parts(job.folder, 1, upload)).open
    assert (await job.open()).state is JobState.VOID
    assert [line.state for line in await listed(job.client, "alice", begins=job.id)] == [JobState.VOID]
    for verb in ("pause", "resume"):
        assert code(await change(job, verb)) is ErrorCode.CONFLICT


@pytest.mark.parametrize("state", ["open", "paused", "stored", "void"])
async def test_a_removed_job_is_gone_for_everybody_whatever_it_was(
    job: Job, records: Records, state: str
) -> None:
    await job.store(0)
    [signed] = await job.gets(0)
    if state == "paused":
        await change(job, "pause")
    elif state == "stored":
        await job.finish(JobState.STORED, 1)
    elif state == "void":
        await job.finish(JobState.VOID)
    first = await change(job, "remove")
    assert isinstance(first, api.Changed)
    assert await change(job, "remove") in (first, NOT_FOUND)  # the sweeper may have come by
    assert await gone(signed.url)
    answers = [await job.open(), await job.status(), await job.begin(1), await change(job, "pause")]
    assert answers == [NOT_FOUND] * 4
    assert await listed(job.client, "alice", begins=job.id) == []


async def test_a_removed_job_is_dropped_by_the_next_sweep_and_then_was_never_there(
    job: Job, records: Records, store: Store
) -> None:
    assert [line.job for line in await listed(job.client, "alice", begins=job.id)] == [job.id]
    await change(job, "remove")

    async def owe(_debtors: Sequence[JobRecord]) -> None:
        """Nothing is open here that is not expired."""

    await Sweeper(records, store, owe, orphan_age=DAY).jobs(time.time())
    assert await records.read(job.id) is None
    assert await change(job, "remove") == NOT_FOUND
    assert await listed(job.client, "alice", begins=job.id) == []


# --- extend


async def test_a_stored_job_is_extended_from_now_and_an_unfinished_one_from_its_completion(
    job: Job,
) -> None:
    await job.store(0)
    unfinished = await extend(job, 3 * DAY)
    assert unfinished.expires == (await job.status()).expires
    assert (await job.status()).expire == 3 * DAY
    assert (await job.finish(JobState.STORED, 1)).expires == pytest.approx(time.time() + 3 * DAY, abs=60)
    stored = await extend(job, 5 * DAY)
    assert stored.expires == pytest.approx(time.time() + 5 * DAY, abs=60)
    assert (await job.open()).expires == stored.expires
    sooner = await extend(job, 60.0)
    assert sooner.expires == pytest.approx(time.time() + 60, abs=30)


async def test_an_extension_beyond_the_class_of_lifetimes_that_its_objects_lie_in_is_refused(
    job: Job,
) -> None:
    await job.store(0)
    before = await job.status()
    refused = await extend(job, 31 * DAY)
    assert code(refused) is ErrorCode.BAD_REQUEST
    assert "may be kept for 30 days more at most" in refused.message
    assert await job.status() == before
    for nonsense in (0.0, -1.0, 4000 * DAY):
        assert code(await extend(job, nonsense)) is ErrorCode.BAD_REQUEST


# --- whose they are


async def test_nobody_else_learns_of_a_job_or_changes_it(job: Job) -> None:
    before = await job.status()
    unknown = Job(job.client)
    for verb in CHANGES:
        assert await change(job, verb, "bob") == await change(unknown, verb) == NOT_FOUND
    assert await extend(job, 60.0, "bob") == await extend(unknown, 60.0) == NOT_FOUND
    for asked, user in ((job, "bob"), (unknown, "alice")):
        request = api.History(job=asked.id)
        assert await ask(job.client, "history", request, api.HistoryPage, user) == NOT_FOUND
    assert job.id not in [line.job for line in await listed(job.client, "bob")]
    assert await job.status() == before


@pytest.mark.parametrize(
    ("verb", "request_"),
    [
        ("list", api.ListJobs(begins="b")),
        ("list", api.ListJobs(after="q" * 17)),
        ("pause", api.Pause(job="xfer1")),
        ("remove", api.Remove(job="*")),
        ("cancel", api.Cancel(job=">")),
        ("history", api.History(job="q.>")),
        ("history", api.History(job="q" * 16, start=-1)),
        ("extend", api.Extend(job="q" * 16, expire=float(1 << 60))),
    ],
)
async def test_nonsense_is_a_bad_request(client: Client, verb: str, request_: api.Request) -> None:
    assert code(await ask(client, verb, request_, api.Done)) is ErrorCode.BAD_REQUEST


# --- list and status


async def test_a_list_holds_exactly_ones_own_jobs_in_the_states_asked_for(client: Client) -> None:
    mine = [await of(client, "lister", size=number, fetches=number + 1) for number in range(4)]
    await of(client, "neighbour")
    by_id = {job.id: job for job in mine}
    await ask(client, "pause", api.Pause(job=mine[1].id), api.Changed, "lister")
    await ask(client, "cancel", api.Cancel(job=mine[2].id), api.Changed, "lister")
    lines = await listed(client, "lister")
    assert [line.job for line in lines] == sorted(by_id)
    assert {line.job: line.state for line in lines} == {
        mine[0].id: JobState.OPEN,
        mine[1].id: JobState.PAUSED,
        mine[2].id: JobState.VOID,
        mine[3].id: JobState.OPEN,
    }
    assert {(line.size, line.fetches, line.fetched) for line in lines} == {(n, n + 1, 0) for n in range(4)}
    assert [line.job for line in await listed(client, "lister", JobState.PAUSED)] == [mine[1].id]
    both = await listed(client, "lister", JobState.PAUSED, JobState.VOID)
    assert [line.job for line in both] == sorted([mine[1].id, mine[2].id])
    assert [line.job for line in await listed(client, "lister", begins=mine[3].id[:9])] == [mine[3].id]


async def test_the_full_status_counts_stored_bytes_and_names_receivers(client: Client) -> None:
    job = await of(client, "alice", size=77, fetches=3)
    await job.store(0, 1, data=b"x" * 500)
    await job.begin(2)
    await job.receipt("somebody")
    request = api.Status(job=job.id, full=True)
    found = await answered(client, "status", request, api.JobStatus)
    assert (found.size, found.fetches, found.receivers, found.stored) == (77, 3, ["somebody"], 1000)
    assert (found.complete, list(found.open_uploads), found.expire) == ([0, 1], [2], EXPIRE)
    assert found.created == pytest.approx(time.time(), abs=60)
    assert (await job.status()).stored is None


@pytest.mark.long
async def test_ten_thousand_records_are_listed_in_pages_in_seconds(client: Client, records: Records) -> None:
    """Half of them ours. What it took is printed."""
    alphabet = "qpzry9x8"
    now = time.time()

    def record(number: int) -> JobRecord:
        job = "".join(alphabet[number >> 3 * place & 7] for place in range(16))
        return JobRecord(
            job=job,
            owner=("crowd", "others")[number % 2],
            token_hash="0" * 64,
            size=number,
            created=now,
            expires=now + 600,
            expire=60.0,
            folder=folder_of(job, records.realm, 60.0),
        )

    made = [record(number) for number in range(10_000)]
    for at in range(0, len(made), 200):
        await asyncio.gather(*(records.create(one) for one in made[at : at + 200]))
    try:
        began = time.monotonic()
        first = await answered(client, "list", api.ListJobs(), api.JobPage, "crowd")
        one = time.monotonic() - began
        lines = await listed(client, "crowd")
        print(f"10,000 records: first page {one:.2f} s, all 5 then {time.monotonic() - began - one:.2f} s")
        assert (len(first.jobs), first.more) == (api.JOB_PAGE, True)
        assert [line.job for line in lines] == sorted(r.job for r in made if r.owner == "crowd")
    finally:
        for at in range(0, len(made), 200):
            found = await asyncio.gather(*(records.find(one.job) for one in made[at : at + 200]))
            await asyncio.gather(*(records.drop(one) for one in found if one is not None))


# --- history


def announcement(job: Job, seq: int, kept: int, **more: Any) -> bytes:
    said = Announcement(job=job.id, run="1", seq=seq, kept=kept, done=seq, **more)
    return msgspec.json.encode(said)


async def history(job: Job, start: int = 0) -> list[api.HistoryPage]:
    """All pages from there on."""
    pages: list[api.HistoryPage] = []
    while not pages or pages[-1].more:
        start = pages[-1].past[-1].sequence + 1 if pages else start
        request = api.History(job=job.id, start=start)
        page = await ask(job.client, "history", request, api.HistoryPage)
        assert isinstance(page, api.HistoryPage), page
        pages.append(page)
    return pages


async def test_a_history_is_replayed_in_pages_from_any_sequence_and_shows_a_gap(job: Job) -> None:
    jetstream = job.client.jetstream()
    count = 2 * api.HISTORY_PAGE + 10
    subject = bus.events_subject("alice", job.id)
    async with asyncio.timeout(60):
        for seq in range(count):
            await job.client.publish(subject, announcement(job, seq, seq + 1))
        while sum(len(page.past) for page in await history(job)) < count:  # noqa: ASYNC110 (it has no acks)
            await asyncio.sleep(0.1)
    pages = await history(job)
    assert [len(page.past) for page in pages] == [api.HISTORY_PAGE, api.HISTORY_PAGE, 10]
    past = [one for page in pages for one in page.past]
    said = [msgspec.json.decode(one.said, type=Announcement) for one in past]
    assert [one.seq for one in said] == list(range(count))
    assert all(one.lasting for one in past)
    assert pages[0].first <= past[0].sequence < past[-1].sequence <= pages[0].last
    [rest] = await history(job, past[-3].sequence)
    assert [one.sequence for one in rest.past] == [one.sequence for one in past[-3:]]
    assert not any(missed(a, b, lasting=True, from_start=True) for a, b in itertools.pairwise(said))
    await jetstream.delete_msg("xfer_events", past[4].sequence)
    after = [one for page in await history(job) for one in page.past]
    told = [msgspec.json.decode(one.said, type=Announcement) for one in after]
    gaps = [b.seq for a, b in itertools.pairwise(told) if missed(a, b, lasting=True, from_start=True)]
    assert gaps == [5]


async def test_a_job_that_announced_nothing_has_an_empty_history(job: Job) -> None:
    [page] = await history(job)
    assert (page.past, page.more) == ([], False)


async def test_what_is_no_json_on_ones_own_subject_spoils_no_history(job: Job) -> None:
    subject = bus.events_subject("alice", job.id)
    for body in (b"\xff\xfe", b"{", b"[" * 3000, announcement(job, 0, 1)):
        await job.client.publish(subject, body)
    async with asyncio.timeout(30):
        while not (past := (await history(job))[0].past):  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0.1)
    assert [msgspec.json.decode(one.said)["seq"] for one in past] == [0]


async def test_a_message_with_a_time_to_live_is_not_a_lasting_one(job: Job) -> None:
    await bus.tell(job.client, bus.events_subject("alice", job.id), announcement(job, 0, 0), ttl=60.0)
    async with asyncio.timeout(30):
        while not (past := (await history(job))[0].past):  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0.1)
    assert [one.lasting for one in past] == [False]
