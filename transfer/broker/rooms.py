"""What members ask of a room: which it is, put an item, list, mark what was done with items, leave, remove (`rooms_api`).

A broker knows sealed text and numbers. Who shows the room's token is a member; who a member is, the bus says.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager

import msgspec
from msgspec.structs import replace

from transfer import rooms_api
from transfer.api import ErrorCode, JobState
from transfer.broker.bounds import check, check_hash, check_sealed, check_token
from transfer.broker.consumer import Page
from transfer.broker.job import JobRecord, Refusal, admit_owner, conflict, proves
from transfer.broker.keys import DAY
from transfer.broker.records import Records
from transfer.broker.room_records import Item, ItemRecord, RoomRecord, RoomRecords
from transfer.broker.table import Later, Table, verb
from transfer.errors import UnsupportedVersion
from transfer.ticket import is_job_id

MAX_ITEMS, MAX_ROOMS, MAX_CONSUMERS = 100_000, 1000, 1000
"""Items and consumers of a room; rooms that a user made. Brokers may overshoot by what they do at the same moment."""
MAX_TRIES = 1000
MAX_CONSUMER_NAME = 64
KEPT_BEYOND = 30 * DAY
"""Seconds that an item is there when its job is not any more, so that its members hear what they missed."""
PAGE_BYTES = 900_000
"""Of sealed items in an answer: it must fit NATS' max_payload, 1 MB."""
SEEN_EVERY = 60.0
"""Seconds until it is noted again that a consumer was seen, if it only looks."""
WAITING = 256
"""Requests of one user that may wait at a time."""
_MAX_NUMBER = 1 << 53
_LOCK = re.compile(r"[0-9a-f]{32}")
_HOLDER = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class RoomVerbs:
    """One method a verb, as in `Verbs`: idempotent. Raises Refusal, or what records raise."""

    def __init__(
        self, rooms: RoomRecords, records: Records, *, clock: Callable[[], float] = time.time
    ) -> None:
        """clock: seconds since 1970."""
        self._rooms, self._records, self._clock = rooms, records, clock
        self._waiting: Counter[str] = Counter()

    def table(self) -> Table:
        return {
            "room_new": verb(rooms_api.RoomNew, self.new),
            "room_about": verb(rooms_api.RoomAbout, self.about),
            "room_put": verb(rooms_api.RoomPut, self.put),
            "room_list": verb(rooms_api.RoomList, self.look),
            "room_mark": verb(rooms_api.RoomMark, self.mark),
            "room_lock": verb(rooms_api.RoomLock, self.lock),
            "room_leave": verb(rooms_api.RoomLeave, self.leave),
            "room_remove": verb(rooms_api.RoomRemove, self.remove),
        }

    async def new(self, user: str, request: rooms_api.RoomNew) -> rooms_api.RoomInfo:
        check(is_job_id(request.room), "that is no room id")
        check_hash(request.token_hash)
        check_sealed(request.name, rooms_api.MAX_NAME, "the room's name is not base64 of at most 512 bytes")
        check(1 <= request.tries <= MAX_TRIES, f"between 1 and {MAX_TRIES:,} tries can be counted")
        there = await self._rooms.room(request.room)
        if there is None:
            if await self._rooms.rooms_of(user) >= MAX_ROOMS:
                raise _over(f"a user makes at most {MAX_ROOMS:,} rooms: remove one first")
            record = RoomRecord(
                room=request.room,
                owner=user,
                token_hash=request.token_hash,
                name=request.name,
                tries=request.tries,
                created=self._clock(),
            )
            await self._rooms.make(record)
            there = await self._rooms.room(request.room)
        if there is None or there.removed or (there.owner, there.token_hash) != (user, request.token_hash):
            raise conflict("that room id is taken")
        return await self._info(there)

    async def about(self, _user: str, request: rooms_api.RoomAbout) -> rooms_api.RoomInfo:
        return await self._info(await self._member(request))

    async def put(self, user: str, request: rooms_api.RoomPut) -> rooms_api.RoomPosted:
        check(is_job_id(request.job), "that is no job id")
        check_sealed(
            request.sealed,
            rooms_api.MAX_ITEM,
            f"the item is not base64 of at most {rooms_api.MAX_ITEM:,} bytes",
        )
        await self._member(request)
        there = await self._rooms.item(request.room, request.job)
        if there is not None and there.record.user == user:
            return rooms_api.RoomPosted(there.number)
        now = self._clock()
        job = admit_owner(await self._records.read(request.job), user, now)
        if job.state is not JobState.STORED:
            raise conflict(f"that job is {job.state.value}: a room takes what is stored, and can be fetched")
        if await self._rooms.roughly(request.room) >= MAX_ITEMS:
            raise _over(f"the room is full: {MAX_ITEMS:,} items are there, and go as they expire")
        item = ItemRecord(sealed=request.sealed, user=user, posted=now, expires=job.expires)
        number = await self._rooms.put(request.room, request.job, item, job.expires - now + KEPT_BEYOND)
        if number is None:  # a copy of this request was quicker
            there = await self._rooms.item(request.room, request.job)
            if there is None:
                raise _no_room()
            number = there.number
        return rooms_api.RoomPosted(number)

    async def look(self, user: str, request: rooms_api.RoomList) -> rooms_api.RoomPage | Later:
        check(0 <= request.after <= _MAX_NUMBER, "the number is out of bounds")
        check(0 <= request.wait <= rooms_api.MAX_WAIT, f"the wait is longer than {rooms_api.MAX_WAIT:.0f} s")
        if request.consumer:
            _check_consumer(request.consumer)
        await self._member(request)
        if not request.wait:
            return await self._page(user, request)
        async with AsyncExitStack() as listening:
            listening.enter_context(self._one_that_waits(user))
            put = await listening.enter_async_context(self._rooms.heard(request.room))
            page = await self._page(user, request)
            if page.items:
                return page
            kept = listening.pop_all()
        return Later(_waiting(kept, put, request.wait), lambda: self._again(user, request))

    async def mark(self, user: str, request: rooms_api.RoomMark) -> rooms_api.RoomMarked:
        _check_mark(request)
        record = await self._member(request)
        now = self._clock()
        fresh = _fresh(user, request.consumer, request.work)
        key = _key(fresh)
        if (await self._rooms.consumer(request.room, key))[0] is None:
            await self._check_consumers(request.room)
        short = replace(request, failed={n: _shortened(reason) for n, reason in request.failed.items()})
        page = await self._rooms.change(
            request.room, key, lambda page: (page or fresh).marked(short, now=now, tries=record.tries)
        )
        held = page.holds(request.holder, now)
        return rooms_api.RoomMarked(list(held), min(held.values(), default=0.0))

    async def lock(self, _user: str, request: rooms_api.RoomLock) -> rooms_api.RoomLocked:
        check(_LOCK.fullmatch(request.name) is not None, "the lock's name is not 32 hex digits")
        check(_HOLDER.fullmatch(request.holder) is not None, "that is no holder")
        check(0 <= request.life <= rooms_api.MAX_LIFE, f"a lock lives for up to {rooms_api.MAX_LIFE:.0f} s")
        await self._member(request)
        held = await self._rooms.lock(request.room, request.name, request.holder, request.life)
        return rooms_api.RoomLocked(held)

    async def leave(self, user: str, request: rooms_api.RoomLeave) -> rooms_api.RoomDone:
        _check_consumer(request.consumer)
        await self._member(request)
        await self._rooms.forget(request.room, _key(_fresh(user, request.consumer, work=False)))
        return rooms_api.RoomDone()

    async def remove(self, user: str, request: rooms_api.RoomRemove) -> rooms_api.RoomDone:
        record = await self._proven(request)
        if record.owner != user:
            if record.removed:
                raise _no_room()
            raise Refusal(ErrorCode.NOT_ALLOWED, "only who made the room may remove it")
        await self._rooms.remove(record)
        return rooms_api.RoomDone()

    async def _proven(self, request: rooms_api.RoomRequest) -> RoomRecord:
        """The room, if it is or was this one's; it may have been removed since."""
        check(is_job_id(request.room), "that is no room id")
        check_token(request.token)
        record = await self._rooms.room(request.room)
        if not proves(request.token, None if record is None else record.token_hash) or record is None:
            raise _no_room()
        return record

    async def _member(self, request: rooms_api.RoomRequest) -> RoomRecord:
        record = await self._proven(request)
        if record.removed:
            raise _no_room()
        return record

    async def _info(self, record: RoomRecord) -> rooms_api.RoomInfo:
        pages = await self._rooms.consumers(record.room)
        floors = sorted({page.floor for page in pages})
        items, *above = await asyncio.gather(
            self._rooms.count(record.room),
            *(self._rooms.count(record.room, floor + 1) for floor in floors),
        )
        left = dict(zip(floors, above, strict=True))
        now = self._clock()
        consumers = [
            rooms_api.ConsumerLine(
                name=page.name,
                user=page.user,
                left=max(0, left[page.floor] - len(page.had)),
                held=[n for n in sorted(page.held) if page.busy(n, now)],
                given_up=page.given_up,
                seen=page.seen,
            )
            for page in sorted(pages, key=lambda page: (page.user, page.name))
        ]
        info = rooms_api.RoomInfo(
            room=record.room,
            owner=record.owner,
            name=record.name,
            created=record.created,
            tries=record.tries,
            items=items,
            consumers=consumers,
        )
        if len(msgspec.json.encode(info)) > PAGE_BYTES:  # rather without reasons than not at all
            brief = [replace(line, given_up=dict.fromkeys(line.given_up, "")) for line in consumers]
            info = replace(info, consumers=brief)
        return info

    async def _again(self, user: str, request: rooms_api.RoomList) -> rooms_api.RoomPage:
        await self._member(request)
        return await self._page(user, request)

    async def _page(self, user: str, request: rooms_api.RoomList) -> rooms_api.RoomPage:
        room, page, revision = request.room, None, 0
        fresh = _fresh(user, request.consumer, request.work)
        if request.consumer:
            page, revision = await self._rooms.consumer(room, _key(fresh))
            if page is None:
                await self._check_consumers(room)
        consumer = page or fresh
        looked, items, more = await self._offered(room, consumer, request.after)
        if request.consumer:
            await self._note(room, page, replace(consumer, seen=self._clock()), revision, request, looked)
        shown = [self._shown(item, consumer) for item in items]
        last = looked[-1] if looked else max(request.after, consumer.floor)
        return rooms_api.RoomPage(await asyncio.gather(*shown), last, more)

    async def _offered(self, room: str, consumer: Page, after: int) -> tuple[list[int], list[Item], bool]:
        """The numbers there are, the items among them that are offered, and whether there are more: as much as fits."""
        looked: list[int] = []
        found: list[Item] = []
        size, start = 0, max(after, consumer.floor) + 1
        if await self._rooms.first(room, start) is None:
            return looked, found, False
        async with aclosing(self._rooms.items(room, start)) as items:
            async for item in items:
                if consumer.offers(item.number):
                    size += len(item.record.sealed)
                    if len(found) == rooms_api.ROOM_PAGE or size > PAGE_BYTES:
                        return looked, found, True
                    found.append(item)
                looked.append(item.number)
        return looked, found, False

    async def _note(
        self,
        room: str,
        before: Page | None,
        consumer: Page,
        revision: int,
        request: rooms_api.RoomList,
        looked: list[int],
    ) -> None:
        """What was seen of the room may move the floor; that it was looked at all is noted now and then."""
        if request.after <= consumer.floor and looked:
            consumer = consumer.settled(looked, looked[-1])
        seen = before is None or consumer.seen - before.seen >= SEEN_EVERY
        if before is None or seen or replace(consumer, seen=before.seen) != before:
            await self._rooms.write(room, _key(consumer), consumer, revision)  # if not now, then next time

    async def _shown(self, item: Item, consumer: Page) -> rooms_api.RoomItem:
        number, job, kept = item
        now = self._clock()
        expires, gone = kept.expires, kept.expires <= now
        with contextlib.suppress(
            UnsupportedVersion
        ):  # a newer broker's: what the item says is as good as we know
            record = await self._records.read(job)
            gone = _is_gone(record, now)
            expires = kept.expires if record is None else record.expires
        return rooms_api.RoomItem(
            number=number,
            job=job,
            sealed=kept.sealed,
            user=kept.user,
            posted=kept.posted,
            expires=expires,
            gone=gone,
            busy=consumer.busy(number, now),
            failed=consumer.failed.get(number, 0),
        )

    async def _check_consumers(self, room: str) -> None:
        if len(await self._rooms.consumers(room)) >= MAX_CONSUMERS:
            raise _over(f"a room has at most {MAX_CONSUMERS} consumers: one of them must leave first")

    @contextmanager
    def _one_that_waits(self, user: str) -> Iterator[None]:
        if self._waiting[user] >= WAITING:
            raise Refusal(
                ErrorCode.BUSY, "too many of this user wait for rooms", retry_after=rooms_api.MAX_WAIT
            )
        self._waiting[user] += 1
        try:
            yield
        finally:
            self._waiting[user] -= 1
            if not self._waiting[user]:
                del self._waiting[user]


def _waiting(
    listening: AsyncExitStack, put: asyncio.Event, seconds: float
) -> Callable[[asyncio.Event], Awaitable[None]]:
    """Until there is something, the time is up, or we leave; then nobody listens any more."""

    async def wait(leaving: asyncio.Event) -> None:
        events = [asyncio.ensure_future(event.wait()) for event in (put, leaving)]
        async with listening:
            try:
                await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for event in events:
                    event.cancel()

    return wait


def _is_gone(record: JobRecord | None, now: float) -> bool:
    return record is None or record.settled or record.expired(now)


def _fresh(user: str, consumer: str, work: bool) -> Page:
    return Page(name=consumer, user="" if work else user)


def _key(consumer: Page) -> str:
    """A name may hold what a key must not. No user is called ""."""
    return hashlib.sha256(f"{consumer.user}/{consumer.name}".encode()).hexdigest()[:32]


def _check_consumer(name: str) -> None:
    fits = 1 <= len(name) <= MAX_CONSUMER_NAME and name.isprintable()
    check(fits, f"a consumer's name has 1 to {MAX_CONSUMER_NAME} printable characters")


def _check_mark(request: rooms_api.RoomMark) -> None:
    _check_consumer(request.consumer)
    check(_HOLDER.fullmatch(request.holder) is not None, "the holder is none")
    named = [*request.had, *request.drop, *request.failed, *request.hold, *request.take, *request.again]
    check(len(named) <= rooms_api.MAX_MARKED, f"at most {rooms_api.MAX_MARKED} items can be marked at once")
    check(all(1 <= number <= _MAX_NUMBER for number in named), "an item's number is out of bounds")
    ends = [*request.had, *request.drop, *request.failed, *{*request.hold, *request.take, *request.again}]
    check(len(ends) == len(set(ends)), "an item is marked in two ways that do not go together")


def _shortened(reason: str) -> str:
    return "".join(c if c.isprintable() else " " for c in reason[: rooms_api.MAX_REASON])


def _no_room() -> Refusal:
    """One answer for a wrong token, a room that never was and one that was removed."""
    return Refusal(ErrorCode.NOT_FOUND, "there is no such room, or it was removed")


def _over(message: str) -> Refusal:
    return Refusal(ErrorCode.OVER_QUOTA, message)
