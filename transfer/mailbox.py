"""The sealed signals of one job on the bus: what its two ends say to each other beside the data."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from transfer import bus, wire
from transfer.broker_client import Patience
from transfer.errors import BusUnreachable, DamagedData, PeerMisbehaved
from transfer.seal import Purpose, Sealer

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

SESSIONS_REMEMBERED = 1024
FLUSHED_WITHIN = 5
"""Seconds that the server may take to confirm a subscription; one whose connection is lost meanwhile says nothing."""


class Mailbox:
    """One side's ear and mouth for the signals of one job.

    What does not open, repeats or comes late (a replay) is dropped: garbage on the bus costs its
    sender an effort and us none. Signals that set up a connection go to their `Conversation`, all others to `next`.
    """

    def __init__(
        self,
        client: Client,
        user: str,
        sealer: Sealer,
        *,
        hears: Purpose,
        says: Purpose,
        refusals: Collection[str] = (),
    ) -> None:
        """refusals: as of `BrokerClient`."""
        self._refusals = refusals
        self._client, self._user, self._sealer = client, user, sealer
        self._hears, self._says = hears, says
        self._queue: asyncio.Queue[wire.AnySignal] = asyncio.Queue(256)
        self._last: OrderedDict[bytes, int] = OrderedDict()
        self._talks: dict[bytes, Conversation] = {}
        self._subscription: Subscription | None = None

    async def listen(self, patience: Patience) -> None:
        """As `open`, but a bus that is away is ridden out. Raises BusUnreachable."""
        async for attempt in patience.retrying(BusUnreachable):
            with attempt:
                await self.open()

    async def open(self) -> None:
        """Listen. Returns once the server has the subscription, so nothing said afterwards is missed.

        Raises BusUnreachable; may be tried again then.
        """
        with bus.translated():
            if self._subscription is None:
                subject = bus.peer_subject(self._user, self._sealer.job)
                self._subscription = await self._client.subscribe(subject, cb=self._receive)
            await self._client.flush(FLUSHED_WITHIN)

    @property
    def deaf(self) -> str:
        """Why nothing can be heard here though it is open, for people; "" where it can."""
        subject = bus.peer_subject(self._user, self._sealer.job)
        if not any(f'subscription to "{subject.lower()}"' in said.lower() for said in self._refusals):
            return ""
        return (
            f"NATS does not let user {self._user} hear other users, so nothing can go directly;"
            f" have the operator look at its permissions (`xfer doctor`, `xfer broker permissions {self._user}`)"
        )

    async def close(self) -> None:
        if self._subscription is not None:
            with contextlib.suppress(Exception):  # the connection may be gone, and with it the subscription
                await self._subscription.unsubscribe()
            self._subscription = None

    async def next(self) -> wire.AnySignal:
        """The next signal that belongs to no conversation's set-up."""
        return await self._queue.get()

    def converse(self, session: bytes, peer: str) -> Conversation:
        """peer: the user whose subject the other side hears. Replaces an earlier one of the same session."""
        talk = Conversation(self, session, peer)
        self._talks[session] = talk
        return talk

    def forget(self, talk: Conversation) -> None:
        if self._talks.get(talk.session) is talk:
            del self._talks[talk.session]

    async def publish(self, peer: str, signal: wire.AnySignal) -> None:
        """Raises BusUnreachable."""
        sealed = wire.seal_signal(self._sealer, self._says, signal)
        with bus.translated():
            await self._client.publish(bus.peer_subject(peer, self._sealer.job), sealed)

    async def _receive(self, message: Msg) -> None:
        try:
            signal = wire.open_signal(self._sealer, self._hears, message.data)
        except (PeerMisbehaved, DamagedData):
            return
        if signal.seq <= self._last.get(signal.session, -1):
            return
        self._last[signal.session] = signal.seq
        self._last.move_to_end(signal.session)
        if len(self._last) > SESSIONS_REMEMBERED:
            self._last.popitem(last=False)
        talk = self._talks.get(signal.session)
        setting_up = isinstance(signal, wire.Offer | wire.Answer | wire.Candidate)
        queue = (
            talk.heard
            if talk is not None and (setting_up and not isinstance(signal, wire.Offer))
            else self._queue
        )
        with contextlib.suppress(asyncio.QueueFull):  # a flood; whoever means it says it again
            queue.put_nowait(signal)


class Conversation:
    """The signals of one session: says with the right number and seal, hears answers and candidates."""

    def __init__(self, mailbox: Mailbox, session: bytes, peer: str) -> None:
        self.session, self.peer = session, peer
        self.heard: asyncio.Queue[wire.AnySignal] = asyncio.Queue(256)
        self._mailbox = mailbox
        self._seq = 0

    async def say(self, kind: type[wire.AnySignal], **fields: Any) -> None:
        """kind: the signal's class; fields: its own fields, without session and seq. Raises BusUnreachable."""
        signal = kind(session=self.session, seq=self._seq, **fields)
        self._seq += 1
        await self._mailbox.publish(self.peer, signal)

    async def hear(self) -> wire.AnySignal:
        """The next Answer or Candidate of this session."""
        return await self.heard.get()

    def close(self) -> None:
        self._mailbox.forget(self)
