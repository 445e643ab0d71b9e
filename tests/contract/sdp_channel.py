"""A channel of ours to one who speaks SDP and DCEP, as browsers and other stacks do; tests carry the two texts.

Nothing is agreed beforehand: SCTP's handshake runs, and who offers opens the data channel by DCEP. There are no
late candidates in an SDP: servers are asked first, for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from transfer import wire
from transfer.ice_urls import IceServers
from transfer.sctp.dcep import Line
from transfer.transports import sdp
from transfer.transports.data_channel import MESSAGE, DataChannel, association
from transfer.transports.link import Link, phase, setting_up
from transfer.transports.peer import Channel
from transfer.transports.webrtc import DEADLINE, prepare

GATHERING = 2.0
"""Seconds that STUN and TURN servers may take together."""
LABEL = "xfer"


async def offer_sdp(
    exchange: Callable[[str], Awaitable[str]], servers: IceServers, *, deadline: float = DEADLINE
) -> Channel:
    """Offer a channel. exchange: takes the SDP of the offer, gives the one of the answer.

    Args:
        deadline: seconds for all of it.
    Raises:
        PeerLost: the sentence names the step that failed.
        ProtocolError: the answer makes no sense.
        UsageError: a server's URL cannot be read.
    """
    until = asyncio.get_running_loop().time() + deadline
    await prepare()
    async with setting_up(servers, sender=True) as link:
        ours = sdp.Session(msgspec.structs.replace(await _describe(link), setup="actpass"))
        async with phase("the peer did not answer the offer", until):
            theirs = sdp.read(await exchange(sdp.write(ours, secrets.randbits(62))))
        link.dtls.client = theirs.description.setup == "passive"
        return await _open(link, theirs, until, opening=True)


async def answer_sdp(
    offer: str,
    tell: Callable[[str], Awaitable[None]],
    servers: IceServers,
    *,
    deadline: float = DEADLINE,
) -> Channel:
    """Take a channel that was offered. tell: takes the SDP of the answer. As `offer_sdp` otherwise."""
    until = asyncio.get_running_loop().time() + deadline
    theirs = sdp.read(offer)
    if theirs.description.setup == "actpass":  # then it is ours to choose, and we are active
        passive = msgspec.structs.replace(theirs.description, setup="passive")
        theirs = theirs._replace(description=passive)
    await prepare()
    async with setting_up(servers, sender=False) as link:
        link.dtls.client = theirs.description.setup == "passive"
        ours = sdp.Session(await _describe(link), mid=theirs.mid, bundled=theirs.bundled)
        async with phase("the answer could not be told", until):
            await tell(sdp.write(ours, secrets.randbits(62)))
        return await _open(link, theirs, until, opening=False)


async def _describe(link: Link) -> wire.Description:
    """With all candidates, those of the servers too."""
    description = await link.describe()
    late: list[str] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GATHERING), contextlib.aclosing(link.late_candidates()) as lines:
            async for line in lines:
                late.append(line)  # noqa: PERF401 - what came before the timeout counts
    return msgspec.structs.replace(description, candidates=[*description.candidates, *late])


async def _open(link: Link, theirs: sdp.Session, until: float, *, opening: bool) -> Channel:
    await link.connect(theirs.description, until, no_news=DEADLINE)
    sctp = association(theirs.port)
    sctp.start(asyncio.get_running_loop().time())
    stream = 0 if link.dtls.client else 1  # RFC 8832 section 6
    line = Line.opening(sctp, stream, LABEL) if opening else Line(sctp, None)
    channel = DataChannel(link, sctp, min(MESSAGE, theirs.description.max_message), line)
    async with phase("the peer did not open the data channel", until):
        await channel.opened()
    return channel
