"""Those who come for a job, as its sender hears them: their hellos, and the receipts they leave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from transfer import config, wire
from transfer.broker_client import BrokerClient
from transfer.errors import BusUnreachable, PeerMisbehaved
from transfer.events import Listener, Receipt
from transfer.mailbox import Conversation, Mailbox
from transfer.meter import Meter
from transfer.model import FORMAT, ReceiptBody
from transfer.seal import Purpose, Sealer

RECEIPT_POLL = 3.0
"""Seconds between two questions to the broker whether a receipt came; a signal usually says it first."""
MOST = 1000
"""Receivers heard at a time. Only holders of the ticket are heard at all."""


class Receivers:
    """Listens from `open` to `close`.

    hellos: new sessions that want to be served directly. talks: how to answer each receiver.
    receipts: of receivers that have everything. early: sealed ones that cannot be judged yet: a receiver that
    an earlier run served gives its receipt before this one has read the source.

    Args:
        root: the digest a receipt must name; empty while it is not known, and then no receipt counts.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        broker: BrokerClient,
        sealer: Sealer,
        root: Callable[[], bytes],
        meter: Meter,
        listener: Listener,
    ) -> None:
        self.hellos: asyncio.Queue[wire.Hello] = asyncio.Queue()
        self.talks: dict[str, Conversation] = {}
        self.receipts: dict[str, ReceiptBody] = {}
        self.early: dict[str, bytes] = {}
        self._mailbox, self._broker, self._sealer, self._root = mailbox, broker, sealer, root
        self._meter, self._listener = meter, listener
        self._news = asyncio.Event()
        self._stored: Callable[[], int] | None = None
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._mailbox.listen(self._broker.patience)
        if self._mailbox.deaf:
            self._meter.notice(self._mailbox.deaf, warning=True)
        self._listening = asyncio.create_task(self._listen())

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._mailbox.close()

    async def next_hello(self, deadline: float | None) -> wire.Hello | None:
        """Whoever is to be served next; None when the deadline (monotonic seconds) came first, or a receipt did."""
        before = len(self.receipts)
        while len(self.receipts) == before and not self.early:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None if self.hellos.empty() else self.hellos.get_nowait()
            self._meter.waiting("waiting for a receiver", left, "receiver")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0 if left is None else min(1.0, left)):
                    return await self.hellos.get()
        return None

    async def receipt_before(self, deadline: float | None, what: str) -> bool:
        """Wait for the next receipt; a signal says it at once, the broker when asked. False: the deadline came."""
        before, asked = len(self.receipts), time.monotonic()
        while len(self.receipts) == before:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._meter.waiting(what, left, "receipt")
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0 if left is None else min(1.0, left)):
                    await self._news.wait()
            if time.monotonic() - asked > RECEIPT_POLL:
                asked = time.monotonic()
                self.recall((await self._broker.status(self._sealer.job)).receipts)
        return True

    def recall(self, receipts: Sequence[str]) -> None:
        """Those that the broker kept, and those that came early."""
        early, self.early = self.early, {}
        for receipt in early.values():
            self._take(receipt)
        for sealed in receipts:
            with contextlib.suppress(
                ValueError
            ):  # no base64: the broker's word is worth no more than a stranger's
                self._take(base64.b64decode(sealed))

    async def use_store(self, segments: Callable[[], int]) -> None:
        """From now on whoever says hello is sent to the store. segments: how many are complete there."""
        self._stored = segments
        await self.tell(wire.UseStore, segments=segments())

    async def tell(self, kind: type[wire.AnySignal], **fields: Any) -> None:
        """Say something to all of them. Only a hint: who misses it asks the broker."""
        for talk in list(self.talks.values()):
            with contextlib.suppress(BusUnreachable):  # it is only a hint
                await talk.say(kind, **fields)

    async def _listen(self) -> None:
        while True:
            signal = await self._mailbox.next()
            if isinstance(signal, wire.Hello):
                await self._greet(signal)
            elif isinstance(signal, wire.Receipted):
                self._take(signal.sealed)

    async def _greet(self, hello: wire.Hello) -> None:
        """The same hello comes again until it is answered; only a new session is news."""
        known = self.talks.get(hello.receiver)
        if known is None or known.session != hello.session:
            if not config.USER.fullmatch(hello.user) or (known is None and len(self.talks) >= MOST):
                return
            if known is not None:
                known.close()
            self.talks[hello.receiver] = self._mailbox.converse(hello.session, hello.user)
            if self._stored is None and "webrtc" in hello.routes:
                self.hellos.put_nowait(hello)
        if self._stored is not None:
            with contextlib.suppress(BusUnreachable):  # as in `tell`
                await self.talks[hello.receiver].say(wire.UseStore, segments=self._stored())

    def _take(self, sealed: bytes) -> None:
        """A receipt counts if it opens and names the digest of what was sent."""
        try:
            plain = self._sealer.open(Purpose.RECEIPT, 0, sealed)
            body = msgspec.msgpack.decode(plain, type=ReceiptBody)
        except (PeerMisbehaved, msgspec.MsgspecError, RecursionError):
            return
        if body.version != FORMAT:
            return
        if not self._root():
            if len(self.early) < MOST:
                self.early[body.receiver] = sealed
            return
        if body.digest != self._root():
            return
        if body.receiver not in self.receipts:
            self.receipts[body.receiver] = body
            self._listener(Receipt(job=self._sealer.job, receiver=body.receiver, digest=body.digest.hex()))
        self._news.set()
