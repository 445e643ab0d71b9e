"""A channel to one peer over WebRTC: ICE finds a way, DTLS encrypts, SCTP makes it reliable.

No SDP and no RTCPeerConnection: the parts are joined directly, and what the two ends must know of each
other crosses the bus in sealed signals. A `Link` is ICE and DTLS, a `DataChannel` is SCTP on top of it.

Host candidates go with the offer and the answer, at once. Server-reflexive and relayed ones are
asked for meanwhile and follow as `Candidate` signals, so that a dead STUN server delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Protocol

from transfer import wire
from transfer.errors import ProtocolError, XferError
from transfer.ice_urls import IceServers
from transfer.sctp.association import Association
from transfer.sctp.packet import Init, Malformed, pack_init, unpack_init
from transfer.transports.data_channel import MESSAGE, DataChannel, association
from transfer.transports.link import Link, phase, setting_up
from transfer.transports.peer import Channel

_log = logging.getLogger(__name__)

DEADLINE = 10.0
"""Seconds for the whole set-up, the peer's answer included."""


class Conversation(Protocol):
    """The signals of one session with the peer."""

    async def say(self, kind: type[wire.AnySignal], **fields: object) -> None:
        """Say a signal of that kind; session and number are filled in. Raises BusUnreachable."""
        ...

    async def hear(self) -> wire.AnySignal:
        """The next Answer or Candidate of this session; others are passed over. Cancellable."""
        ...


async def prepare() -> bool:
    """Import ICE and DTLS in a thread (0.05 s): worth calling while one waits for the peer anyway.

    Returns whether they are as we know them; if not, aiortc is imported (0.4 s), which then carries all.
    """
    try:
        for part in ("ice", "dtls"):
            await asyncio.to_thread(importlib.import_module, f"transfer.transports.{part}")
    except XferError as unfit:
        _log.warning("%s; aiortc takes its place, which is slower", unfit.what)
        await asyncio.to_thread(importlib.import_module, "transfer.transports.plain")
        return False
    return True


async def offer(talk: Conversation, servers: IceServers, *, deadline: float = DEADLINE) -> Channel:
    """The sender's side: offer, await the answer, connect.

    Args:
        deadline: seconds for all of it.
    Raises:
        PeerLost: the sentence names the step that failed.
        ProtocolError: the answer makes no sense.
        UsageError: a server's URL cannot be read.
    """
    until = asyncio.get_running_loop().time() + deadline
    if not await _prepared(until):
        from transfer.transports import plain

        return await plain.offer(talk, servers, until)
    async with setting_up(servers, sender=True) as link:
        sctp = association()
        await talk.say(wire.Offer, description=await link.describe(pack_init(sctp.init)))
        async with _meanwhile(_tell_late(talk, link)):
            async with phase("the peer did not answer the offer", until):
                theirs = await _hear_answer(talk, link)
            init = _init(theirs)
            async with _meanwhile(_hear_candidates(talk, link)):
                await link.connect(theirs, until)
                return _channel(link, sctp, theirs, init)


async def answer(
    talk: Conversation, their_offer: wire.Offer, servers: IceServers, *, deadline: float = DEADLINE
) -> Channel:
    """The receiver's side: answer an offer and connect. As `offer` otherwise."""
    until = asyncio.get_running_loop().time() + deadline
    theirs = their_offer.description
    if not await _prepared(until):
        from transfer.transports import plain

        return await plain.answer(talk, theirs, servers, until)
    async with setting_up(servers, sender=False) as link:
        sctp = association()
        await talk.say(wire.Answer, description=await link.describe(pack_init(sctp.init)))
        init = _init(theirs)
        async with _meanwhile(_tell_late(talk, link)), _meanwhile(_hear_candidates(talk, link)):
            await link.connect(theirs, until)
            return _channel(link, sctp, theirs, init)


async def _prepared(until: float) -> bool:
    async with phase("the network library was not loaded", until):
        return await prepare()


def _init(theirs: wire.Description) -> Init | None:
    """None: that end has to be asked, by SCTP's handshake."""
    if not theirs.init:
        return None
    try:
        return unpack_init(theirs.init)
    except Malformed:
        raise ProtocolError("the peer's description of itself is incomplete") from None


def _channel(link: Link, sctp: Association, theirs: wire.Description, init: Init | None) -> DataChannel:
    """That of a connected link. init: what SCTP's handshake would tell; None: it has to be made."""
    now = asyncio.get_running_loop().time()
    if init is None:
        sctp.start(now)
    else:
        sctp.agree(init, now, theirs.max_packet)
    return DataChannel(link, sctp, min(MESSAGE, theirs.max_message))


async def _tell_late(talk: Conversation, link: Link) -> None:
    """Say the candidates that are found late, until there are no more."""
    async with contextlib.aclosing(link.late_candidates()) as lines:
        async for line in lines:
            await talk.say(wire.Candidate, candidate=line)


async def _hear_answer(talk: Conversation, link: Link) -> wire.Description:
    while True:
        signal = await talk.hear()
        if isinstance(signal, wire.Answer):
            return signal.description
        if isinstance(signal, wire.Candidate):
            await link.ice.add(signal.candidate)


async def _hear_candidates(talk: Conversation, link: Link) -> None:
    while True:
        signal = await talk.hear()
        if isinstance(signal, wire.Candidate):
            await link.ice.add(signal.candidate)


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run something that only helps: its failure costs the set-up a candidate, not the success."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
