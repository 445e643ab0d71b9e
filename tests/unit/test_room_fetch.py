"""Fetching from a room: each item exactly once for a consumer and its ledger, wherever a run dies."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from transfer import rooms_api
from transfer.errors import (
    BrokerAbsent,
    DamagedData,
    DestinationExists,
    DiskFull,
    JobGone,
    Locked,
    NothingToDo,
    PartialDelivery,
    StoreUnreachable,
)
from transfer.events import Event, ItemBegun, ItemFailed, Listener, RoomSummary, Summary
from transfer.ledger import Ledger
from transfer.model import FORMAT, ReceiptBody
from transfer.received import FetchAgain, _Kept, _Published
from transfer.room import Item, Posted
from transfer.room_fetch import rounds
from transfer.room_fetch.consumer import Consumer
from transfer.room_fetch.delivery import Deliveries
from transfer.room_fetch.rounds import Rounds, chooser
from transfer.room_fetch.tally import Tally
from transfer.ticket import Ticket

OWN = b"consumer"
_AGAIN = FetchAgain(output=b"/out/", overwrite=False, rename=False, unsafe_links=False, context="")
PUBLISHED = msgspec.msgpack.encode(
    _Kept(_AGAIN, published=_Published(ReceiptBody(FORMAT, "", 5, 1, b""), []))
)
"""The state of a fetch that owes its receipt and nothing else."""


class Killed(BaseException):
    """kill -9, as seen from inside: nothing after it is done."""


class Room:
    """A room of some items, and one consumer of it, as the broker keeps them. kill_at: the step at which the run dies.

    Before and after each request is a step, since a request may have been carried out when the answer is lost.
    """

    user = "ann"

    def __init__(self, count: int) -> None:
        self.tickets = [Ticket.new() for _ in range(count)]
        self.gone: set[int] = set()
        self.garbage: set[int] = set()
        self.had: set[int] = set()
        self.held: dict[int, str] = {}
        self.failed: dict[int, str] = {}
        self.given_up: dict[int, str] = {}
        self.known = True
        self.steps = 0
        self.kill_at: int | None = None

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.kill_at:
            raise Killed

    def posted(self, number: int) -> Posted:
        ticket = self.tickets[number - 1]
        return Posted(
            number=number,
            job=ticket.job,
            item=None if number in self.garbage else Item.of(ticket, [b"file%d" % number], 1, 5),
            wrong=DamagedData("it was altered") if number in self.garbage else None,
            user="bob",
            posted=time.time(),
            expires=time.time() + 60,
            gone=number in self.gone,
            busy=0.0,
            failed=0,
        )

    async def about(self) -> rooms_api.RoomInfo:
        lines = [
            rooms_api.ConsumerLine(name="me", user="ann", left=0, held=[], given_up=self.given_up, seen=0.0)
        ] * self.known
        return rooms_api.RoomInfo(
            room="r", owner="bob", name="", created=0.0, tries=5, items=len(self.tickets), consumers=lines
        )

    async def items(
        self, _consumer: str, *, work: bool, after: int, wait: float
    ) -> AsyncGenerator[Posted, None]:
        for number in range(after + 1, len(self.tickets) + 1):
            if number not in self.had and number not in self.given_up:
                yield self.posted(number)

    async def mark(
        self,
        _consumer: str,
        holder: str,
        *,
        work: bool,
        take: Sequence[int] = (),
        hold: Sequence[int] = (),
        drop: Sequence[int] = (),
        had: Sequence[int] = (),
        failed: dict[int, str] | None = None,
    ) -> rooms_api.RoomMarked:
        self.step()
        for number in take:
            if number not in self.had:
                self.held.setdefault(number, holder)
        self.had.update(had)
        self.failed |= {n: why for n, why in (failed or {}).items() if self.held.get(n) == holder}
        for number in (*had, *drop, *(failed or {})):
            self.held.pop(number, None)
        self.step()
        return rooms_api.RoomMarked(
            sorted(n for n, who in self.held.items() if who == holder), time.time() + 60
        )


class Disk:
    """What `fetch` does: the files are published once, whatever runs again. wrong: what an item fails with."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.published: list[int] = []
        self.owed: set[int] = set()
        self.wrong: dict[int, Exception] = {}
        self.receipts: set[str] = set()
        self.places: list[bytes] = []
        self.ledger: Ledger
        self.mute = False
        """Whether receipts cannot be given."""

    async def give(self, ticket: Ticket, _place: bytes) -> None:
        self.receipt(ticket.job)
        self.end(ticket.job)

    def receipt(self, job: str) -> None:
        self.room.step()
        if not self.mute:
            self.receipts.add(job)
        self.room.step()

    def end(self, job: str) -> None:
        for row in self.ledger.select("fetch", job=job) if not self.mute else ():
            self.ledger.end(row)

    async def one(self, ticket: Ticket, place: bytes, listener: Listener) -> Summary:
        """As `transfer.fetch`: what is published but not yet said is only said."""
        number = self.room.tickets.index(ticket) + 1
        self.places.append(place)
        if number in self.wrong:
            raise self.wrong[number]
        self.room.step()
        if number not in self.owed:
            self.published.append(number)
            self.owed.add(number)
            self.ledger.add("fetch", ticket.job, b"/out", b"secret", state=PUBLISHED)
        self.receipt(ticket.job)
        summary = Summary(
            job=ticket.job,
            outcome="fetched",
            bytes=5,
            wire=5,
            seconds=0.1,
            route="s3",
            files=1,
            chunks=1,
            resent=0,
            digest="",
        )
        listener(summary)
        self.room.step()
        self.owed.discard(number)
        self.end(ticket.job)
        return summary


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


async def run(
    room: Room,
    disk: Disk,
    path: Path,
    *,
    match: Sequence[str] = (),
    latest: bool = False,
    work: bool = False,
    expect: bool = False,
) -> list[Event]:
    events: list[Event] = []
    with closing(Ledger(path)) as ledger:
        disk.ledger = ledger

        consumer, deliveries, tally = parts(room, disk, ledger, events.append, work=work)
        await deliveries.settle()
        await Rounds(consumer, deliveries, tally, chooser(match), "latest" if latest else "all").all(
            follow=False
        )
        tally.end(expect)
    return events


def parts(
    room: Room, disk: Disk, ledger: Ledger, listener: Listener, *, work: bool = False, place: bytes = b"/out/"
) -> tuple[Consumer, Deliveries, Tally]:
    consumer = Consumer(room, "me", "holder", work)  # type: ignore[arg-type]
    tally = Tally(listener)
    return consumer, Deliveries(consumer, ledger, OWN, place, tally, listener, disk.one, disk.give), tally


def steps_of_a_whole_run(tmp: Path) -> int:
    room = Room(3)
    asyncio.run(run(room, Disk(room), tmp / "whole.db"))
    return room.steps


def test_wherever_a_run_is_killed_each_item_is_delivered_once(tmp_path: Path) -> None:
    whole = steps_of_a_whole_run(tmp_path)
    assert whole > 15
    for kill_at in range(1, whole + 1):
        room = Room(3)
        disk = Disk(room)
        path = tmp_path / f"{kill_at}.db"
        room.kill_at = kill_at
        with pytest.raises(Killed):
            asyncio.run(run(room, disk, path))
        asyncio.run(run(room, disk, path))
        assert disk.published == [1, 2, 3], f"killed at step {kill_at}"
        assert room.had == {1, 2, 3}
        assert len(disk.receipts) == 3
        with closing(Ledger(path)) as ledger:
            assert ledger.deliveries(OWN) == {}


@pytest.mark.parametrize("seed", range(5))
def test_killed_again_and_again_it_still_is_delivered_once(path: Path, seed: int) -> None:
    room, chance = Room(5), random.Random(seed)
    disk = Disk(room)
    for _ in range(200):
        room.kill_at = room.steps + chance.randint(1, 9)
        try:
            asyncio.run(run(room, disk, path))
        except Killed:
            continue
        break
    assert disk.published == [1, 2, 3, 4, 5]


def test_what_fails_is_told_and_the_others_come(path: Path) -> None:
    room = Room(3)
    disk = Disk(room)
    disk.wrong[2] = DestinationExists("file2 is there already")
    with pytest.raises(PartialDelivery, match="1 of 3 items"):
        asyncio.run(run(room, disk, path))
    assert disk.published == [1, 3]
    assert room.failed == {2: "file2 is there already"}
    with closing(Ledger(path)) as ledger:
        assert ledger.deliveries(OWN) == {}, "another folder may be named for it"
    del disk.wrong[2]
    asyncio.run(run(room, disk, path))
    assert disk.published == [1, 3, 2]


def test_what_a_run_beside_it_has_does_not_count_against_an_item_that_is_shared(path: Path) -> None:
    for work in (True, False):
        room = Room(2)
        disk = Disk(room)
        disk.wrong[1] = Locked("another run fetches this ticket")
        with contextlib.nullcontext() if work else pytest.raises(PartialDelivery):
            asyncio.run(run(room, disk, path.with_name(str(work)), work=work))
        assert (disk.published, 1 in room.failed, room.held) == ([2], not work, {})


def test_an_item_that_somebody_else_holds_is_left_to_them(path: Path) -> None:
    room = Room(2)
    room.held[1] = "another"
    disk = Disk(room)
    asyncio.run(run(room, disk, path, work=True))
    assert (disk.published, room.held, room.failed) == ([2], {1: "another"}, {})


def test_garbage_counts_against_an_item_as_any_failure_does(path: Path) -> None:
    room = Room(2)
    disk = Disk(room)
    room.garbage = {1}
    with pytest.raises(PartialDelivery, match="1 of 2 items"):
        asyncio.run(run(room, disk, path))
    assert (disk.published, room.failed, room.held) == ([2], {1: "it was altered"}, {})
    with pytest.raises(DamagedData):  # alone it is what the command ends with
        asyncio.run(run(room, disk, path))


def test_a_single_item_ends_as_its_fetch_does(path: Path) -> None:
    room = Room(1)
    disk = Disk(room)
    disk.wrong[1] = DestinationExists("file1 is there already")
    with pytest.raises(DestinationExists):
        asyncio.run(run(room, disk, path))


def test_an_outage_ends_the_run_and_gives_nothing_up(path: Path) -> None:
    room = Room(3)
    disk = Disk(room)
    disk.wrong[2] = StoreUnreachable("the store is away")
    with pytest.raises(StoreUnreachable):
        asyncio.run(run(room, disk, path))
    assert (disk.published, room.failed, set(room.held)) == ([1], {}, {2})
    disk.wrong.clear()
    asyncio.run(run(room, disk, path))
    assert disk.published == [1, 2, 3]


def test_a_disk_that_is_too_full_for_one_takes_the_others_and_gives_that_one_back(path: Path) -> None:
    """What a disk lacks is no fault of the item: to those who share the room it does not count."""
    for work in (False, True):
        room = Room(3)
        disk = Disk(room)
        full = DiskFull("the transfer needs more than there is")
        disk.wrong[2] = full
        here = path.with_name(str(work))
        with pytest.raises(PartialDelivery, match="1 of 3 items"):
            asyncio.run(run(room, disk, here, work=work))
        assert (disk.published, room.failed, room.held, room.had) == ([1, 3], {}, {}, {1, 3})
        with closing(Ledger(here)) as ledger:
            assert ledger.deliveries(OWN) == {}, "a folder on another disk may be named for it"
        room.tickets.append(Ticket.new())
        disk.wrong[4] = full
        with pytest.raises(DiskFull):  # nothing fits: as if there was one item
            asyncio.run(run(room, disk, here, work=work))
        disk.wrong.clear()
        asyncio.run(run(room, disk, here, work=work))
        assert disk.published == [1, 3, 2, 4]


def test_what_expired_is_told_once(path: Path) -> None:
    room = Room(3)
    room.gone = {1}
    disk = Disk(room)
    with pytest.raises(PartialDelivery, match="because they expired"):
        asyncio.run(run(room, disk, path))
    assert disk.published == [2, 3]
    again = asyncio.run(run(room, disk, path))[-1]
    assert isinstance(again, RoomSummary)
    assert (again.items, again.failed, again.gone) == (0, 0, 0)


def test_what_expires_while_it_is_fetched_is_told_too(path: Path) -> None:
    room = Room(2)
    disk = Disk(room)
    disk.wrong[1] = JobGone("this transfer has been delivered")
    with pytest.raises(PartialDelivery):
        asyncio.run(run(room, disk, path))
    assert disk.published == [2]
    assert room.had == {1, 2}


def test_what_was_gone_before_a_consumer_came_is_not_its_loss(path: Path) -> None:
    room = Room(3)
    room.gone, room.known = {1, 2}, False
    disk = Disk(room)
    events = asyncio.run(run(room, disk, path))
    assert disk.published == [3]
    assert not any(isinstance(event, ItemFailed) for event in events)


def test_only_what_matches_is_taken(path: Path) -> None:
    room = Room(12)
    disk = Disk(room)
    asyncio.run(run(room, disk, path, match=["*1"]))
    assert disk.published == [1, 11]
    asyncio.run(run(room, disk, path, match=["file1?", "nothing"]))
    assert disk.published == [1, 11, 10, 12]


def test_the_latest_leaves_the_others(path: Path) -> None:
    room = Room(3)
    disk = Disk(room)
    events = asyncio.run(run(room, disk, path, latest=True))
    assert disk.published == [3]
    assert [event.label for event in events if isinstance(event, ItemBegun)] == ["file3"]
    asyncio.run(run(room, disk, path))
    assert disk.published == [3, 1, 2]


def _all_had(room: Room) -> None:
    room.had = {1, 2}


def _all_gone(room: Room) -> None:
    room.gone = {1, 2}


def _all_gone_before(room: Room) -> None:
    room.gone, room.known = {1, 2}, False


def _all_given_up(room: Room) -> None:
    room.had, room.given_up = {1}, {2: "no"}  # those are offered no more


def _all_busy(room: Room) -> None:
    room.held = {1: "another", 2: "another"}


@pytest.mark.parametrize(
    ("count", "change", "match", "why"),
    [
        (0, _all_had, "*", "nothing lies in the room yet"),
        (2, _all_had, "*", "nothing new in the room: what lies there was had, or is gone (2 items)"),
        (2, _all_gone, "*", "nothing new in the room can be fetched: 2 items expired, or cancelled"),
        (2, _all_gone_before, "*", "nothing new in the room can be fetched: 2 items expired, or cancelled"),
        (2, _all_given_up, "*", "nothing new in the room: what is left was given up (1 item)"),
        (2, _all_busy, "*", "what is new in the room is with others already (2 items)"),
        (2, lambda _room: None, "x*", "nothing new in the room matches: 2 items of other names"),
    ],
)
def test_that_there_was_nothing_is_no_failure_unless_asked_for_and_is_said_with_its_reason(
    path: Path, count: int, change: Callable[[Room], None], match: str, why: str
) -> None:
    for expect in (False, True):
        room = Room(count)
        change(room)
        with pytest.raises(NothingToDo, match=re.escape(why)) if expect else contextlib.nullcontext():
            events = asyncio.run(run(room, Disk(room), path, match=[match], expect=expect))
            assert isinstance(events[-1], RoomSummary)
            assert (events[-1].nothing, events[-1].items) == (why, 0)


async def test_what_was_begun_as_a_stream_goes_to_the_folder_that_the_next_run_says(path: Path) -> None:
    room = Room(1)
    disk = Disk(room)
    disk.wrong[1] = StoreUnreachable("the store is away")
    with closing(Ledger(path)) as ledger:
        disk.ledger = ledger
        for place in (b"", b"/out/", b"/elsewhere/", b""):
            consumer, deliveries, tally = parts(room, disk, ledger, lambda _: None, place=place)
            with pytest.raises(StoreUnreachable):
                await Rounds(consumer, deliveries, tally, chooser([]), "all").all(follow=False)
    assert disk.places == [b"", b"/out/", b"/out/", b""], "and what has begun in a folder goes on there"


def test_what_was_begun_and_is_gone_is_asked_for_once_more(path: Path) -> None:
    """Its last receipt ended the job before the run that gave it could say so: that item was had."""
    room = Room(1)
    disk = Disk(room)
    room.kill_at = 5  # published, and the receipt is given
    with pytest.raises(Killed):
        asyncio.run(run(room, disk, path))
    assert (disk.published, room.had) == ([1], set())
    room.gone = {1}
    events = asyncio.run(run(room, disk, path))
    assert not any(isinstance(event, ItemFailed) for event in events)
    assert room.had == {1}


def test_a_receipt_that_could_not_be_given_is_given_by_the_next_run(path: Path) -> None:
    """Else the sender keeps for good what everybody has."""
    room = Room(2)
    disk = Disk(room)
    disk.mute = True
    for _ in range(2):
        with pytest.raises(BrokerAbsent, match="receipt"):
            asyncio.run(run(room, disk, path))
        assert (disk.published, room.had, disk.receipts) == ([1], set(), set())
    disk.mute = False
    asyncio.run(run(room, disk, path))
    assert (disk.published, room.had) == ([1, 2], {1, 2})
    assert disk.receipts == {ticket.job for ticket in room.tickets}
    with closing(Ledger(path)) as ledger:
        assert ledger.deliveries(OWN) == {}
        assert ledger.select("fetch") == []


async def test_what_keeps_failing_is_tried_ever_less_often_and_counts_no_more_once_it_came(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "RESCAN", 0.01)
    room = Room(1)
    disk = Disk(room)
    disk.wrong[1] = DestinationExists("file1 is there already")
    with closing(Ledger(path)) as ledger:
        disk.ledger = ledger
        consumer, deliveries, tally = parts(room, disk, ledger, lambda _: None)
        this = Rounds(consumer, deliveries, tally, chooser([]), "all")
        began = time.monotonic()
        for tries in (1, 2, 3):
            while this._tries[1] < tries:
                await this.one(0, quietly=True)
        assert time.monotonic() - began >= 0.01 + 0.02
        del disk.wrong[1]
        while not disk.published:
            await this.one(0, quietly=True)
        assert tally.end(expect=True).failed == 0
