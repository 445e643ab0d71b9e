"""What brokers owe: to the store, uploads to abort and objects to delete; to users, what they did not use.

A debt is on the job's record before anybody tries to pay it, and an item in the queue of work (`work`) says to look
there. So a broker that dies midway, a store that is away, or a queue that was lost only delays it. Any number of
brokers may pay the same debt at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from transfer.api import ErrorCode, JobState
from transfer.broker.job import JobRecord, Refusal
from transfer.broker.metering import Metering
from transfer.broker.records import Records
from transfer.broker.store import Store
from transfer.broker.work import Item, Kind, Kinds, Queue
from transfer.errors import UnsupportedVersion

ABORT, DELETE, SETTLE = "abort", "delete", "settle"
"""Kinds of work: uploads of a job that lives; all that the store has of one that is settled; the quota's book."""


async def pay(records: Records, store: Store, record: JobRecord) -> None:
    """Drop what this record owes, then note it. Idempotent. Raises what records and store raise."""
    if not record.in_debt:
        return
    if record.settled:
        await store.erase(record.folder, {**{u: n for n, u in record.uploads.items()}, **record.owed})
    else:
        for upload, segment in record.owed.items():
            await store.abort(record.folder, segment, upload)
        if record.state is JobState.STORED:
            # A broker may have completed one of them and died before its record said so. Of an open job such an
            # object is overwritten yet, or owed at its end; a stored one begins no segment any more.
            # And one that opened an upload and died before that was on record is known by nobody but the store.
            await store.abort_all(record.folder)
            stray = [segment for segment in record.owed.values() if not record.has(segment)]
            await store.delete(record.folder, stray)
    await records.change(record.job, lambda r: r.paid(record))


class Debts:
    """The queue's items about these debts: made, worked off, given up."""

    def __init__(self, records: Records, store: Store, queue: Queue, quotas: Metering) -> None:
        self._records, self._store, self._queue, self._quotas = records, store, queue, quotas

    def kinds(self) -> Kinds:
        kind = Kind(self._pay, self._give_up)
        return {ABORT: kind, DELETE: kind, SETTLE: Kind(self._settle, self._leave)}

    async def owe(self, record: JobRecord) -> None:
        """Queue what this record owes, if anything. Does not wait for the queue, never fails.

        What of a stored job nobody knows of can wait for the sweeper (`owe_again`).
        """
        if record.in_debt and (record.settled or record.owed):
            await self._enqueue(record)
        elif record.unsettled:
            await self._queue.enqueue(Item(SETTLE, record.job), _fingerprint(record))

    async def _enqueue(self, record: JobRecord) -> None:
        await self._queue.enqueue(_item(record), _fingerprint(record))

    async def owe_again(self, debtors: Sequence[JobRecord]) -> None:
        """Queue what is not in the queue, of all the records that owe something; a dead letter waits for an operator.

        Letters that are moot, since the debt was paid or the job is gone, are removed. Raises BusUnreachable.
        """
        dead = await self._queue.dead()
        if debtors:
            known = await self._queue.queued() | dead
            for record in debtors:
                if _item(record) not in known:
                    await self._enqueue(record)
        owing = {record.job for record in debtors}
        for item in dead:
            if item.kind in self.kinds() and item.job not in owing:
                try:
                    found = await self._records.read(item.job)
                except UnsupportedVersion:  # that is for a broker who can read it
                    continue
                if found is None or not (found.in_debt or found.unsettled):
                    await self._queue.unbury(item)

    async def _pay(self, job: str) -> None:
        record = await self._records.read(job)
        if record is not None:
            await pay(self._records, self._store, record)
            await self._settle(job)

    async def _settle(self, job: str) -> None:
        record = await self._records.read(job)
        if record is not None:
            await self._quotas.settle(record)

    async def _leave(self, job: str) -> None:
        """Its user keeps what was reserved, for a day or a month, or until the job goes."""

    async def _give_up(self, job: str) -> None:
        """What lies there still is removed as nobody's, once it is old enough, if the store lets it."""
        try:
            await self._records.change(job, lambda r: r.paid(r))
        except Refusal as refusal:
            if refusal.error.code is not ErrorCode.NOT_FOUND:
                raise


def _item(record: JobRecord) -> Item:
    kind = SETTLE if not record.in_debt else DELETE if record.settled else ABORT
    return Item(kind, record.job)


def _fingerprint(record: JobRecord) -> str:
    """The same for the same debt."""
    debt = msgspec.json.encode((record.state, sorted(record.owed), record.charge.key))
    return hashlib.blake2b(debt, digest_size=8).hexdigest()
