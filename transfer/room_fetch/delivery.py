"""An item's way to this consumer: held at the room → fetched → remembered by the ledger → the room is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence

from transfer import rooms_api
from transfer.errors import (
    BrokerAbsent,
    DiskFull,
    Interrupted,
    JobGone,
    Locked,
    OutOfTime,
    Temporary,
    XferError,
)
from transfer.events import Event, Listener, Summary
from transfer.ledger import JobRow, Ledger
from transfer.received import owed
from transfer.room import Posted
from transfer.room_fetch.consumer import Consumer
from transfer.room_fetch.tally import Tally
from transfer.tasks import ended
from transfer.ticket import Ticket

RENEW = rooms_api.LEASE / 4
"""Seconds between two times that we say we still have an item."""
AT_ONCE = rooms_api.MAX_MARKED


class Deliveries:
    """own: the consumer in the ledger. place: where items go, unless they were begun elsewhere; empty for a stream.

    fetch: fetches what a ticket stands for to such a place. give: gives the receipt that is owed for what that ticket
    brought to that place, if it can be given; as `fetch` again does.
    """

    def __init__(
        self,
        consumer: Consumer,
        ledger: Ledger,
        own: bytes,
        place: bytes,
        tally: Tally,
        listener: Listener,
        fetch: Callable[[Ticket, bytes, Listener], Awaitable[Summary]],
        give: Callable[[Ticket, bytes], Awaitable[None]],
    ) -> None:
        self._consumer, self._ledger, self._own, self._place = consumer, ledger, own, place
        self._tally, self._listener = tally, listener
        self._fetch, self._give = fetch, give

    async def settle(self) -> None:
        """Give the receipts, and tell the room, of what an earlier run had and could not say. Raises Temporary."""
        arrived = [each for each in self._ledger.deliveries(self._own).values() if each.had]
        for place in {each.place for each in arrived}:
            for row in self._owing(place):
                with contextlib.suppress(JobGone, Locked):  # nobody waits for it; another run gives it
                    await self._give(Ticket(row.job, row.secret), place)
                    self._check_given(place, row.job)
        had = [each.number for each in arrived]
        for start in range(0, len(had), AT_ONCE):
            await self._acknowledge(had[start : start + AT_ONCE])

    def begun(self, number: int) -> bool:
        """By this run or an earlier one, and the room was not told of an end."""
        return number in self._ledger.deliveries(self._own)

    async def miss(self, posted: Posted, *, quietly: bool) -> None:
        """It expired, or was cancelled, before this consumer had it."""
        self._tally.gone(posted, quietly=quietly)
        await self._acknowledge([posted.number])

    async def take(self, posted: Posted) -> None:
        """Fetch it, unless another has it. Raises what the next run goes on after: Temporary (but DiskFull), OutOfTime,
        Interrupted."""
        if not await self._consumer.take(posted.number):
            self._tally.busy(posted)
            return
        if posted.wrong is not None:
            await self._fail(posted, posted.wrong)
            return
        self._tally.begun(posted)
        keeping = asyncio.create_task(self._keep(posted.number))
        try:
            summary, place = await self._fetched(posted)
        except JobGone:
            await self.miss(posted, quietly=False)
            return
        except DiskFull as error:  # a smaller one may fit, and another host may have more room
            await self._put_back(posted, error)
            return
        except (Temporary, OutOfTime, Interrupted, asyncio.CancelledError):
            raise  # the next run goes on with it, and holds it still
        except Locked as error:
            if not self._consumer.work:
                await self._fail(posted, error)
            else:  # a run beside us has it, and hung for so long that it lost it: no fault of the item
                self._tally.busy(posted)
                await self._consumer.drop(posted.number)
            return
        except XferError as error:
            await self._fail(posted, error)
            return
        finally:
            await ended(keeping)
        self._tally.came(posted, summary.bytes)
        self._check_given(place, posted.job)
        await self._acknowledge([posted.number])

    async def _fetched(self, posted: Posted) -> tuple[Summary, bytes]:
        """And where it was begun, which is where it goes on, unless it is a stream now: a receipt may be owed there."""
        assert posted.item is not None
        begun = self._ledger.deliveries(self._own).get(posted.number)
        if begun and not begun.place:  # as a stream, of which nothing is left
            self._ledger.end_deliveries(self._own, [posted.number])
            begun = None
        self._ledger.begin_delivery(self._own, posted.number, self._place)
        place = begun.place if begun and self._place else self._place
        ticket = Ticket.parse(posted.item.ticket)
        summary = await self._fetch(ticket, place, lambda event: self._heard(posted.number, event))
        return summary, begun.place if begun else place

    def _heard(self, number: int, event: Event) -> None:
        """The summary comes before the job's row goes: who dies in between says it in the next run."""
        if isinstance(event, Summary):
            self._ledger.delivered(self._own, number)
        self._listener(event)

    async def _keep(self, number: int) -> None:
        """Say again and again that we still have it; an outage only means that another may take it, too."""
        while True:
            await asyncio.sleep(RENEW)
            with contextlib.suppress(Temporary):
                await self._consumer.hold(number)

    async def _fail(self, posted: Posted, error: XferError) -> None:
        self._tally.failed(posted, error)
        self._ledger.end_deliveries(self._own, [posted.number])  # the next run may be told of another place
        await self._consumer.failed(posted.number, error.what)

    async def _put_back(self, posted: Posted, error: XferError) -> None:
        """It failed here by no fault of its own."""
        self._tally.failed(posted, error)
        self._ledger.end_deliveries(self._own, [posted.number])
        await self._consumer.drop(posted.number)

    async def _acknowledge(self, numbers: Sequence[int]) -> None:
        await self._consumer.had(numbers)
        self._ledger.end_deliveries(self._own, numbers)

    def _owing(self, place: bytes, job: str | None = None) -> list[JobRow]:
        """Fetches to that place that have ended but for their receipt. place: empty for a stream, which owes none."""
        if not place:
            return []
        rows = self._ledger.select("fetch", key=os.path.abspath(place), job=job)
        return [row for row in rows if owed(self._ledger.state(row)) is not None]

    def _check_given(self, place: bytes, job: str) -> None:
        if self._owing(place, job):
            raise BrokerAbsent(
                "the files are complete, but their receipt could not be given",
                hint="run it again: it gives the receipt, and goes on",
            )
