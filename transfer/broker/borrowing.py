"""What is for all users together, lent to brokers in blocks, so that no request waits for a key that all brokers write.

The key `total` says how much each broker was lent. On each user's page stands what each broker has put there
(`account.Share`), so that what a broker took to its grave can be told from what it used. A broker that runs out borrows more;
where nothing is left it calls, and the others hand in what they do not use.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec

from transfer.api import ErrorCode
from transfer.broker.account import Account, exceeded, used_up
from transfer.broker.book import PAGE, TOTAL, Shelf
from transfer.broker.job import Refusal
from transfer.broker.limits import Limits
from transfer.broker.loans import Loan, Total
from transfer.broker.tally import Tally, covers, fresh, most, of_counts
from transfer.errors import BusUnreachable

log = logging.getLogger(__name__)

LOOK_EVERY = 0.25
"""Seconds between two looks at the total, where there are limits on it."""
RENEW_EVERY = 5.0
SURE_FOR = 30.0
"""Seconds after its last renewal for which a broker may write; less than LIFE."""
LIFE = 60.0
"""Seconds that a broker's lease may stand still before others take it for dead."""
CALL_WITHIN = 4.0
"""Seconds that other brokers have to hand in what they do not use; less than `service.ANSWER_WITHIN`."""
SHARES = 8
"""A block is so small a part of what is left, divided by the brokers."""
GONE = 64
"""Names of dead brokers that are remembered."""


class _Full(NamedTuple):
    """limit: which one has no room (its place in `limits.LIMITED`)."""

    limit: int


class _Refused(NamedTuple):
    """What needs as much as `least` is refused without a look until then (monotonic). limit: None: others hold the rest."""

    limit: int | None
    least: Tally
    until: float


class Borrower:
    """This broker's block. limits: on the total, as they are now. clock: seconds since 1970.

    Implements `book.Lender`.
    """

    def __init__(
        self, shelf: Shelf, limits: Callable[[], Limits], clock: Callable[[], float] = time.time
    ) -> None:
        self._shelf, self._limits, self._clock = shelf, limits, clock
        self._reset()
        self.gone: frozenset[str] = frozenset()
        self._borrowing, self._changing = asyncio.Lock(), asyncio.Lock()
        self._seen: dict[str, tuple[int, float]] = {}
        self._refused: _Refused | None = None
        self._limited_by = limits().counts

    def _reset(self) -> None:
        self.name = secrets.token_hex(4)
        self._lent, self._used, self._coming = Tally(), Tally(), Tally()
        self._beat, self._answered, self._renewed = 0, 0, -SURE_FOR

    # --- what the book asks

    async def valid(self) -> None:
        """Returns while, or as soon as, this broker may write."""
        while time.monotonic() - self._renewed > SURE_FOR:
            await self._renew()

    def counted(self, out: Tally, into: Tally) -> None:
        """This was taken off a page, and put on it."""
        self._used = self._used.minus(out).plus(into)

    # --- what a reservation asks

    async def take(self, more: Tally) -> None:
        """Set aside what is about to be put on a page; say `done` when it is there, or is not to come.

        Raises Refusal (over_quota; busy), BusUnreachable.
        """
        if self._limits().counts != self._limited_by:  # a block may be more than there is by now
            self._refused = None
            await self._renew()
        while not self._fits(more):
            async with self._borrowing:
                if not self._fits(more):
                    await self._borrow(more)
        self._coming = self._coming.plus(more)

    def done(self, more: Tally) -> None:
        self._coming = self._coming.minus(more)

    def _fits(self, more: Tally) -> bool:
        limits = self._limits().counts
        if limits == (None, None, None, None):
            return True
        now = fresh(self._clock())
        needed = self._needed.plus(more).plus(now).counts
        lent = self._lent.plus(now).counts
        return all(
            limit is None or not asked or need <= have
            for limit, asked, need, have in zip(limits, more.counts, needed, lent, strict=True)
        )

    @property
    def _needed(self) -> Tally:
        return self._used.plus(self._coming)

    async def _borrow(self, more: Tally) -> None:
        """A block that `more` fits into; at the end of what there is, exactly what is missing, or a refusal."""
        refused = self._refused
        if refused is not None and time.monotonic() < refused.until and covers(more, refused.least):
            raise self._refusal(refused, more)
        deadline = time.monotonic() + CALL_WITHIN
        called: int | None = None
        while True:
            found: list[_Full | int] = []
            await self._change(partial(self._enlarged, more=more, called=called, found=found))
            if not found:
                return
            outcome = found[0]
            if isinstance(outcome, _Full):
                self._refused = _Refused(outcome.limit, more, time.monotonic() + LOOK_EVERY)
                raise self._refusal(self._refused, more)
            called = outcome
            if time.monotonic() > deadline:
                self._refused = _Refused(None, more, time.monotonic() + 1.0)
                raise self._refusal(self._refused, more)
            await asyncio.sleep(LOOK_EVERY / 4)

    def _refusal(self, refused: _Refused, more: Tally) -> Refusal:
        """Of a request for that much; what was remembered may be another user's."""
        if refused.limit is None:
            return Refusal(ErrorCode.BUSY, "another broker holds what is left of the quota", retry_after=2.0)
        return used_up(refused.limit, more, self._clock())

    def _enlarged(self, total: Total, more: Tally, called: int | None, found: list[_Full | int]) -> Total:
        """With a block for us; or with a call, whose number is found; or what is full is."""
        found.clear()
        now = self._clock()
        mine = self._loan(total)
        missing = [
            max(0, need - have)
            for need, have in zip(
                self._needed.plus(more).at(now).counts, mine.lent.at(now).counts, strict=True
            )
        ]
        lent = total.lent().at(now)
        room = [
            None if limit is None else limit - used
            for limit, used in zip(self._limits().counts, lent.counts, strict=True)
        ]
        asked = more.counts
        if all(r is None or not a or m <= r for r, m, a in zip(room, missing, asked, strict=True)):
            parts = SHARES * len(total.loans or (1,))
            block = [
                m + (0 if r is None or not a else max(0, r - m) // parts)
                for r, m, a in zip(room, missing, asked, strict=True)
            ]
            return self._with(
                total, msgspec.structs.replace(mine, lent=mine.lent.plus(of_counts(block, now)))
            )
        others = [loan.answered for name, loan in total.loans.items() if name != self.name]
        if called is not None and all(answered >= called for answered in others):
            spare = self._needed.at(now)  # what we hold ourselves and do not use is no hindrance
            used = lent.minus(mine.lent).plus(spare)
            full = exceeded(self._limits(), used.at(now).counts, more)
            if full is not None:
                found.append(_Full(full))
                return total
        if called is not None and total.call >= called:
            found.append(called)
            return total
        found.append(total.call + 1)
        return msgspec.structs.replace(total, call=total.call + 1)

    # --- keeping it

    async def keep(self) -> None:
        """Renew the lease, answer calls and bury the dead, until cancelled. Failures are logged, each once."""
        said = ""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                due = time.monotonic() - self._renewed >= RENEW_EVERY
                if due or self._limits().counts != (None, None, None, None):
                    await self._look(due)
                said = ""
            except BusUnreachable as error:
                if error.what != said:
                    log.warning("the quota's lease: %s", error.what)
                said = error.what
            except Exception:
                log.exception("the quota's lease cannot be kept")

    async def close(self) -> None:
        """Hand everything in. Nothing may be taken any more."""

        def folded(total: Total) -> Total:
            if self.name not in total.loans:
                return total
            loans = {name: loan for name, loan in total.loans.items() if name != self.name}
            return msgspec.structs.replace(
                total,
                base=total.base.plus(self._used),
                loans=loans,
                gone=(*total.gone, self.name)[-GONE:],
            )

        await self._change(folded)

    async def total(self) -> Tally:
        """What all users together use: as their pages say."""
        used = Tally()
        for user in await self._shelf.users():
            used = used.plus((await self._page(user)).used)
        return used.at(self._clock())

    async def _look(self, due: bool) -> None:
        body, _ = await self._shelf.read(TOTAL)
        total = _total.decode(body) if body else Total()
        self._bury_seen(total)
        mine = total.loans.get(self.name)
        changed = self._limits().counts != self._limited_by
        if (
            due
            or changed
            or mine is None
            or mine.answered < total.call
            or not covers(mine.lent, self._needed)
        ):
            await self._renew()
        now = time.monotonic()
        for name, (_, since) in list(self._seen.items()):
            if now - since > LIFE:
                await self._bury(name)

    def _bury_seen(self, total: Total) -> None:
        """Note since when, by our own clock, each other broker has stood still."""
        now, before = time.monotonic(), self._seen
        self._seen = {}
        for name, loan in total.loans.items():
            if name != self.name:
                beat, since = before.get(name, (-1, now))
                self._seen[name] = (loan.beat, since if beat == loan.beat else now)

    async def _bury(self, name: str) -> None:
        """What a dead broker used is everybody's; what it had left can be lent again."""
        used = Tally()
        for user in await self._shelf.users():
            share = (await self._page(user)).shares.get(name)
            used = used.plus(share.tally if share is not None else Tally())

        def buried(total: Total) -> Total:
            if name not in total.loans:
                return total
            loans = {other: loan for other, loan in total.loans.items() if other != name}
            return msgspec.structs.replace(
                total, base=total.base.plus(used), loans=loans, gone=(*total.gone, name)[-GONE:]
            )

        await self._change(buried)
        log.info("took back what another broker had been lent of the quota")

    async def _renew(self) -> None:
        """Say that we live, answer calls, and own up to what was used beyond what was lent (where there was no limit).

        Where the limits are others than at the last time, all that is not used is handed in.
        """
        began, limits = time.monotonic(), self._limits().counts

        def renewed(total: Total) -> Total:
            mine = self._loan(total)
            lent = most(mine.lent, self._needed)
            if mine.answered < total.call or limits != self._limited_by:
                lent = self._lent = self._needed  # from now on: nothing may be taken that is on its way back
            return self._with(total, Loan(lent, mine.beat + 1, total.call))

        await self._change(renewed)
        self._renewed, self._limited_by = began, limits

    def _loan(self, total: Total) -> Loan:
        """What we have been lent; begun anew under another name if others took us for dead."""
        if self.name not in total.loans and self._beat:
            log.warning("other brokers took this one for dead")
            coming = self._coming
            self._reset()
            self._coming = coming
        return total.loans.get(self.name, Loan(answered=total.call))

    def _with(self, total: Total, loan: Loan) -> Total:
        return msgspec.structs.replace(total, loans={**total.loans, self.name: loan})

    async def _change(self, edit: Callable[[Total], Total]) -> None:
        """Raises BusUnreachable."""
        async with self._changing:
            await self._swap(edit)

    async def _swap(self, edit: Callable[[Total], Total]) -> None:
        for attempt in range(100):
            body, revision = await self._shelf.read(TOTAL)
            before = _total.decode(body) if body else Total()
            after = edit(before)
            if after == before or await self._shelf.write(TOTAL, msgspec.json.encode(after), revision):
                self.gone = frozenset(after.gone)
                if (mine := after.loans.get(self.name)) is not None:
                    self._lent, self._beat, self._answered = mine.lent, mine.beat + 1, mine.answered
                return
            await asyncio.sleep(0.002 * min(attempt + 1, 20) * (1 + secrets.randbelow(100) / 100))
        raise BusUnreachable("too many brokers change the quota's total at once")

    async def _page(self, user: str) -> Account:
        body, _ = await self._shelf.read(PAGE + user)
        return _account.decode(body) if body else Account()


_total = msgspec.json.Decoder(Total)
_account = msgspec.json.Decoder(Account)
