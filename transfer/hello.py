"""The receiver's hello: said to the sender until it offers a connection, which is answered."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

from transfer import wire
from transfer.ice_urls import IceServers
from transfer.mailbox import Conversation, Mailbox
from transfer.transports.peer import Channel
from transfer.transports.webrtc import answer, prepare

HELLO_EVERY = 1.0
"""Seconds between two hellos while the sender has not answered; ten times that after HELLOS of them."""
HELLOS = 5
HELLO_RARELY = 10.0


class Greeter:
    """One receiver, which meets one sender again and again.

    rarely: the sender has turned to the store, and is greeted now and then only.
    """

    def __init__(self, mailbox: Mailbox, owner: str, user: str, receiver: str) -> None:
        """owner: the user who sends, and user: ours; receiver: our id."""
        self.rarely = False
        self._mailbox, self._owner, self._user, self._receiver = mailbox, owner, user, receiver
        self._talk: Conversation | None = None
        self._offers: asyncio.Queue[wire.Offer] = asyncio.Queue(1)

    @property
    def talk(self) -> Conversation:
        """The conversation with the sender; a new one if there has been none."""
        return self._talk or self._mailbox.converse(secrets.token_bytes(16), self._owner)

    def hear(self, offer: wire.Offer) -> None:
        """Of an earlier conversation, or besides another one: it counts no more."""
        if self._talk is not None and offer.session == self._talk.session and self._offers.empty():
            self._offers.put_nowait(offer)

    async def meet(self, ice: IceServers) -> Channel:
        """A connection to the sender, whenever it comes. Raises PeerLost, ProtocolError, BusUnreachable: meet it anew."""
        self._talk = talk = self._mailbox.converse(secrets.token_bytes(16), self._owner)
        self._offers = asyncio.Queue(1)
        return await answer(talk, await self._offer(talk), ice)

    def part(self) -> None:
        """What the sender still says of the connection is not waited for."""
        if self._talk is not None:
            self._talk.close()

    async def _offer(self, talk: Conversation) -> wire.Offer:
        said = 0
        while True:
            await talk.say(wire.Hello, user=self._user, receiver=self._receiver, routes=["webrtc"])
            said += 1
            rarely = said > HELLOS or self.rarely
            if said == 1:
                await prepare()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HELLO_RARELY if rarely else HELLO_EVERY):
                    return await self._offers.get()
