"""A channel to one peer over WebRTC: ICE finds a way, DTLS encrypts, SCTP makes it reliable.

No SDP and no RTCPeerConnection: the parts are joined directly, and what the two ends must know of each
other crosses the bus in sealed signals. `connect` sets up ICE and DTLS, at the same time, and knows
nothing of the data channel that `Link.open_channel` puts on top.

Host candidates go with the offer and the answer, at once. Server-reflexive and relayed ones are
asked for meanwhile and follow as `Candidate` signals, so that a dead STUN server delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import math
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Protocol

from transfer import wire
from transfer.errors import PeerLost, ProtocolError, XferError
from transfer.ice_urls import IceServers, Relay, Server, parse_stun, parse_turn
from transfer.sctp.association import Association, State
from transfer.sctp.dcep import Line, content
from transfer.sctp.packet import Init, Malformed, pack_init, unpack_init
from transfer.sctp.receiving import Message
from transfer.session import WINDOW
from transfer.transports.peer import Channel

if TYPE_CHECKING:
    from transfer.transports.dtls import Certificate, Dtls
    from transfer.transports.private import Ice

_log = logging.getLogger(__name__)

DEADLINE = 10.0
"""Seconds for the whole set-up, the peer's answer included."""
NO_NEWS = 3.0
"""Seconds without another address or a STUN packet after which there is no path.

A check is sent at 0, 0.5 and 1.5 s by then, from both ends (aioice repeats it as RFC 8489 section 6.2.1 says).
"""
MESSAGE = 1 << 14
"""Bytes of a message that we send: larger ones are hardly faster, and at 64 kbit/s this one takes 2 s."""
LARGEST_PACKET = 16384
"""Bytes of an SCTP packet that we take: what a DTLS record can hold."""
LEAST_MESSAGE = 1200
BUFFER_HIGH, BUFFER_LOW = 1 << 20, 512 << 10
"""Bytes that are queued above which `send` waits, and below which it goes on."""
UNREAD = WINDOW + (8 << 20)
"""Bytes of SCTP's receive window: what waits for `receive`, and what waits for a lost packet to be sent again."""
FLUSH = 0.5
TEARDOWN = 1.0
"""Seconds for letting go; a TURN server that is gone would not answer the goodbye."""


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
        await asyncio.to_thread(importlib.import_module, "transfer.transports.dtls")
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
        await talk.say(wire.Offer, description=await link.describe())
        async with _meanwhile(link.trickle(talk)):
            async with phase("the peer did not answer the offer", until):
                theirs = await _hear_answer(talk, link)
            init = _init(theirs)
            async with _meanwhile(_hear_candidates(talk, link)):
                await link.connect(theirs, until)
                return link.open_channel(theirs, init)


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
        await talk.say(wire.Answer, description=await link.describe())
        init = _init(theirs)
        async with _meanwhile(link.trickle(talk)), _meanwhile(_hear_candidates(talk, link)):
            await link.connect(theirs, until)
            return link.open_channel(theirs, init)


class Link:
    """ICE and DTLS to one peer: an encrypted path for datagrams, and no more."""

    def __init__(
        self,
        ice: Ice,
        certificate: Certificate,
        dtls: Dtls,
        late: tuple[list[Server], list[Relay]],
    ) -> None:
        self.ice, self.dtls = ice, dtls
        self._certificate = certificate
        self.late = late
        self._association = Association(secrets.token_bytes, window=UNREAD, largest_message=wire.MAX_MESSAGE)

    async def describe(self) -> wire.Description:
        """What the other end must know. Raises PeerLost on a host without a network address."""
        candidates = await self.ice.gather_hosts()
        if not candidates and not self.late[1]:
            raise PeerLost("this host has no network address for a peer to reach")
        return wire.Description(
            ufrag=self.ice.ufrag,
            password=self.ice.password,
            candidates=candidates,
            fingerprints=self._certificate.fingerprints,
            setup="active" if self.dtls.client else "passive",
            max_packet=LARGEST_PACKET,
            init=pack_init(self._association.init),
        )

    async def trickle(self, talk: Conversation) -> None:
        """Say the candidates that are found late, until there are no more."""
        async with contextlib.aclosing(self.ice.gather_late(*self.late)) as lines:
            async for line in lines:
                await talk.say(wire.Candidate, candidate=line)

    async def connect(self, theirs: wire.Description, until: float, *, no_news: float = NO_NEWS) -> None:
        """Find a way and encrypt it. The peer must hold the certificate that its sealed description names.

        Raises PeerLost, or ProtocolError for a description that makes no sense.
        """
        self._check(theirs)
        for line in theirs.candidates:
            await self.ice.add(line)
        self.ice.start(theirs.ufrag, theirs.password)
        self.dtls.start(theirs.fingerprints)
        async with phase("no network path to the peer was found", until):
            await _while_news(self.ice, no_news)
        async with phase("the encrypted connection to the peer was not made", until):
            await self.dtls.done.wait()
        if not self.dtls.connected:
            raise PeerLost(
                "the encrypted connection to the peer was refused: its certificate is not the announced one"
            )

    def open_channel(self, theirs: wire.Description, init: Init | None) -> DataChannel:
        """The data channel of a connected link. init: what SCTP's handshake would tell; None: it has to be made."""
        association, now = self._association, asyncio.get_running_loop().time()
        if init is None:
            association.start(now)
        else:
            association.agree(init, now, theirs.max_packet)
        return DataChannel(self, association, min(MESSAGE, theirs.max_message))

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TEARDOWN):
                self.dtls.stop()
                await self.ice.close()

    def _check(self, theirs: wire.Description) -> None:
        hashes = {algorithm.lower() for algorithm, _ in theirs.fingerprints}
        if (
            "sha-256" not in hashes
            or not 4 <= len(theirs.ufrag) <= 256
            or not 22 <= len(theirs.password) <= 256
        ):
            raise ProtocolError("the peer's description of itself is incomplete")
        if theirs.setup not in (("passive",) if self.dtls.client else ("active", "actpass")):
            raise ProtocolError("the peer would not take its part in the encrypted handshake")
        if theirs.max_message < LEAST_MESSAGE:
            raise ProtocolError("the peer's description of itself has impossible limits")


class DataChannel:
    """`peer.Channel` over our SCTP: by default on a stream that is known to both beforehand.

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
async def setting_up(servers: IceServers, *, sender: bool) -> AsyncIterator[Link]:
    """A link that is closed again if the set-up does not succeed."""
    from transfer.transports.dtls import Certificate, Dtls
    from transfer.transports.private import Ice

    late = [parse_stun(url) for url in servers.stun], [parse_turn(*turn) for turn in servers.turn]
    certificate = Certificate.make()
    ice = Ice(controlling=sender, interfaces=servers.interfaces)
    link = Link(ice, certificate, Dtls(ice, certificate, client=sender), late)
    try:
        yield link
    except BaseException:
        await link.close()
        raise


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run something that only helps: its failure costs the set-up a candidate, not the success."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _while_news(ice: Ice, no_news: float) -> None:
    """Until a way is found. Raises TimeoutError once nothing has been heard of one for so many seconds."""
    ice.noted()
    while not ice.reached.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(ice.heard + no_news):
                await ice.reached.wait()
        if not ice.reached.is_set() and asyncio.get_running_loop().time() >= ice.heard + no_news:
            raise TimeoutError


@contextlib.asynccontextmanager
async def phase(failure: str, until: float) -> AsyncIterator[None]:
    """until: event loop time, seconds."""
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        raise PeerLost(f"{failure} in time") from None
