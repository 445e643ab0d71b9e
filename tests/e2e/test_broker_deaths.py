"""Wherever a broker dies, the next sweeps leave what live jobs own and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from brokers import EXPIRE, Job
from swept import lies_there, owned, verbs_on, void

from transfer import api
from transfer.api import JobState
from transfer.broker.keys import folder_of
from transfer.broker.records import Records
from transfer.broker.settings import ORPHAN_AGE
from transfer.broker.store import Store
from transfer.broker.sweeper import Sweeper
from transfer.broker.verbs import Verbs

SEGMENT = b"what a segment holds"


async def nothing_lies_there(store: Store, job: Job) -> bool:
    """Within a while: the broker works off what it owes when it comes to it."""
    for _ in range(400):
        if await lies_there(store, job) == ({}, set()):
            return True
        await asyncio.sleep(0.05)
    return False


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
