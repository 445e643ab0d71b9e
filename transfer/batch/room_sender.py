"""A batch's orders, sent to a room over one connection."""

from __future__ import annotations

import base64
import binascii
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import msgspec

from transfer import api, config
from transfer.batch.state import Order
from transfer.broker_client import Link, Patience, connected
from transfer.bwlimit import Rate, limit_of
from transfer.errors import DamagedData, JobGone
from transfer.events import Event, Listener, Progress, Waiting
from transfer.ledger import Ledger
from transfer.lock import FileLock
from transfer.model import ReceiptBody
from transfer.room import Item, Member, servers_of
from transfer.room_names import Room
from transfer.seal import Purpose, Sealer
from transfer.send import send
from transfer.sent import lock_path
from transfer.source import SourceFile
from transfer.ticket import Ticket


class RoomSender:
    """See `transfer.batch.sender.Sender`. Made by `room_sender`.

    expire: seconds that each is kept. fetches: receipts after which it goes. listener: told of what is waited for.
    """

    def __init__(
        self,
        room: Room,
        servers: config.Context,
        link: Link,
        ledger: Ledger,
        *,
        expire: float,
        fetches: int | None,
        patience: float | None,
        bwlimit: Rate | None,
        listener: Listener,
    ) -> None:
        self._room, self._servers, self._link, self._ledger = room, servers, link, ledger
        self._member = Member(link.broker, room)
        self._expire, self._fetches = expire, fetches
        self._patience, self._listener = patience, listener
        self._limit = limit_of(bwlimit)

    def alone(self, name: str | None, *, wait: bool) -> AbstractAsyncContextManager[None]:
        """The only host of the room's members that holds that name; None: there is nothing to hold. As `Member.alone`."""
        if name is None:
            return contextlib.nullcontext()
        return self._member.alone(name, wait=wait, on_wait=lambda what: self._listener(Waiting(what=what)))

    async def send(self, order: Order) -> None:
        fresh = not order.again or not await self._begun(order.ticket)
        await send(
            files=[SourceFile(file.path, file.name, file.facts) for file in order.files],
            context=self._servers,
            expire=self._expire,
            fetches=self._fetches,
            ticket=order.ticket,
            fresh=fresh,
            room=self._room,
            patience=self._patience,
            bwlimit=self._limit,
            over=self._link,
            on_event=self._heard,
        )

    async def recover(self, order: Order) -> bool:
        job = order.ticket.job
        with FileLock(lock_path(config.state_dir() / "locks", job), "sends this job"):
            complete = await self._end(order)
            for row in self._ledger.select("send", job=job):
                self._ledger.end(row)
        return complete

    async def receipt(self, ticket: Ticket) -> float | None:
        status = await self._link.broker.status(ticket.job)
        sealer = Sealer(ticket)
        for sealed in status.receipts:
            with contextlib.suppress(binascii.Error, DamagedData, msgspec.MsgspecError):
                body = sealer.open(Purpose.RECEIPT, 0, base64.b64decode(sealed, validate=True))
                msgspec.msgpack.decode(body, type=ReceiptBody)
                return time.time()
        if status.state is api.JobState.VOID:
            raise JobGone("that transfer was cancelled")
        return None

    async def _begun(self, ticket: Ticket) -> bool:
        """Whether there is such a job."""
        try:
            await self._link.broker.open(Sealer(ticket))
        except JobGone:
            return False
        return True

    async def _end(self, order: Order) -> bool:
        job = order.ticket.job
        try:
            state = (await self._link.broker.status(job, take_over=True)).state
            if state.unfinished:
                await self._link.broker.finish(job, api.JobState.VOID)
                return False
        except JobGone:
            return False
        if state is api.JobState.STORED:
            names = [file.name for file in order.files]
            total = sum(file.facts.size for file in order.files)
            await self._member.post(Item.of(order.ticket, names, len(names), total))
        return state is not api.JobState.VOID

    def _heard(self, event: Event) -> None:
        """A batch tells of files, by its report, and not of the steps of each; but of what is waited for, and that it is over."""
        if isinstance(event, Waiting | Progress):
            self._listener(event)


@contextlib.asynccontextmanager
async def room_sender(
    room: Room,
    *,
    context: str | None,
    expire: float,
    fetches: int | None,
    patience: float | None,
    bwlimit: Rate | None,
    listener: Listener,
) -> AsyncIterator[RoomSender]:
    """Connected for as long as the block lasts. context: of other servers than the room was joined at.

    Raises RoomGone before anything is sent, and as `connected`.
    """
    servers = servers_of(room, context)
    waiting = Patience.asked(patience, lambda what, left, on: listener(Waiting(what=what, left=left, on=on)))
    with contextlib.closing(Ledger(config.state_dir() / "ledger.db")) as ledger:
        async with connected(servers, "xfer batch", waiting) as link:
            sender = RoomSender(
                room,
                servers,
                link,
                ledger,
                expire=expire,
                fetches=fetches,
                patience=patience,
                bwlimit=bwlimit,
                listener=listener,
            )
            await Member(link.broker, room).about()
            yield sender
