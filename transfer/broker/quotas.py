"""What users may use: reserved before it is used, settled when it is known, lifted and lowered while brokers run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from nats.aio.client import Client

from transfer.api import ErrorCode
from transfer.broker.account import Follow, Mend, Reserve, Short, Step, slack
from transfer.broker.book import Book, Shelf
from transfer.broker.borrowing import Borrower
from transfer.broker.grouped import Batch, Grouped
from transfer.broker.job import JobRecord, Refusal, admit_owner
from transfer.broker.limits import Limits, Quota
from transfer.broker.records import Records
from transfer.broker.tally import Charge, Tally, of_bytes
from transfer.errors import BusUnreachable, XferError
from transfer.tasks import together

log = logging.getLogger(__name__)

TIDY_EVERY = 1.0
MEND_EVERY = 60.0
ABANDONED_AFTER = 120.0
"""Seconds after which a step that no record has followed is nobody's; a broker gives a request up after
`service.ANSWER_WITHIN`."""
STEP = 64 << 20
"""Bytes by which a job of unknown length grows, where there is room."""
ATTEMPTS = 12
CLOSE_WITHIN = 6.0
"""Seconds that the book may take when the broker leaves; what is left half done is mended by others."""


class Quotas:
    """Raises (any call): BusUnreachable; many calls at once. rules: the quota that is in force now."""

    def __init__(
        self,
        shelf: Shelf,
        records: Records,
        rules: Callable[[], Quota],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._records, self._rules, self._clock, self._shelf = records, rules, clock, shelf
        self.loans = Borrower(shelf, self._total_limits, clock)
        self.book = Book(shelf, records, self.loans, clock)
        self._signing: Grouped[_Sign] = Grouped(self._sign, most=64)

    def _total_limits(self) -> Limits:
        return self._rules().total.limits()

    @classmethod
    async def attach(
        cls, client: Client, records: Records, rules: Callable[[], Quota], replicas: int = 1
    ) -> Quotas:
        return cls(await Shelf.attach(client, replicas), records, rules)

    async def reserve(self, user: str, job: str, size: int | None) -> Charge:
        """For a job that is to begin; its record must bear the charge. Say `confirm` once it does.

        A charge that no record bears is given back after ABANDONED_AFTER. Raises Refusal (over_quota; busy).
        """
        want = of_bytes(size or 0, self._clock(), jobs=1)
        await self.loans.take(want)
        operation = Reserve(job, size or 0, self._rules().of(user))
        charge: Charge = await self.book.do(user, operation, partial(self.loans.done, want))
        return charge

    def confirm(self, user: str, charge: Charge) -> None:
        """The job's record bears it."""
        self.book.followed(user, f"{charge.id}.{charge.step - 1}")

    async def withdraw(self, user: str, job: str, charge: Charge) -> None:
        """No record bears it, nor ever will."""
        await self.book.do(user, Mend(job, f"{charge.id}.{charge.step - 1}"))

    async def sign(self, user: str, job: str, segment: int, upload: str, lengths: Mapping[int, int]) -> None:
        """Parts of an open upload are to be signed, part number to bytes: they are reserved and on record.

        Raises Refusal (over_quota; busy; what `JobRecord.sign` raises).
        """
        await self._signing.ask(f"{user}.{job}", _Sign(segment, upload, lengths))

    async def settle(self, record: JobRecord) -> JobRecord:
        """The book holds for a job what it should, and the record says so. Idempotent. Returns the record then.

        record: as it is, or was lately.
        """
        for _ in range(ATTEMPTS):
            if not record.unsettled:
                return record
            step: Step | None = await self.book.do(
                record.owner, Follow(record.job, self._rules().of(record.owner))
            )
            if step is None:
                found = await self._records.read(record.job)
                if found is None:
                    return record
                record = found
            else:
                record = await self._follow(record.owner, record.job, step)
        raise Refusal(ErrorCode.BUSY, "too many change that job at once", retry_after=1.0)

    async def used(self, user: str) -> Tally:
        """What this user has used, as of now."""
        return (await self.book.read(user)).used.at(self._clock())

    async def users(self) -> list[str]:
        """Who has used anything yet."""
        return await self._shelf.users()

    async def mend(self) -> int:
        """What brokers that died left half done on pages. Returns how many steps."""
        mended = 0
        for user in await self._shelf.users():
            page = await self.book.read(user)
            old = self._clock() - ABANDONED_AFTER
            for key, move in page.moves.items():
                if move.at < old:
                    step: Step | None = await self.book.do(user, Mend(move.job, key))
                    if step is not None:
                        await self._follow(user, move.job, step)
                    mended += 1
        return mended

    async def keep(self) -> None:
        """Tidy, mend and keep the lease, until cancelled."""
        await together(self.loans.keep(), self._keep_tidy())

    async def close(self) -> None:
        """After the last request: leave nothing to others."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.book.tidy()
                await self.book.close()
                await self.loans.close()
        except BusUnreachable as error:
            log.warning("the quota's lease is left to other brokers: %s", error.what)
        except TimeoutError:
            log.warning("the quota's lease is left to other brokers: NATS takes too long to answer")

    async def _keep_tidy(self) -> None:
        mend_at, said = 0.0, ""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            try:
                await self.book.tidy()
                if time.monotonic() >= mend_at:
                    mend_at = time.monotonic() + MEND_EVERY
                    if count := await self.mend():
                        log.info("mended %d steps of the quota's book", count)
                said = ""
            except XferError as error:
                if error.what != said:
                    log.warning("the quota's book: %s", error.what)
                said = error.what
            except Exception:
                log.exception("the quota's book cannot be tidied")

    async def _sign(self, key: str, batch: Batch[_Sign]) -> None:
        """All of them at once; one by one where that is refused, so that what still fits is not."""
        user, job = key.split(".")
        try:
            await self._sign_all(user, job, [asked.item for asked in batch.items])
        except Refusal:
            if len(batch.items) == 1:
                raise
            for asked in batch.items:
                try:
                    await self._sign_all(user, job, [asked.item])
                except XferError as error:
                    asked.end(error)
        for asked in batch.items:
            asked.end(None)

    async def _sign_all(self, user: str, job: str, items: list[_Sign]) -> None:
        def edit(record: JobRecord) -> JobRecord:
            after = _signed(admit_owner(record, user, self._clock()), items)
            if after.charge.id and (missing := _missing(after)) > 0:
                raise Short(missing)
            return after

        for _ in range(ATTEMPTS):
            try:
                await self._records.change(job, edit)
                return
            except Short:
                record = admit_owner(await self._records.read(job), user, self._clock())
                await self._grow(_signed(record, items))
        raise Refusal(ErrorCode.BUSY, "too many change that job at once", retry_after=1.0)

    async def _grow(self, record: JobRecord) -> None:
        """Reserve what an open job claims: in steps if its length is unknown and there is room, else exactly that."""
        missing = _missing(record)
        if missing <= 0:
            return
        for more in (-(-missing // STEP) * STEP, missing) if record.size is None else (missing,):
            want = of_bytes(more, self._clock())
            operation = Follow(record.job, self._rules().of(record.owner), record.claimed, more)
            try:
                await self.loans.take(want)
                step: Step | None = await self.book.do(
                    record.owner, operation, partial(self.loans.done, want)
                )
            except Short:
                return  # the record has changed
            except Refusal as refused:
                if refused.error.code is ErrorCode.OVER_QUOTA and more > missing:
                    continue
                raise
            if step is not None:
                await self._follow(record.owner, record.job, step)
            return

    async def _follow(self, user: str, job: str, step: Step) -> JobRecord:
        change = await self._records.change(job, lambda r: r.recharged(step.key, step.held))
        self.book.followed(user, step.key)
        return change.after


class _Sign(NamedTuple):
    segment: int
    upload: str
    lengths: Mapping[int, int]


def _signed(record: JobRecord, items: list[_Sign]) -> JobRecord:
    for item in items:
        record = record.sign(item.segment, item.upload, item.lengths)
    return record


def _missing(record: JobRecord) -> int:
    """Bytes that an open job claims beyond what is reserved."""
    return record.claimed - record.charge.held.stored - slack(record.size)
