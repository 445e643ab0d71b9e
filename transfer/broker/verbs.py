"""What each verb does: check the request, ask the record's law, then store before record.

A broker may die between any two steps: what it leaves at the store is then either on the job's record, owed (`debts`),
or an upload that no record names and no client heard of, which the sweeper finds by its age.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from transfer import api
from transfer.broker import bounds
from transfer.broker.job import (
    JobRecord,
    Refusal,
    admit_holder,
    admit_owner,
    conflict,
    not_found,
)
from transfer.broker.keys import folder_of
from transfer.broker.metering import Metering, Unmetered
from transfer.broker.observer import SILENT, Observer
from transfer.broker.records import Records
from transfer.broker.store import Store
from transfer.broker.table import Table, verb
from transfer.errors import XferError
from transfer.model import SegmentRef

log = logging.getLogger(__name__)


class Verbs:
    """One method a verb: the user who asks and the request in, the answer out.

    Every method is idempotent. Raises Refusal, or what records and store raise.
    """

    def __init__(
        self,
        records: Records,
        store: Store,
        owe: Callable[[JobRecord], Awaitable[None]],
        *,
        version: str,
        unfinished_life: float,
        quotas: Metering | None = None,
        clock: Callable[[], float] = time.time,
        observer: Observer = SILENT,
    ) -> None:
        """owe: told of records of which something may be owed. unfinished_life: seconds. quotas: None counts nothing.
        clock: seconds since 1970."""
        self._records, self._store, self._owe = records, store, owe
        self._quotas, self._observer = quotas or Unmetered(), observer
        self._version, self._unfinished_life, self._clock = version, unfinished_life, clock

    def table(self) -> Table:
        return {
            "create": verb(api.Create, self.create),
            "open": verb(api.Open, self.open),
            "segments": verb(api.Segments, self.segments),
            "begin": verb(api.Begin, self.begin),
            "sign_parts": verb(api.SignParts, self.sign_parts),
            "list_parts": verb(api.ListParts, self.list_parts),
            "complete": verb(api.Complete, self.complete),
            "finish": verb(api.Finish, self.finish),
            "sign_gets": verb(api.SignGets, self.sign_gets),
            "receipt": verb(api.GiveReceipt, self.receipt),
            "status": verb(api.Status, self.status),
            "info": verb(api.Info, self.info),
        }

    async def create(self, user: str, request: api.Create) -> api.Created:
        bounds.check_create(request)
        now = self._clock()
        try:
            charge = await self._quotas.reserve(user, request.job, request.size)
        except Refusal:
            there = await self._created(user, request, now)
            if there is None:
                raise
            return there
        record = JobRecord(
            job=request.job,
            owner=user,
            token_hash=request.token_hash,
            size=request.size,
            created=now,
            expires=now + self._unfinished_life,
            expire=request.expire,
            fetches=request.fetches,
            folder=folder_of(request.job, self._records.realm, request.expire),
            charge=charge,
            run=request.run,
        )
        if await self._records.create(record):
            self._quotas.confirm(user, charge)
            return api.Created(record.job, record.expires, self._store.origin)
        await self._quotas.withdraw(user, request.job, charge)
        there = await self._created(user, request, now)
        if there is None:
            raise conflict("that job id is taken")
        return there

    async def _created(self, user: str, request: api.Create, now: float) -> api.Created | None:
        """The answer to a request that was answered before; None if there is no such job, or another one."""
        there = await self._records.read(request.job)
        if (
            there is None
            or (there.owner, there.token_hash) != (user, request.token_hash)
            or there.expired(now)
        ):
            return None
        return api.Created(there.job, there.expires, self._store.origin)

    async def open(self, _user: str, request: api.Open) -> api.Opened:
        record = await self._held(request.job, request.token)
        return api.Opened(
            record.owner,
            record.state,
            record.size,
            record.segments,
            record.expires,
            record.cancelled,
            self._store.origin,
        )

    async def segments(self, _user: str, request: api.Segments) -> api.SegmentPage:
        record = await self._held(request.job, request.token)
        bounds.check(0 <= request.start <= bounds.MAX_SEGMENT, "the first segment is out of bounds")
        if record.settled:
            return api.SegmentPage([], record.state, record.cancelled)
        end = min(record.segments, request.start + api.SEGMENT_PAGE)
        return api.SegmentPage(await self._records.refs(record.job, request.start, end), record.state)

    async def begin(self, user: str, request: api.Begin) -> api.Begun:
        segment, key = request.segment, request.key
        bounds.check_begin(request)
        record = await self._owned(user, request.job)
        record.check_run(request.run)
        if record.has_begun(segment, key):
            return api.Begun(record.uploads[segment])
        record.check_begin(segment, key)
        upload = await self._store.begin(record.folder, segment)
        now, life = self._clock(), self._unfinished_life
        try:
            change = await self._records.change(
                record.job, lambda r: _of(request.run, r).begin(segment, upload, key, now=now, life=life)
            )
        except Refusal:
            await self._take_back(record, segment, upload)
            raise
        if change.after.uploads[segment] != upload:  # another broker was asked the same, and was quicker
            await self._take_back(record, segment, upload)
        await self._owe(change.after)
        return api.Begun(change.after.uploads[segment])

    async def sign_parts(self, user: str, request: api.SignParts) -> api.SignedUrls:
        bounds.check_sign(request)
        record = await self._owned(user, request.job)
        record.check_moving()
        record.check_upload(request.segment, request.upload)
        lengths = {part.number: part.length for part in request.parts}
        await self._quotas.sign(user, record.job, request.segment, request.upload, lengths)
        signed = await self._store.sign_parts(record.folder, request.segment, request.upload, request.parts)
        self._observer.signed("up", sum(part.length for part in request.parts))
        return api.SignedUrls(signed)

    async def list_parts(self, user: str, request: api.ListParts) -> api.PartList:
        bounds.check_upload(request.segment, request.upload)
        record = await self._owned(user, request.job)
        if record.uploads.get(request.segment) != request.upload:
            return api.PartList([], open=False)
        return await self._store.list_parts(record.folder, request.segment, request.upload)

    async def complete(self, user: str, request: api.Complete) -> api.Completed:
        ref = bounds.check_complete(request)
        record = await self._owned(user, request.job)
        record.check_run(request.run)
        if record.has(request.segment):
            return await self._completed(record, ref)
        record.check_upload(request.segment, request.upload)
        # A death after any of these steps is made good by the same request, or by the end of the job: the object then
        # is that of an open upload, the reference is read by nobody, and nothing is counted before the last step.
        await self._store.complete(record.folder, request.segment, request.upload, request.parts)
        await self._records.put_ref(record.job, ref, request.upload)
        now, life = self._clock(), self._unfinished_life
        try:
            change = await self._records.change(
                record.job,
                lambda r: _of(request.run, r).complete(
                    ref.number, request.upload, now=now, life=life, size=ref.size
                ),
            )
        except Refusal as refused:
            if refused.error.code is api.ErrorCode.NOT_FOUND:
                await self._records.forget_ref(record.job, ref.number)
            raise
        if change.after.settled:
            await self._owe(change.after)
            raise conflict(f"that job is {change.after.state.value} already")
        if change.before.has(
            ref.number
        ):  # it was counted meanwhile: by a copy of this request, or as another upload
            return await self._completed(change.after, ref)
        return api.Completed(ref)

    async def _completed(self, record: JobRecord, ref: SegmentRef) -> api.Completed:
        """The answer about a segment that is stored. Raises Refusal (conflict) if that one is another."""
        if await self._records.refs(record.job, ref.number, ref.number + 1) != [ref]:
            raise conflict(f"segment {ref.number} is stored already, and is another one")
        return api.Completed(ref)

    async def finish(self, user: str, request: api.Finish) -> api.Finished:
        bounds.check(0 <= request.segments <= bounds.MAX_SEGMENT, "the number of segments is out of bounds")
        record = await self._owned(user, request.job)
        now = self._clock()

        def end(r: JobRecord) -> JobRecord:
            r.check_end(request.outcome, request.run)
            return r.finish(request.outcome, request.segments, now=now)

        change = await self._records.change(record.job, end)
        await self._owe(change.after)
        return api.Finished(change.after.state, change.after.expires)

    async def sign_gets(self, _user: str, request: api.SignGets) -> api.SignedUrls:
        record = await self._held(request.job, request.token)
        bounds.check(1 <= len(request.segments) <= api.MAX_GETS, "too many segments, or none")
        if record.settled:
            raise not_found()  # its data is gone
        for segment in request.segments:
            if not 0 <= segment < bounds.MAX_SEGMENT or not record.has(segment):
                raise conflict("a segment is not stored yet")
        signed = await self._store.sign_gets(record.folder, request.segments)
        if self._observer.counts_bytes:
            self._observer.signed("down", await self._bytes_of(record.job, request.segments))
        return api.SignedUrls(signed)

    async def receipt(self, _user: str, request: api.GiveReceipt) -> api.Done:
        record = await self._held(request.job, request.token)
        bounds.check_receipt(request)
        now = self._clock()
        change = await self._records.change(
            record.job, lambda r: r.receive(request.receiver, request.sealed, now=now)
        )
        await self._owe(change.after)
        return api.Done(change.after.state)

    async def status(self, user: str, request: api.Status) -> api.JobStatus:
        record = await self._owned(user, request.job)
        if request.run:
            bounds.check_run(request.run)
            record = (await self._records.change(record.job, lambda r: r.taken_over(request.run))).after
        receipts = [sealed for sealed in record.receipts.values() if sealed]
        complete = [*range(record.segments), *record.ahead]
        stored = None
        if request.full:
            refs = await self._records.refs(record.job, 0, record.segments)
            stored = sum(ref.size for ref in refs)
        return api.JobStatus(
            record.state,
            complete,
            record.expires,
            receipts,
            record.uploads,
            size=record.size,
            created=record.created,
            expire=record.expire,
            fetches=record.fetches,
            receivers=list(record.receipts),
            stored=stored,
            cancelled=record.cancelled,
        )

    async def info(self, _user: str, _request: api.Info) -> api.BrokerInfo:
        await self._store.check()
        return api.BrokerInfo(self._version, self._clock(), self._store.skew, self._store.bucket)

    async def _bytes_of(self, job: str, segments: list[int]) -> int:
        """How long these are together, as far as is on record."""
        reads = [self._records.refs(job, start, end) for start, end in _runs(segments)]
        with contextlib.suppress(XferError):
            return sum(ref.size for refs in await asyncio.gather(*reads) for ref in refs)
        return 0

    async def _take_back(self, record: JobRecord, segment: int, upload: str) -> None:
        """Drop an upload that the record does not take; it is owed if the store is away. Of a job that is gone
        nobody can owe it: the sweeper finds it by its age."""
        try:
            await self._store.abort(record.folder, segment, upload)
        except XferError as error:
            log.warning("job %s: an upload could not be dropped yet: %s", record.job, error.what)
            with contextlib.suppress(Refusal):
                await self._records.change(record.job, lambda r: r.owe({upload: segment}))

    async def _owned(self, user: str, job: str) -> JobRecord:
        bounds.check_job(job)
        return admit_owner(await self._records.read(job), user, self._clock())

    async def _held(self, job: str, token: str) -> JobRecord:
        bounds.check_job(job)
        bounds.check_token(token)
        return admit_holder(await self._records.read(job), token, self._clock())


def _of(run: str, record: JobRecord) -> JobRecord:
    """The record, if no other run goes on with its job. Raises Refusal."""
    record.check_run(run)
    return record


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The same numbers as ranges, (first, last + 1)."""
    runs: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs
