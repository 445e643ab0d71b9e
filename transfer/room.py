"""A room, as a member sees it: its items opened, a ticket posted, what a consumer does with it.

NATS and the broker carry items sealed with keys of the room's ticket: neither names nor tickets are theirs to read.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import platform
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated

import msgspec

from transfer import config, rooms_api
from transfer.broker_client import FIRST_CONTACT, BrokerClient, Patience, connected
from transfer.errors import DamagedData, JobGone, RoomGone, UnsupportedVersion, XferError
from transfer.room_lock import held
from transfer.room_names import Room
from transfer.seal import OVERHEAD, Purpose, Sealer
from transfer.ticket import RoomTicket, Ticket

ITEM_VERSION = 1
_ROOM_FOR_NAMES = rooms_api.MAX_ITEM - OVERHEAD - 512
"""Bytes of names in an item; the rest is for all else."""


Count = Annotated[int, msgspec.Meta(ge=0)]


class Item(msgspec.Struct, frozen=True, array_like=True):
    """What a sender posts. ticket: as text. names: of what was sent at the top, as many as fit; they need not be text.

    more: how many names were left out. files, size (bytes): of the whole; size is None where it was unknown. host: the sender's.
    sent: seconds since 1970, by its clock.
    """

    v: int
    ticket: str
    names: list[bytes]
    more: Count
    files: Count
    size: Count | None
    host: str
    sent: Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]  # until the year 9999

    @classmethod
    def of(cls, ticket: Ticket, names: Sequence[bytes], files: int, total: int | None) -> Item:
        kept: list[bytes] = []
        left = _ROOM_FOR_NAMES
        for name in names:
            left -= len(name) + 5
            if left < 0:
                break
            kept.append(name)
        host = platform.node()[:64]
        return cls(ITEM_VERSION, str(ticket), kept, len(names) - len(kept), files, total, host, time.time())

    @property
    def label(self) -> str:
        """For people, not yet made safe for a terminal."""
        shown = ", ".join(os.fsdecode(name) for name in self.names[:3])
        more = len(self.names) - len(self.names[:3]) + self.more
        return f"{shown} and {more} more" if more else shown


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """An item as it lies in the room. item: None where `wrong` says why nothing can be made of it."""

    number: int
    job: str
    item: Item | None
    wrong: XferError | None
    user: str
    posted: float
    expires: float
    gone: bool
    busy: float
    failed: int


class Member:
    """Raises (any call): JobGone for a room that is no more (or a wrong ticket), OverQuota, Temporary."""

    def __init__(self, broker: BrokerClient, room: Room) -> None:
        self.room = room
        self._broker, self._sealer = broker, Sealer(room.ticket)
        self.user = broker.user

    async def about(self) -> rooms_api.RoomInfo:
        with _named(self.room):
            return await self._broker.room_about(self._sealer)

    def name_in(self, info: rooms_api.RoomInfo) -> str:
        """What its maker called it. Raises DamagedData."""
        return bytes(self._open(Purpose.ROOM_NAME, info.name)).decode(errors="replace")

    async def post(self, item: Item) -> int:
        """Its number; the same for the same job. Raises Conflict if the job is not stored."""
        sealed = base64.b64encode(
            self._sealer.seal(Purpose.ROOM_ITEM, 0, _item_encoder.encode(item))
        ).decode()
        try:
            return await self._broker.room_put(self._sealer, Ticket.parse(item.ticket).job, sealed)
        except JobGone:  # the job was stored a moment ago
            raise _gone(self.room) from None

    async def items(
        self, consumer: str = "", *, work: bool = False, after: int = 0, wait: float = 0.0
    ) -> AsyncGenerator[Posted, None]:
        """As `RoomList`, all pages of it."""
        more = True
        while more:
            with _named(self.room):
                page = await self._broker.room_list(
                    self._sealer, consumer=consumer, work=work, after=after, wait=wait
                )
            for line in page.items:
                yield self._posted(line)
            after, more, wait = page.last, page.more, 0.0

    async def mark(
        self,
        consumer: str,
        holder: str,
        *,
        work: bool = False,
        take: Sequence[int] = (),
        hold: Sequence[int] = (),
        drop: Sequence[int] = (),
        had: Sequence[int] = (),
        failed: Mapping[int, str] | None = None,
        again: Sequence[int] = (),
    ) -> rooms_api.RoomMarked:
        """As `RoomMark`."""
        mark = rooms_api.RoomMark(
            room="",
            token="",
            consumer=consumer,
            holder=holder,
            work=work,
            take=[*take],
            hold=[*hold],
            drop=[*drop],
            had=[*had],
            failed={number: why[: rooms_api.MAX_REASON] for number, why in (failed or {}).items()},
            again=[*again],
        )
        with _named(self.room):
            return await self._broker.room_mark(self._sealer, mark)

    def alone(
        self, name: str, *, wait: bool, on_wait: Callable[[str], object] = lambda _what: None
    ) -> AbstractAsyncContextManager[None]:
        """Be the only one of all members' hosts that does what goes by that name; see `room_lock.held`."""
        hashed = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
        holder = secrets.token_hex(8)

        async def ask(life: float) -> bool:
            with _named(self.room):
                return await self._broker.room_lock(self._sealer, hashed, holder, life)

        return held(ask, name, wait=wait, on_wait=on_wait)

    async def leave(self, consumer: str) -> None:
        """Have the room forget what this consumer has had."""
        with _named(self.room):
            await self._broker.room_leave(self._sealer, consumer)

    async def remove(self) -> None:
        """The room goes, for all its members. Raises NotAllowed unless we made it."""
        with _named(self.room):
            await self._broker.room_remove(self._sealer)

    def _posted(self, line: rooms_api.RoomItem) -> Posted:
        item, wrong = None, None
        try:
            item = self._item(line)
        except XferError as error:
            wrong = error
        return Posted(
            number=line.number,
            job=line.job,
            item=item,
            wrong=wrong,
            user=line.user,
            posted=line.posted,
            expires=line.expires,
            gone=line.gone,
            busy=line.busy,
            failed=line.failed,
        )

    def _item(self, line: rooms_api.RoomItem) -> Item:
        try:
            item = msgspec.msgpack.decode(self._open(Purpose.ROOM_ITEM, line.sealed), type=Item)
        except msgspec.MsgspecError:
            raise UnsupportedVersion("an item of the room was posted by another version of xfer") from None
        if item.v != ITEM_VERSION:
            raise UnsupportedVersion("an item of the room was posted by a newer xfer")
        if Ticket.parse(item.ticket).job != line.job:
            raise DamagedData("an item of the room stands for another transfer than it says")
        return item

    def _open(self, purpose: Purpose, sealed: str) -> bytearray:
        try:
            return self._sealer.open(purpose, 0, base64.b64decode(sealed, validate=True))
        except binascii.Error:
            raise DamagedData("what the room holds was altered on its way") from None


@contextlib.asynccontextmanager
async def member(room: Room, context: str | None = None) -> AsyncIterator[Member]:
    """Of that room, over a connection of its own. context: of other servers than it was joined at."""
    async with connected(servers_of(room, context), "xfer room", Patience(FIRST_CONTACT)) as (_, broker):
        yield Member(broker, room)


async def make(name: str, *, tries: int, context: str | None = None) -> Room:
    """A new room at the broker. tries: of a shared consumer, before an item is given up. Raises Temporary, OverQuota."""
    servers = config.load(context)
    room = Room(name=name, ticket=RoomTicket.new(), context=servers.name)
    sealer = Sealer(room.ticket)
    sealed = base64.b64encode(sealer.seal(Purpose.ROOM_NAME, 0, name.encode())).decode()
    async with connected(servers, "xfer room", Patience(FIRST_CONTACT)) as (_, broker):
        await broker.room_new(sealer, sealed, tries)
    return room


def servers_of(room: Room, context: str | None) -> config.Context:
    """Those that are named, else those that it was joined at, else the current ones. Raises as `config.load`."""
    own = room.context if room.context in config.contexts() else None
    return config.load(context or own)


@contextlib.contextmanager
def _named(room: Room) -> Iterator[None]:
    """The broker does not know what the room is called."""
    try:
        yield
    except RoomGone:
        raise _gone(room) from None


def _gone(room: Room) -> RoomGone:
    return RoomGone(f"{f'room {room.name}' if room.name else 'that room'} is no more, or never was")


_item_encoder = msgspec.msgpack.Encoder()
