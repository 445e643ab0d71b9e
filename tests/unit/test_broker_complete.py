"""Completing a segment: three steps, each of which a broker may die after, and requests that linger between them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from transfer import api
from transfer.api import JobState
from transfer.broker.job import JobRecord, Refusal
from transfer.broker.kv import Entry
from transfer.broker.records import Records
from transfer.broker.sweeper import Sweeper
from transfer.broker.verbs import Verbs
from transfer.model import SegmentRef
from transfer.seal import hash_token

JOB = "q" * 16
PAGE, RECORD = f"s.{JOB}.0", f"j.{JOB}"


class Died(Exception):
    """The broker did."""


class Bucket:
    """As `kv.Bucket`, in memory. before: what happens before a key is written the next time."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.last = 0
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}

    async def get(self, key: str) -> Entry | None:
        return self.entries.get(key)

    async def create(self, key: str, value: bytes) -> int | None:
        entry = self.entries.get(key)
        if entry is not None and entry.value is not None:
            return None
        return await self._write(key, value, entry.revision if entry else 0)

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        return await self._write(key, value, revision)

    async def delete(self, key: str, revision: int | None = None) -> bool:
        return await self._write(key, None, revision) is not None

    async def _write(self, key: str, value: bytes | None, revision: int | None) -> int | None:
        if (first := self.before.pop(key, None)) is not None:
            await first()
        there = self.entries.get(key)
        if revision is not None and revision != (there.revision if there else 0):
            return None
        self.last += 1
        self.entries[key] = Entry(value, self.last)
        return self.last


class Store:
    """As `store.Store`: which objects there are, as made by which upload."""

    def __init__(self) -> None:
        self.objects: dict[int, str] = {}

    async def complete(self, _folder: str, segment: int, upload: str, _parts: object) -> None:
        self.objects[segment] = upload

    async def erase(self, _folder: str, _uploads: object) -> None:
        self.objects.clear()


class Stand:
    """A job with one open upload, and the verbs of a broker."""

    def __init__(self) -> None:
        self.kv, self.store, self.owed = Bucket(), Store(), list[JobRecord]()
        self.records = Records(None, self.kv, "realm")  # type: ignore[arg-type]
        self.verbs = Verbs(
            self.records,
            self.store,  # type: ignore[arg-type]
            self.owe,
            version="1.0.0",
            unfinished_life=100.0,
        )

    async def owe(self, record: JobRecord) -> None:
        self.owed.append(record)

    async def begin(self) -> None:
        now = time.time()
        fresh = JobRecord(
            job=JOB,
            owner="ann",
            token_hash=hash_token("secret"),
            size=None,
            created=now,
            expires=now + 100,
            expire=60.0,
            folder=f"30d/realm/{JOB}",
            uploads={0: "u1"},
            signed={0: {1: 50}},
        )
        assert await self.records.create(fresh)

    async def complete(self, upload: str = "u1", length: int = 50) -> api.Completed:
        parts = [api.StoredPart(1, "etag", length, "")]
        request = api.Complete(job=JOB, segment=0, upload=upload, parts=parts, index=9)
        return await self.verbs.complete("ann", request)

    async def change(self, edit: Callable[[JobRecord], JobRecord]) -> None:
        await self.records.change(JOB, edit)

    async def record(self) -> JobRecord:
        found = await self.records.read(JOB)
        assert found is not None
        return found

    async def refs(self) -> list[SegmentRef]:
        return await self.records.refs(JOB, 0, (await self.record()).segments)

    def die_before(self, key: str) -> None:
        async def die() -> None:
            raise Died

        self.kv.before[key] = die


@pytest.fixture
async def stand() -> Stand:
    made = Stand()
    await made.begin()
    return made


def again(upload: str) -> Callable[[JobRecord], JobRecord]:
    return lambda r: r.begin(0, upload, now=time.time(), life=100.0)


@pytest.mark.parametrize("key", [PAGE, RECORD])
async def test_a_death_between_two_steps_counts_nothing_and_the_same_request_makes_it_good(
    stand: Stand, key: str
) -> None:
    stand.die_before(key)
    with pytest.raises(Died):
        await stand.complete()
    left = await stand.record()
    assert (left.segments, left.moved, left.claimed, left.uploads) == (0, 0, 50, {0: "u1"})
    assert await stand.refs() == []
    done = await stand.complete()
    record = await stand.record()
    assert (record.segments, record.moved, record.claimed, record.uploads) == (1, 50, 50, {})
    assert await stand.refs() == [done.ref]
    assert await stand.complete() == done
    assert await stand.record() == record


async def test_what_a_death_left_and_nobody_asks_for_again_goes_with_the_job(stand: Stand) -> None:
    stand.die_before(RECORD)
    with pytest.raises(Died):
        await stand.complete()
    assert stand.kv.entries[PAGE].value is not None
    owe: Any = stand.owe
    sweeper = Sweeper(stand.records, stand.store, owe, orphan_age=900.0)  # type: ignore[arg-type]
    assert await sweeper._job(JOB, time.time() + 1000)
    assert stand.store.objects == {}
    assert [entry.value for entry in stand.kv.entries.values()] == [None, None]


async def test_a_request_that_lingers_does_not_put_back_what_a_later_upload_replaced(stand: Stand) -> None:
    """Before its reference is written, the segment is begun again, stored and counted."""

    async def overtaken() -> None:
        await stand.change(again("u2"))
        await stand.complete("u2", 70)

    stand.kv.before[PAGE] = overtaken
    with pytest.raises(Refusal, match="is another one"):
        await stand.complete("u1", 50)
    assert await stand.refs() == [SegmentRef(0, 70, 9)]
    assert (await stand.record()).moved == 70


async def test_a_request_that_lingers_before_its_record_is_told_that_another_upload_counts(
    stand: Stand,
) -> None:
    async def overtaken() -> None:
        await stand.change(again("u2"))
        await stand.complete("u2", 70)

    stand.kv.before[RECORD] = overtaken
    with pytest.raises(Refusal, match="is another one"):
        await stand.complete("u1", 50)
    assert await stand.refs() == [SegmentRef(0, 70, 9)]


async def test_one_that_was_replaced_and_not_stored_yet_leaves_no_reference_that_is_read(
    stand: Stand,
) -> None:
    async def replaced() -> None:
        await stand.change(again("u2"))

    stand.kv.before[RECORD] = replaced
    with pytest.raises(Refusal, match="not open any more"):
        await stand.complete()
    assert await stand.refs() == []
    assert (await stand.complete("u2", 70)).ref.size == 70
    assert await stand.refs() == [SegmentRef(0, 70, 9)]


async def test_what_comes_after_the_jobs_end_is_owed_and_refused(stand: Stand) -> None:
    async def end() -> None:
        await stand.change(lambda r: r.settle(JobState.VOID, now=time.time()))

    stand.kv.before[PAGE] = end
    with pytest.raises(Refusal, match="void already"):
        await stand.complete()
    assert [record.owed for record in stand.owed] == [{"u1": 0}]
    assert (await stand.record()).owed == {"u1": 0}


async def test_no_reference_outlives_a_job_that_was_dropped_meanwhile(stand: Stand) -> None:
    async def drop() -> None:
        found = await stand.records.find(JOB)
        assert found is not None
        assert await stand.records.drop(found)

    stand.kv.before[PAGE] = drop
    with pytest.raises(Refusal, match="no such job"):
        await stand.complete()
    assert stand.kv.entries[PAGE].value is None
