"""Fetching from a room, as a story: what this consumer has not had → take it → fetch it → remember → tell the room.

An item counts as had when its files are verified, synced and under their final names. The ledger knows so before the job's own
row goes, and the room after that: whatever is killed in between, the next run tells the room and fetches nothing twice. A
receipt that could not be given is given before the room is told, by the next run if need be: the sender waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from transfer import config, rooms_api
from transfer.broker_client import Patience, connected
from transfer.bwlimit import Rate, limit_of
from transfer.codec import digest_of
from transfer.errors import (
    BrokerAbsent,
    Interrupted,
    JobGone,
    Locked,
    NothingToDo,
    OutOfTime,
    PartialDelivery,
    Temporary,
    XferError,
)
from transfer.events import Event, ItemBegun, ItemFailed, Listener, RoomSummary, Summary, Waiting, ignore
from transfer.fetch import fetch
from transfer.ledger import JobRow, Ledger
from transfer.lock import FileLock
from transfer.paths import printable
from transfer.received import owed
from transfer.room import Member, Posted, servers_of
from transfer.room_names import Room, find
from transfer.sink import absolute
from transfer.tasks import ended
from transfer.ticket import Ticket

Which = Literal["all", "latest"]
RENEW = rooms_api.LEASE / 4
"""Seconds between two times that we say we still have an item."""
RESCAN, SELDOM = 60.0, 3600.0
"""Seconds after which one that follows looks again at what it did not get, or what failed: doubled each time, up to the
second."""
SLOTS = 64
"""Runs on this host that may share a consumer's work."""
AT_ONCE = rooms_api.MAX_MARKED


async def fetch_room(
    room: Room | str,
    output: Path | str | BinaryIO = "",
    *,
    consumer: str,
    work: bool = False,
    which: Which = "all",
    match: Sequence[str] = (),
    follow: bool = False,
    expect: bool = False,
    context: str | None = None,
    overwrite: bool = False,
    rename: bool = False,
    unsafe_links: bool = False,
    patience: float = 600.0,
    concurrency: int | None = None,
    bwlimit: Rate | None = None,
    interfaces: Sequence[str] = (),
    on_event: Listener = ignore,
) -> RoomSummary:
    """Fetch what this consumer has not had yet, the oldest first; each item exactly once for this name and state folder.

    Args:
        room: its name here, or its ticket.
        output: a folder, made if it is not there, or an open binary stream for the bytes of one item's one file.
        consumer: its name among the user's own, or, with `work`, among those that all members share.
        work: each item goes to one of those who share it; one that fails is tried again, by any of them, until the room
            gives it up.
        which: `latest` takes the newest item only, and leaves the others where they are.
        match: only items of which a name at the top matches one of these globs; others are left where they are.
        follow: go on waiting for more, until cancelled.
        expect: raise NothingToDo if there was nothing.
        others: as for `fetch`, for each item.
    Raises:
        XferError: as `fetch` if there was one item; PartialDelivery if others than it were fetched; Locked if another
            run of this host fetches for this consumer; JobGone for a room that is no more.
    """
    room = find(room)
    servers = servers_of(room, context)
    limit = limit_of(bwlimit)
    place = b""
    if isinstance(output, str | os.PathLike):
        place = os.fsencode(os.path.join(absolute(os.fspath(output) or "."), ""))
    own = digest_of(repr((room.ticket.id, servers.user, consumer, work)).encode())
    with (
        _slot(own, work) as slot,
        contextlib.closing(Ledger(config.state_dir() / "ledger.db")) as ledger,
    ):
        waiting = Patience(patience, lambda what, left, on: on_event(Waiting(what=what, left=left, on=on)))
        async with connected(servers, "xfer fetch", waiting) as link:
            member = Member(link.broker, room)

            async def one(posted: Posted, listener: Listener) -> Summary:
                begun = ledger.deliveries(own).get(posted.number)
                where = output if not place else os.fsdecode(begun.place if begun else place)
                ledger.begin_delivery(own, posted.number, place)
                item = posted.item
                assert item is not None
                return await fetch(
                    Ticket.parse(item.ticket),
                    where,
                    context=servers,
                    overwrite=overwrite,
                    rename=rename,
                    unsafe_links=unsafe_links,
                    patience=patience,
                    concurrency=concurrency,
                    bwlimit=limit,
                    interfaces=interfaces,
                    over=link,
                    on_event=listener,
                )

            async def give(ticket: Ticket, where: bytes) -> None:
                await fetch(ticket, os.fsdecode(where), context=servers, patience=patience, over=link)

            run = _Run(member, ledger, own, consumer, f"{ledger.name()}.{slot}", work, on_event, one, give)
            await run.settle()
            await run.take_all(_chooser(match), which, follow)
    return run.end(expect)


@contextlib.contextmanager
def _slot(own: bytes, work: bool) -> Iterator[int]:
    """The number of this run among those of this host that fetch for that consumer. Raises Locked: one alone may."""
    locks = config.state_dir() / "locks"
    for number in range(SLOTS if work else 1):
        try:
            lock = FileLock(
                locks / f"room-{own.hex()[:16]}-{number}.lock", "fetches from this room under this name"
            )
        except Locked:
            continue
        with lock:
            yield number
        return
    raise Locked(
        "another run fetches from this room under this name",
        hint="wait for it to end, or name another with --as",
    )


def _chooser(match: Sequence[str]) -> Callable[[Posted], bool]:
    def chosen(posted: Posted) -> bool:
        names = [os.fsdecode(name) for name in posted.item.names] if posted.item is not None else []
        return not match or any(fnmatch.fnmatchcase(name, glob) for name in names for glob in match)

    return chosen


class _Run:
    """One run of one consumer. own: the consumer in the ledger. holder: this run at the broker, the same for the next one
    on this host, which so has at once what a killed one held. one: fetches an item. give: gives the receipt that is owed
    for what that ticket brought to that place, if it can be given; as `fetch` again does."""

    def __init__(
        self,
        member: Member,
        ledger: Ledger,
        own: bytes,
        consumer: str,
        holder: str,
        work: bool,
        listener: Listener,
        one: Callable[[Posted, Listener], Awaitable[Summary]],
        give: Callable[[Ticket, bytes], Awaitable[None]],
    ) -> None:
        self._member, self._ledger, self._own = member, ledger, own
        self._consumer, self._holder, self._work = consumer, holder, work
        self._listener, self._one, self._give = listener, one, give
        self._began = time.monotonic()
        self._had = self._bytes = self._gone = 0
        self._failures: dict[int, XferError] = {}  # by number; what came later is none
        self._tries: Counter[int] = Counter()
        self._tried: dict[int, float] = {}  # number to when it may be tried again

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

    async def take_all(self, chosen: Callable[[Posted], bool], which: Which, follow: bool) -> None:
        first, newest = not await self._known(), 0
        scanned = -RESCAN
        while True:
            again = (
                time.monotonic() - scanned >= RESCAN
            )  # what was given back or failed lies before the newest
            scanned = time.monotonic() if again else scanned
            newest = max(newest, await self._scan(0 if again else newest, chosen, which, quietly=first))
            if not follow:
                return
            first = False
            async with contextlib.aclosing(self._waiting(newest, rooms_api.MAX_WAIT)) as items:
                async for _ in items:
                    break

    async def _scan(
        self, after: int, chosen: Callable[[Posted], bool], which: Which, *, quietly: bool
    ) -> int:
        """Take what there is after that number. Returns the last one that was looked at. quietly: say nothing of what is gone."""
        latest: Posted | None = None
        async with contextlib.aclosing(self._waiting(after, 0.0)) as items:
            async for posted in items:
                after = posted.number
                if posted.gone and posted.number not in self._ledger.deliveries(self._own):
                    await self._miss(posted, quietly=quietly)
                elif self._tried.get(posted.number, 0.0) > time.monotonic() or not chosen(posted):
                    continue
                elif which == "latest":
                    latest = posted
                else:
                    await self._take(posted)
        if latest is not None:
            await self._take(latest)
        return after

    async def _known(self) -> bool:
        """Whether the room has seen this consumer before: what was gone by then never was for it."""
        user = "" if self._work else self._member.user
        lines = (await self._member.about()).consumers
        return any((line.name, line.user) == (self._consumer, user) for line in lines)

    def _waiting(self, after: int, wait: float) -> AsyncGenerator[Posted, None]:
        return self._member.items(self._consumer, work=self._work, after=after, wait=wait)

    async def _miss(self, posted: Posted, *, quietly: bool) -> None:
        """It expired, or was cancelled, before this consumer had it."""
        if not quietly:
            self._gone += 1
            label = posted.item.label if posted.item else f"item {posted.number}"
            gone = JobGone("it expired, or was cancelled, before it was fetched from here")
            self._tell_failure(posted, label, gone)
        await self._acknowledge([posted.number])

    async def _take(self, posted: Posted) -> None:
        pause = min(SELDOM, RESCAN * 2 ** self._tries[posted.number])
        self._tries[posted.number] += 1
        self._tried[posted.number] = time.monotonic() + pause
        marked = await self._mark(take=[posted.number])
        if posted.number not in marked.held:
            return  # somebody else was quicker
        if posted.wrong is not None:
            await self._fail(posted, posted.wrong)
            return
        assert posted.item is not None
        self._listener(
            ItemBegun(
                number=posted.number,
                job=posted.job,
                label=printable(posted.item.label),
                files=posted.item.files,
                bytes=posted.item.size,
                user=posted.user,
                host=printable(posted.item.host),
                sent=posted.item.sent,
            )
        )
        keeping = asyncio.create_task(self._keep(posted.number))
        try:
            summary = await self._one(posted, lambda event: self._heard(posted.number, event))
        except JobGone:
            await self._miss(posted, quietly=False)
            self._ledger.end_deliveries(self._own, [posted.number])
            return
        except (Temporary, OutOfTime, Interrupted, asyncio.CancelledError):
            raise  # the next run goes on with it, and holds it still
        except Locked as error:
            if not self._work:
                await self._fail(posted, error)
            else:  # a run beside us has it, and hung for so long that it lost it: no fault of the item
                await self._mark(drop=[posted.number])
            return
        except XferError as error:
            await self._fail(posted, error)
            return
        finally:
            await ended(keeping)
        self._failures.pop(posted.number, None)
        self._had, self._bytes = self._had + 1, self._bytes + summary.bytes
        delivery = self._ledger.deliveries(self._own).get(posted.number)
        self._check_given(delivery.place if delivery else b"", posted.job)
        await self._acknowledge([posted.number])

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
                await self._mark(hold=[number])

    async def _fail(self, posted: Posted, error: XferError) -> None:
        label = posted.item.label if posted.item else f"item {posted.number}"
        self._failures[posted.number] = error
        self._tell_failure(posted, label, error)
        self._ledger.end_deliveries(self._own, [posted.number])  # the next run may be told of another place
        await self._mark(failed={posted.number: error.what})

    def _tell_failure(self, posted: Posted, label: str, error: XferError) -> None:
        self._listener(
            ItemFailed(
                number=posted.number,
                job=posted.job,
                label=printable(label),
                code=error.exit_code,
                message=error.what,
                next=error.next_step,
            )
        )

    async def _acknowledge(self, numbers: Sequence[int]) -> None:
        await self._mark(had=numbers)
        self._ledger.end_deliveries(self._own, numbers)

    async def _mark(self, **what: object) -> rooms_api.RoomMarked:
        return await self._member.mark(self._consumer, self._holder, work=self._work, **what)  # type: ignore[arg-type]

    def end(self, expect: bool) -> RoomSummary:
        """Raises what the run ends with, if not well."""
        summary = RoomSummary(
            items=self._had,
            bytes=self._bytes,
            failed=len(self._failures),
            gone=self._gone,
            seconds=round(time.monotonic() - self._began, 3),
        )
        self._listener(summary)
        missed = len(self._failures) + self._gone
        if missed == 1 and not self._had and self._failures:
            raise next(iter(self._failures.values()))
        if missed:
            raise PartialDelivery(
                f"{missed} of {missed + self._had} items could not be fetched, {self._gone} of them because they expired"
                if self._gone
                else f"{missed} of {missed + self._had} items could not be fetched"
            )
        if expect and not self._had:
            raise NothingToDo("there is nothing new in the room")
        return summary
