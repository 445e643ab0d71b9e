"""A route over any message channel between two peers: the session's law with tasks and waiting around it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from typing import Protocol

from transfer.codec import max_encoded
from transfer.errors import PeerLost, ProtocolError, XferError
from transfer.model import Frame, FrameId, FrameSet, Kind
from transfer.session import SILENCE, WINDOW, Event, Role, Session, State, Window, split
from transfer.tasks import ended
from transfer.transport import Limits
from transfer.wire import MAX_RANGES, Ack, Close, End, Message, Want, batch_acks

FAREWELL = 2.0
"""Seconds that a good end waits for the peer's Close: longer than one loss costs (SCTP repeats after 1 s)."""
PARTING = 0.5
"""Seconds for telling the peer why it ends badly."""


class Channel(Protocol):
    """Reliable, ordered messages to one peer, already open."""

    @property
    def max_message(self) -> int:
        """Bytes of the largest message that `send` takes."""
        ...

    async def send(self, message: bytes) -> None:
        """Take one message; waits while too much is on its way. Raises PeerLost. One caller at a time."""
        ...

    async def receive(self) -> bytes:
        """The next message. One caller at a time.

        Raises PeerLost at the end, ProtocolError for what is no message.
        """
        ...

    async def close(self) -> None:
        """Deliver what was sent if that is quick, then let go of everything. Idempotent; wakes the others."""
        ...


class _Peer:
    """What both ends do: a task that reads, one that writes, one that watches the clock.

    Whoever waits does so in `_until`, and is woken with the route's end. Make it inside a running loop.
    """

    def __init__(self, channel: Channel, role: Role, window: int, silence: float) -> None:
        self._channel = channel
        self._session = Session(role, time.monotonic(), window=window, silence=silence)
        self._outbox: deque[Frame | Message] = deque()
        """What is to be said; the writer removes an item once all of it is with the channel."""
        self._end: Exception | None = None
        self._heard_close = False
        self._waiters: list[asyncio.Future[None]] = []
        self._closing: asyncio.Task[None] | None = None
        self._reader = asyncio.create_task(self._guard(self._read()))
        self._writer = asyncio.create_task(self._guard(self._write()))
        self._ticker = asyncio.create_task(self._guard(self._tick()))
        self._limits = Limits(
            min_part=1,
            max_part=max_encoded(Kind.MANIFEST),
            concurrency=1,
            window=window,
            acknowledges=True,
        )

    @property
    def limits(self) -> Limits:
        return self._limits

    async def close(self, reason: str = "") -> None:
        """Say what is queued and part (an empty reason), or drop it and say why. Takes FAREWELL s at most."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._part(reason))
        await asyncio.shield(self._closing)

    def _on(self, event: Event) -> None:
        """Take note of what the peer said."""
        raise NotImplementedError

    def _say(self, *messages: Frame | Message) -> None:
        if self._end is not None:
            raise self._end
        self._outbox.extend(messages)
        self._stir()

    async def _until(self, true: Callable[[], bool]) -> None:
        """Wait for something to become true; raises what ended the route if that comes first."""
        while not true():
            if self._end is not None:
                raise self._end
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _stir(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """Whatever ends a task ends the route, so that nobody waits for a task that is gone."""
        try:
            await work
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        if self._end is None:
            self._end = error
            self._stir()
        if self._closing is None:
            told = error.what if isinstance(error, ProtocolError) else ""
            self._closing = asyncio.create_task(self._part(told))

    async def _read(self) -> None:
        while True:
            message = await self._channel.receive()
            for event in self._session.receive(message, time.monotonic()):
                if isinstance(event, Close):
                    self._heard_close = True
                    said = "".join(c for c in event.reason if c.isprintable())
                    raise PeerLost(f"the peer stopped: {said}" if said else "the peer ended the transfer")
                self._on(event)
            self._stir()

    async def _write(self) -> None:
        while True:
            await self._until(lambda: bool(self._outbox))
            item = self._outbox[0]
            for message in split(item, self._channel.max_message) if isinstance(item, Frame) else (item,):
                await self._channel.send(self._session.send(message, time.monotonic()))
            self._outbox.popleft()
            self._stir()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._session.next_deadline() - time.monotonic()))
            pings = self._session.tick(time.monotonic())
            if not self._outbox:  # else bytes are on their way, which says as much
                self._say(*pings)

    async def _part(self, reason: str) -> None:
        """The whole of the end: say Close, hear the peer's, stop the tasks, free the channel."""
        try:
            async with asyncio.timeout(PARTING if reason or self._end else FAREWELL):
                if self._end is None and not reason:
                    await self._until(lambda: not self._outbox)
                await ended(self._writer, self._ticker)
                await self._channel.send(self._session.send(Close(reason), time.monotonic()))
                if not reason:
                    await self._until(lambda: self._heard_close)
        except (TimeoutError, XferError):
            pass  # the peer is gone or slow: there is nobody to part from
        finally:
            self._end = self._end or PeerLost("this end of the route is closed")
            self._stir()
            await ended(self._writer, self._ticker, self._reader)
            await self._channel.close()


class PeerOutbound(_Peer):
    """`transport.Outbound` over a channel.

    Frames that are put are held until they are acknowledged, at most a window of them, and sent
    again when the receiver asks for them again. The caller keeps no task for a put: one that is
    cancelled has taken the frame whole or not at all.
    """

    def __init__(self, channel: Channel, *, window: int = WINDOW, silence: float = SILENCE) -> None:
        """window: bytes, at most the receiver's. silence: seconds until a silent peer is lost."""
        super().__init__(channel, Role.SENDER, window, silence)
        self._unsafe: dict[FrameId, Frame] = {}
        self._held: deque[Frame | Message] | None = None
        """What is not said yet because of a pause; None while there is none."""
        self._taken = Window(window)
        self._want: FrameSet | None = None
        self._finished = False
        self._fresh: list[FrameId] = []

    async def wanted(self) -> FrameSet:
        await self._until(lambda: self._want is not None)
        want, self._want = self._want, None
        return want or FrameSet()

    async def put(self, frame: Frame) -> None:
        """As the contract says; ValueError too after a `finish` that no new Want has followed."""
        size = len(frame.data)
        if not 0 < size <= max_encoded(frame.id.kind):
            raise ValueError(f"a frame of {size} bytes does not fit this route")
        if self._finished:
            raise ValueError("finish was called, and nothing was wanted since")
        await self._until(lambda: self._session.owed > 0 and self._taken.fits(frame.id, size))
        if frame.id in self._session.acknowledged:
            return
        self._taken.take(frame.id, size)
        self._unsafe[frame.id] = frame
        if self._held is None:
            self._say(frame)
        else:
            self._held.append(frame)

    def hold(self) -> None:
        """Say no more frames until `go_on`, but for one that has begun; the peer goes on hearing that we are here."""
        if self._held is None:
            first = self._outbox.popleft() if self._outbox else None
            self._held, self._outbox = self._outbox, deque() if first is None else deque([first])

    def go_on(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._outbox.extend(held)
            self._stir()

    async def delivered(self) -> AsyncIterator[Sequence[FrameId]]:
        while True:
            try:
                await self._until(lambda: bool(self._fresh))
            except XferError:
                return  # said by `put` and `finish`
            batch, self._fresh = self._fresh, []
            yield batch

    async def finish(self) -> None:
        """Says End once for every Want. A frame that the receiver asks for again meanwhile is sent again."""
        await self._until(lambda: self._session.state is not State.OPENING)
        while not self._settled():
            if self._session.owed and not (self._outbox or self._held):
                self._say(*[End()] * self._session.owed)
                self._finished = True
            await self._until(
                lambda: self._settled() or (self._session.owed > 0 and not (self._outbox or self._held))
            )

    def _settled(self) -> bool:
        """Nothing is unsafe, and nothing is left to say to a peer that is there."""
        spoken = self._end is not None or not (self._outbox or self._session.owed)
        return spoken and not self._unsafe

    def _on(self, event: Event) -> None:
        if isinstance(event, Want):
            self._finished = False
            waiting = [*self._outbox, *(self._held or ())]
            queued = {item.id for item in waiting if isinstance(item, Frame)}
            again = [id_ for id_ in self._unsafe if id_ in event.frames and id_ not in queued]
            self._outbox.extend(self._unsafe[id_] for id_ in again)
            known = self._want.ranges() if self._want else []
            if len(known) > MAX_RANGES:
                raise ProtocolError("the peer asks for more than can be kept track of")
            self._want = FrameSet([*known, *event.frames.ranges()]) if known else event.frames
        elif isinstance(event, Ack):
            for id_ in event.frames:
                if self._unsafe.pop(id_, None):
                    self._taken.release(id_)
                    self._fresh.append(id_)


class PeerInbound(_Peer):
    """`transport.Inbound` over a channel.

    It always reads; what bounds its memory is the window: a sender may go on only as frames are
    acknowledged, so acknowledge what is safe soon, not in batches of more than a window.
    """

    def __init__(self, channel: Channel, *, window: int = WINDOW, silence: float = SILENCE) -> None:
        """window: bytes, at least the sender's. silence: seconds until a silent peer is lost."""
        super().__init__(channel, Role.RECEIVER, window, silence)
        self._arrived: dict[FrameId, Frame] = {}
        self._open_wants = 0

    async def frames(self, wanted: FrameSet) -> AsyncGenerator[Frame, None]:
        """May be called again: for frames that came damaged, or after an iteration that was left."""
        self._say(Want(wanted))
        self._open_wants += 1
        while True:
            await self._until(lambda: bool(self._arrived) or not self._open_wants)
            if not self._arrived:
                return
            yield self._arrived.pop(next(iter(self._arrived)))

    async def ack(self, frames: Sequence[FrameId]) -> None:
        """Frames that this route did not bring, or acknowledged before, are passed over. Raises PeerLost."""
        carried = dict.fromkeys(frame for frame in frames if frame in self._session.window)
        self._say(*batch_acks(list(carried)))

    def _on(self, event: Event) -> None:
        if isinstance(event, Frame):
            self._arrived[event.id] = event
        elif isinstance(event, End):
            self._open_wants -= 1
