"""The sender's side of the direct route: whoever says hello is served, each over a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from transfer import wire
from transfer.bwlimit import BwLimit
from transfer.errors import BusUnreachable, PeerAbsent, PeerLost, ProtocolError, XferError
from transfer.hold import Hold
from transfer.ice_urls import IceServers
from transfer.meter import Meter
from transfer.model import FrameId
from transfer.outgoing import Outgoing, OutgoingStream
from transfer.receivers import Receivers
from transfer.safe import Safe
from transfer.tasks import ended
from transfer.transports.peer import PeerOutbound
from transfer.transports.webrtc import offer, prepare

AT_ONCE = 4
"""Receivers that are served at a time: each may hold a window of frames. The others wait for their turn."""
RECEIPT_SECONDS = 15.0
"""How long a peer that has everything may take to sync it to disk and say so, at least."""
RETURN_SECONDS = 0.5
"""How long a receiver whose connection was lost may take to come back before the store takes over: it noticed when
we did, and says hello at once if it is there."""


class Direct:
    """Serves receivers from their hellos to their receipts.

    A lost connection is made anew, with fresh addresses, if its receiver comes back and the one before
    moved something; otherwise the store must take over, if it may.
    """

    def __init__(
        self,
        out: Outgoing | OutgoingStream,
        receivers: Receivers,
        safe: Safe,
        meter: Meter,
        ice: IceServers,
        limit: BwLimit | None,
        hold: Hold,
        recall: Callable[[], Awaitable[None]],
    ) -> None:
        """hold: during a pause receivers stay connected and get nothing. recall: judges the receipts that came early."""
        self._out, self._receivers, self._safe, self._meter = out, receivers, safe, meter
        self._ice, self._limit, self._hold, self._recall = ice, limit, hold, recall
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, wire.Hello] = {}
        self._connected: set[str] = set()
        self._moved: dict[str, int] = {}
        """Bytes that were safe when a receiver's connection was last lost."""
        self._lost: XferError | None = None
        self._back_by = 0.0

    async def serve(self, wait: float | None, receipts: int | None, *, store: bool) -> bool:
        """Until so many receivers have everything; None: until one has, and whoever came meanwhile.

        Args:
            wait: seconds to wait for somebody to come; None for ever.
            store: whether the store may take over.
        Returns:
            False if it must: nobody came, or a connection is lost for good.
        Raises:
            PeerAbsent: nobody came in time, and the store may not take over.
            PeerLost: the same, but somebody did come, was lost and did not come back.
        """
        importing = asyncio.create_task(prepare())  # kept, or the loop might forget it
        patience = max(RECEIPT_SECONDS, wait or 0.0)
        deadline = _from_now(wait)
        try:
            while self._lacks(receipts) or (receipts is None and self._serving):
                if self._serving:
                    await self._hear(patience, store=store)
                    deadline = _from_now(wait)  # counts from the last who was here
                    continue
                by = self._back_by if self._lost is not None and store else deadline
                known = len(self._receivers.receipts)
                hello = await self._receivers.next_hello(by)
                if hello is not None:
                    await self._begin(hello, patience)
                elif self._receivers.early or len(self._receivers.receipts) > known:
                    await self._recall()
                elif self._hold.paused:  # nobody's time runs out now
                    await self._hold.clear()
                    deadline = _from_now(wait)
                elif not store and self._lost is not None:
                    raise PeerLost(f"{self._lost.what}, and the receiver did not come back in time")
                elif not store:
                    raise PeerAbsent("nobody came for the transfer in time")
                else:
                    self._meter.choose("s3", self._lost.what if self._lost else "no receiver came in time")
                    return False
            return True
        finally:
            await ended(importing, *self._serving.values())

    def _lacks(self, receipts: int | None) -> bool:
        return len(self._receivers.receipts) < (1 if receipts is None else receipts)

    async def _hear(self, patience: float, *, store: bool) -> None:
        """The next hello, or the end of a session."""
        another = asyncio.create_task(self._receivers.hellos.get())
        try:
            await asyncio.wait({another, *self._serving.values()}, return_when=asyncio.FIRST_COMPLETED)
            if another.done():
                await self._begin(another.result(), patience)
        finally:
            await ended(another)
        for receiver, session in list(self._serving.items()):
            if session.done():
                del self._serving[receiver]
                self._ended(receiver, session, store=store)
        while self._waiting and len(self._serving) < AT_ONCE:
            await self._begin(self._waiting.pop(next(iter(self._waiting))), patience)

    async def _begin(self, hello: wire.Hello, patience: float) -> None:
        """Whoever says hello while it is served began anew: so do we."""
        if hello.receiver in self._serving:
            await ended(self._serving.pop(hello.receiver))
        if len(self._serving) >= AT_ONCE:
            self._waiting[hello.receiver] = hello
            return
        if self._lost is not None:
            self._meter.notice("the receiver is back: connecting anew")
            self._lost = None
        self._connected.discard(hello.receiver)
        self._serving[hello.receiver] = asyncio.create_task(self._session(hello, patience))

    def _ended(self, receiver: str, session: asyncio.Task[None], *, store: bool) -> None:
        try:
            session.result()
        except (PeerLost, ProtocolError, BusUnreachable) as lost:
            self._lost = lost
            if not store:
                self._meter.notice(f"{lost.what}; waiting for the receiver to come back")
                return
            promising = receiver in self._connected and self._meter.done > self._moved.get(receiver, 0)
            self._moved[receiver] = self._meter.done
            self._back_by = time.monotonic() + (RETURN_SECONDS if promising else 0.0)

    async def _session(self, hello: wire.Hello, patience: float) -> None:
        """Send one receiver what it lacks, and await its receipt for `patience` seconds.

        Raises PeerLost, ProtocolError, BusUnreachable.
        """
        channel = await offer(self._receivers.talks[hello.receiver], self._ice)
        self._connected.add(hello.receiver)
        if self._meter.route != "webrtc":
            self._meter.choose("webrtc", "a receiver is there")
        route = PeerOutbound(channel)
        reason = "the sender stopped"
        try:
            wanted = await route.wanted()
            missing = self._out.everything.common(wanted)
            for frame in self._out.everything:
                if frame not in wanted:
                    self._safe.found(frame)
            noting = asyncio.create_task(self._note(route.delivered()))
            obeying = asyncio.create_task(self._obey(route))
            try:
                async with contextlib.aclosing(self._out.frames(missing)) as frames:
                    async for made in frames:
                        await self._hold.clear()
                        if self._limit is not None:
                            await self._limit.wait(len(made.frame.data))
                        await route.put(made.frame)
                        self._meter.crossed(made.frame.id, len(made.frame.data), hello.receiver)
                await route.finish()
                reason = ""
            finally:
                await ended(noting, obeying)
            for frame in missing:
                self._safe.add(frame)
            self._meter.tell()
        finally:
            await route.close(reason)
        await self._receipt_of(hello.receiver, patience)

    async def _obey(self, route: PeerOutbound) -> None:
        """What the route has taken may be a window of frames: they wait, too."""
        while True:
            await self._hold.held()
            route.hold()
            await self._hold.clear()
            route.go_on()

    async def _note(self, batches: AsyncIterator[Sequence[FrameId]]) -> None:
        async for batch in batches:
            for frame in batch:
                self._safe.add(frame)

    async def _receipt_of(self, receiver: str, within: float) -> None:
        """Raises PeerLost if it does not come."""
        deadline = time.monotonic() + within
        while receiver not in self._receivers.receipts:
            if not await self._receivers.receipt_before(deadline, "waiting for the receipt"):
                raise PeerLost("the receiver has everything but its receipt did not come")


def _from_now(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds
