"""Rooms in a JetStream KV bucket, changed by compare-and-set, so that any number of brokers may.

`r.<room>` holds a room's record, `u.<user>.<room>` is there for each room that a user made, `i.<room>.<job>` is an item,
whose number is its revision, and `c.<room>.<consumer>` a consumer's page. An item goes by its own life, however many are
left in the room.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace
from nats.aio.client import Client
from nats.js.kv import KV_OP

from transfer.api import ErrorCode
from transfer.broker.consumer import PAGE_VERSION, Page
from transfer.broker.job import Refusal
from transfer.broker.kv import Bucket, pause, reaching
from transfer.errors import UnsupportedVersion

BUCKET = "xfer_rooms"
ROOM_VERSION = 1
ATTEMPTS = 12
CONSUMER_LIFE = 90 * 86_400.0
"""Seconds after which a consumer is forgotten that has said nothing: hosts come and go."""
REMOVED_LIFE = 3600.0
"""Seconds that a room that was removed is known as such, so that whoever asked may ask again."""
COUNTED_FOR, COUNTS = 60.0, 4096
"""Seconds after which the items of a room are counted anew; rooms whose count is remembered."""


class RoomRecord(msgspec.Struct, frozen=True, kw_only=True):
    """name: sealed, base64. tries: of a shared consumer. created: seconds since 1970."""

    v: int = ROOM_VERSION
    room: str
    owner: str
    token_hash: str
    name: str
    tries: int
    created: float
    removed: bool = False


class ItemRecord(msgspec.Struct, frozen=True, kw_only=True):
    """As `rooms_api.RoomItem`; expires: when its job did at the time."""

    v: int = ROOM_VERSION
    sealed: str
    user: str
    posted: float
    expires: float


class Item(NamedTuple):
    number: int
    job: str
    record: ItemRecord


Kept = TypeVar("Kept", RoomRecord, ItemRecord, Page)


class RoomRecords:
    """Raises (any call): BusUnreachable, UnsupportedVersion. Every call may be made many times at once."""

    def __init__(self, kv: Bucket) -> None:
        self._kv = kv
        self._counts: dict[str, tuple[int, float]] = {}

    @classmethod
    async def attach(cls, client: Client, replicas: int = 1) -> RoomRecords:
        """Bind to the bucket; make it on disk, on so many servers, if it is not there. Raises UsageError: no cluster."""
        with reaching("rooms"):
            return cls(
                await Bucket.attach(
                    client, BUCKET, "xfer rooms", replicas, max_msgs_per_subject=1, allow_msg_ttl=True
                )
            )

    async def room(self, room: str) -> RoomRecord | None:
        """One that was removed is there for a while, and says so."""
        with reaching("rooms"):
            entry = await self._kv.get(_room(room))
        return None if entry is None or entry.value is None else _read(entry.value, RoomRecord)

    async def make(self, record: RoomRecord) -> bool:
        """False if there is one of that id."""
        with reaching("rooms"):
            mine = await self._kv.create(_mine(record.owner, record.room), b"")
            if await self._kv.create(_room(record.room), msgspec.json.encode(record)) is not None:
                return True
            if mine is not None:
                await self._kv.erase(_mine(record.owner, record.room))
            return False

    async def rooms_of(self, user: str) -> int:
        """How many that user made."""
        with reaching("rooms"):
            return await self._kv.count(_mine(user, "*"))

    async def remove(self, record: RoomRecord) -> None:
        """Nothing can be put any more, and then all of it goes. Again does what is left to do."""
        with reaching("rooms"):
            entry = await self._kv.get(_room(record.room))
            if entry is not None and entry.value is not None:
                over = msgspec.json.encode(replace(record, removed=True))
                await self._kv.update(_room(record.room), over, entry.revision, REMOVED_LIFE)
            await self._kv.erase(_item(record.room, ">"))
            await self._kv.erase(_consumer(record.room, ">"))
            await self._kv.erase(_lock(record.room, ">"))
            await self._kv.erase(_mine(record.owner, record.room))

    async def lock(self, room: str, name: str, holder: str, life: float) -> bool:
        """Whether the holder has it from now on, for so many seconds by the server's clock; 0: gives it back, if it has it."""
        key, value = _lock(room, name), holder.encode()
        with reaching("rooms"):
            for attempt in range(ATTEMPTS):
                entry = await self._kv.get(key)
                free = entry is None or entry.value is None
                if not free and entry is not None and entry.value != value:
                    return False
                if not life:
                    if free or (entry is not None and await self._kv.delete(key, entry.revision)):
                        return False
                elif (
                    await self._kv.update(key, value, entry.revision if entry is not None else 0, life)
                    is not None
                ):
                    return True
                await pause(attempt)
        return False

    async def item(self, room: str, job: str) -> Item | None:
        with reaching("rooms"):
            entry = await self._kv.get(_item(room, job))
        if entry is None or entry.value is None:
            return None
        return Item(entry.revision, job, _read(entry.value, ItemRecord))

    async def put(self, room: str, job: str, item: ItemRecord, life: float) -> int | None:
        """Its number; None if that job is there already. life: seconds."""
        with reaching("rooms"):
            number = await self._kv.create(_item(room, job), msgspec.json.encode(item), life)
        if number is not None and room in self._counts:
            count, at = self._counts[room]
            self._counts[room] = count + 1, at
        return number

    async def count(self, room: str, start: int = 1) -> int:
        """Items from that number on."""
        with reaching("rooms"):
            return await self._kv.count(_item(room, "*"), start)

    async def roughly(self, room: str) -> int:
        """How many items there are, or were a minute ago."""
        count, at = self._counts.get(room, (0, -COUNTED_FOR))
        if time.monotonic() - at >= COUNTED_FOR:
            if len(self._counts) >= COUNTS:
                self._counts.clear()
            count = await self.count(room)
            self._counts[room] = count, time.monotonic()
        return count

    async def first(self, room: str, start: int) -> int | None:
        """The first number there is from that one on."""
        with reaching("rooms"):
            return await self._kv.first(_item(room, "*"), start)

    async def items(self, room: str, start: int) -> AsyncGenerator[Item, None]:
        """From that number on, the oldest first."""
        with reaching("rooms"):
            async with aclosing(self._kv.newest(_item(room, "*"), start)) as messages:
                async for message in messages:
                    job = message.subject.rsplit(".", 1)[1]
                    yield Item(message.metadata.sequence.stream, job, _read(message.data, ItemRecord))

    @asynccontextmanager
    async def heard(self, room: str) -> AsyncIterator[asyncio.Event]:
        """Set as soon as an item is put there."""
        with reaching("rooms"):
            async with self._kv.heard(_item(room, "*")) as put:
                yield put

    async def consumers(self, room: str) -> list[Page]:
        with reaching("rooms"):
            async with aclosing(self._kv.newest(_consumer(room, "*"))) as messages:
                return [_read(m.data, Page) async for m in messages if KV_OP not in (m.headers or {})]

    async def consumer(self, room: str, key: str) -> tuple[Page | None, int]:
        """A page, and the revision that a change must name."""
        with reaching("rooms"):
            entry = await self._kv.get(_consumer(room, key))
        if entry is None or entry.value is None:
            return None, 0 if entry is None else entry.revision
        return _read(entry.value, Page), entry.revision

    async def write(self, room: str, key: str, page: Page, revision: int) -> bool:
        """False if that revision is not the newest any more. It is kept for CONSUMER_LIFE from now on."""
        body = msgspec.json.encode(page)
        with reaching("rooms"):
            return await self._kv.update(_consumer(room, key), body, revision, CONSUMER_LIFE) is not None

    async def change(self, room: str, key: str, edit: Callable[[Page | None], Page]) -> Page:
        """What `edit` makes of the page; once more when another broker was quicker. Raises Refusal: busy."""
        for attempt in range(ATTEMPTS):
            before, revision = await self.consumer(room, key)
            after = edit(before)
            if after == before or await self.write(room, key, after, revision):
                return after
            await pause(attempt)
        raise Refusal(ErrorCode.BUSY, "too many change that consumer at once", retry_after=1.0)

    async def forget(self, room: str, key: str) -> None:
        with reaching("rooms"):
            await self._kv.erase(_consumer(room, key))


def _read(value: bytes, kind: type[Kept]) -> Kept:
    try:
        record = msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError:
        raise UnsupportedVersion("a room was written by another version of the broker") from None
    if record.v != (PAGE_VERSION if kind is Page else ROOM_VERSION):
        raise UnsupportedVersion("a room was written by a newer broker")
    return record


def _room(room: str) -> str:
    return f"r.{room}"


def _mine(user: str, room: str) -> str:
    return f"u.{user}.{room}"


def _item(room: str, job: str) -> str:
    return f"i.{room}.{job}"


def _consumer(room: str, key: str) -> str:
    return f"c.{room}.{key}"


def _lock(room: str, name: str) -> str:
    return f"l.{room}.{name}"
