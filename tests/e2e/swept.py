"""What the tests of what brokers leave behind share: verbs and sweepers of their own, and what lies at the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from brokers import Job

from transfer import api
from transfer.api import JobState
from transfer.broker.debts import pay
from transfer.broker.job import JobRecord
from transfer.broker.keys import DAY
from transfer.broker.records import Records
from transfer.broker.settings import ORPHAN_AGE
from transfer.broker.store import Store
from transfer.broker.sweeper import Sweeper
from transfer.broker.verbs import Verbs
from transfer.errors import XferError

LIFE = 7 * DAY


@pytest.fixture
def sweeper(records: Records, store: Store) -> Sweeper:
    return sweeper_on(records, store)


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


async def void(verbs: Verbs, job: Job) -> None:
    await job.store(0)
    await job.begin(1)
    await verbs.finish("alice", api.Finish(job=job.id, outcome=JobState.VOID))
