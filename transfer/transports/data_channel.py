"""`peer.Channel` over our SCTP: messages to one peer, over an encrypted path for packets."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from transfer import wire
from transfer.errors import PeerLost, ProtocolError, XferError
from transfer.sctp.association import PORT, Association, State
from transfer.sctp.dcep import Line, content
from transfer.sctp.receiving import Message
from transfer.session import WINDOW

if TYPE_CHECKING:
    from transfer.transports.link import Link

MESSAGE = 1 << 14
"""Bytes of a message that we send: larger ones are hardly faster, and at 64 kbit/s this one takes 2 s."""
BUFFER_HIGH, BUFFER_LOW = 1 << 20, 512 << 10
"""Bytes that are queued above which `send` waits, and below which it goes on."""
UNREAD = WINDOW + (8 << 20)
"""Bytes of SCTP's receive window: what waits for `receive`, and what waits for a lost packet to be sent again."""
FLUSH = 0.5
"""Seconds in which what was sent is delivered before the end."""


def association(peer_port: int = PORT) -> Association:
    """One for a channel."""
    return Association(
        secrets.token_bytes, peer_port=peer_port, window=UNREAD, largest_message=wire.MAX_MESSAGE
    )


class DataChannel:
    """By default on a stream that is known to both beforehand.

    The association says what to send and when to come back; this is its clock, its ear and its mouth.
    """

    def __init__(
        self, link: Link, association: Association, max_message: int, line: Line | None = None
    ) -> None:
        self.max_message = max_message
        self._link, self._association = link, association
        self._line = line or Line(association)
        self._loop = asyncio.get_running_loop()
        self._unread: deque[Message] = deque()
        self._end: XferError | None = None
        self._changed = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._stirred = False
        self._small = False
        link.dtls.reader = self
        self._stir()

    async def opened(self) -> None:
        """Wait until the peer knows of the channel. Raises PeerLost or ProtocolError; then it is closed."""
        try:
            await self._until(lambda: self._line.opened)
        except BaseException:
            await self.close()
            raise

    async def send(self, message: bytes) -> None:
        if self._association.buffered >= BUFFER_HIGH:
            await self._until(lambda: self._association.buffered <= BUFFER_LOW)
        if self._end is not None:
            raise self._end
        self._line.send(message)
        self._stir_soon()

    async def receive(self) -> bytes:
        await self._until(lambda: bool(self._unread))
        message = self._unread.popleft()
        self._association.free(message)
        self._stir_soon()  # a window that was full may have to be told
        return content(message)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    def packets_received(self, packets: list[bytes]) -> None:
        now, receive = self._loop.time(), self._association.receive
        for packet in packets:
            receive(packet, now)
        opened = self._line.opened
        try:
            self._unread.extend(self._line.take())
        except ProtocolError as error:
            self._stop(error)
        if self._line.ended:
            self._line.close()
            self._stop(PeerLost("the peer closed the channel"))
        if self._unread or opened != self._line.opened:
            self._changed.set()
        self._stir()

    def writable(self) -> None:
        self._stir()

    def ended(self) -> None:
        self._stop(PeerLost("the connection to the peer was closed"))

    async def _close(self) -> None:
        association = self._association
        with contextlib.suppress(TimeoutError, XferError):
            async with asyncio.timeout(FLUSH):
                await self._until(lambda: not association.buffered and not association.unacknowledged)
                if self._line.close():
                    self._stir()
                    await self._until(lambda: self._line.ended)
        association.close("this end closed the channel")
        self._stop(PeerLost("the channel to the peer is closed"))
        self._stir()
        if self._timer is not None:
            self._timer.cancel()
        await self._link.close()

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            if self._end is not None:
                raise self._end
            self._changed.clear()
            await self._changed.wait()

    def _stir_soon(self) -> None:
        """After whatever else is said in this turn of the loop."""
        if not self._stirred:
            self._stirred = True
            self._loop.call_soon(self._stir)

    def _stir(self) -> None:
        """Send what may be sent, and have the clock call when more may."""
        self._stirred = False
        association, now = self._association, self._loop.time()
        if not self._link.dtls.full:
            packets = association.poll(now)
            if packets:
                self._link.dtls.send_packets(packets)
        if association.state is State.CLOSED:
            self._stop(PeerLost("the connection to the peer was closed"))
            return
        if association.may_fragment and not self._small:
            self._small = True
            self._link.dtls.may_fragment()
        if association.buffered <= BUFFER_LOW:
            self._changed.set()
        self._come_back(association.deadline(now), now)

    def _come_back(self, deadline: float | None, now: float) -> None:
        if deadline is None or self._link.dtls.full:
            return
        if deadline <= now:
            self._stir_soon()
        elif self._timer is None or not now < self._due <= deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._due = deadline
            self._timer = self._loop.call_at(deadline, self._stir)

    def _stop(self, end: XferError) -> None:
        self._end = self._end or end
        self._changed.set()
