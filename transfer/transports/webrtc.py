"""A channel to one peer over WebRTC: ICE finds a way, DTLS encrypts, SCTP makes it reliable.

No SDP and no RTCPeerConnection: the ORTC objects of aiortc are joined directly, and what the two ends
must know of each other crosses the bus in sealed signals. `connect` sets up ICE and DTLS, and knows
nothing of the data channel that `open_channel` puts on top.

Host candidates go with the offer and the answer, at once. Server-reflexive and relayed ones are
asked for meanwhile and follow as `Candidate` signals, so that a dead STUN server delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from transfer import wire
from transfer.errors import PeerLost, ProtocolError, XferError
from transfer.session import WINDOW
from transfer.transports.peer import Channel

if TYPE_CHECKING:
    from aiortc import RTCCertificate, RTCDataChannel

    from transfer.transports.aiortc_private import Dtls, Ice, Relay, Sctp, Server

DEADLINE = 10.0
"""Seconds for the whole set-up, the peer's answer included."""
MESSAGE = 1 << 14
"""Bytes of a message that we send: larger ones are hardly faster, and at 64 kbit/s this one takes 2 s."""
LEAST_MESSAGE = 1200
BUFFER_HIGH, BUFFER_LOW = 1 << 20, 256 << 10
"""Bytes queued in the data channel above which `send` waits, and below which it goes on."""
UNREAD = WINDOW + (4 << 20)
"""Bytes that may wait for `receive`. The session reads at once, so an honest peer stays far below."""
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


@dataclass(frozen=True)
class IceServers:
    """stun: `stun:host:port` URLs. turn: (`turn:host:port?transport=udp`, username, password).

    Empty by default: no server is asked that the user did not name.
    """

    stun: list[str] = field(default_factory=list)
    turn: list[tuple[str, str, str]] = field(default_factory=list, repr=False)


async def prepare() -> None:
    """Import aiortc in a thread (0.4 s): worth calling while one waits for the peer anyway."""
    await asyncio.to_thread(importlib.import_module, "transfer.transports.aiortc_private")


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
    async with _setting_up(servers, sender=True, until=until) as link:
        await talk.say(wire.Offer, description=await link.describe())
        async with _meanwhile(link.trickle(talk)):
            async with _phase("the peer did not answer the offer", until):
                theirs = await _hear_answer(talk, link)
            async with _meanwhile(_hear_candidates(talk, link)):
                await link.connect(theirs, until)
                return await open_channel(link, theirs, until)


async def answer(
    talk: Conversation, their_offer: wire.Offer, servers: IceServers, *, deadline: float = DEADLINE
) -> Channel:
    """The receiver's side: answer an offer and connect. As `offer` otherwise."""
    until = asyncio.get_running_loop().time() + deadline
    theirs = their_offer.description
    async with _setting_up(servers, sender=False, until=until) as link:
        await talk.say(wire.Answer, description=await link.describe())
        async with _meanwhile(link.trickle(talk)), _meanwhile(_hear_candidates(talk, link)):
            await link.connect(theirs, until)
            return await open_channel(link, theirs, until)


class Link:
    """ICE and DTLS to one peer: an encrypted path for datagrams, and no more."""

    def __init__(
        self, ice: Ice, certificate: RTCCertificate, dtls: Dtls, late: tuple[list[Server], list[Relay]]
    ) -> None:
        self.ice, self.dtls = ice, dtls
        self._certificate = certificate
        self._late = late
        self._sender = ice.role == "controlling"

    async def describe(self) -> wire.Description:
        """What the other end must know. Raises PeerLost on a host without a network address."""
        candidates = await self.ice.gather_hosts()
        if not candidates and not self._late[1]:
            raise PeerLost("this host has no network address for a peer to reach")
        parameters = self.ice.iceGatherer.getLocalParameters()
        return wire.Description(
            ufrag=parameters.usernameFragment or "",
            password=parameters.password or "",
            candidates=candidates,
            fingerprints=[(f.algorithm, f.value) for f in self._certificate.getFingerprints()],
            setup="passive" if self._sender else "active",
        )

    async def trickle(self, talk: Conversation) -> None:
        """Say the candidates that are found late, until there are no more."""
        async with contextlib.aclosing(self.ice.gather_late(*self._late)) as lines:
            async for line in lines:
                await talk.say(wire.Candidate, candidate=line)

    async def connect(self, theirs: wire.Description, until: float) -> None:
        """Find a way and encrypt it. The peer must hold the certificate that its sealed description names.

        Raises PeerLost, or ProtocolError for a description that makes no sense.
        """
        from aiortc import RTCDtlsFingerprint, RTCDtlsParameters, RTCIceParameters

        self._check(theirs)
        async with _phase("no network path to the peer was found", until):
            for line in theirs.candidates:
                await self.ice.add(line)
            await self.ice.start(RTCIceParameters(usernameFragment=theirs.ufrag, password=theirs.password))
        fingerprints = [RTCDtlsFingerprint(algorithm, value) for algorithm, value in theirs.fingerprints]
        async with _phase("the encrypted connection to the peer was not made", until):
            try:
                await self.dtls.start(RTCDtlsParameters(fingerprints=fingerprints))
            except Exception as error:  # whatever a certificate can make cryptography and OpenSSL raise
                raise PeerLost("the peer's certificate cannot be read") from error
        if self.dtls.state != "connected":
            raise PeerLost(
                "the encrypted connection to the peer was refused: its certificate is not the announced one"
            )

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TEARDOWN):
                await self.dtls.stop()
                await self.ice.stop()

    def _check(self, theirs: wire.Description) -> None:
        hashes = {algorithm.lower() for algorithm, _ in theirs.fingerprints}
        if (
            "sha-256" not in hashes
            or not 4 <= len(theirs.ufrag) <= 256
            or not 22 <= len(theirs.password) <= 256
        ):
            raise ProtocolError("the peer's description of itself is incomplete")
        if theirs.setup != ("active" if self._sender else "passive"):
            raise ProtocolError("the peer would not take its part in the encrypted handshake")
        if not 0 < theirs.sctp_port < 65536 or theirs.max_message < LEAST_MESSAGE:
            raise ProtocolError("the peer's description of itself has impossible limits")


class DataChannel:
    """`peer.Channel` over aiortc's SCTP: one data channel, known to both beforehand (no DCEP round trip)."""

    def __init__(self, link: Link, sctp: Sctp, channel: RTCDataChannel, max_message: int) -> None:
        self.max_message = max_message
        self._link, self._sctp, self._channel = link, sctp, channel
        self._unread: deque[bytes] = deque()
        self._held = 0
        self._end: XferError | None = None
        self._changed = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        channel.bufferedAmountLowThreshold = BUFFER_LOW
        channel.on("message", self._arrived)
        channel.on("bufferedamountlow", self._changed.set)
        channel.on("open", self._changed.set)
        channel.on("close", self._lost)
        link.dtls.on("statechange", self._dtls_changed)

    async def opened(self) -> None:
        await self._until(lambda: self._channel.readyState == "open")

    async def send(self, message: bytes) -> None:
        if self._channel.bufferedAmount >= BUFFER_HIGH:
            await self._until(lambda: self._channel.bufferedAmount <= BUFFER_LOW)
        if self._end is not None:
            raise self._end
        self._channel.send(message)

    async def receive(self) -> bytes:
        await self._until(lambda: bool(self._unread))
        message = self._unread.popleft()
        self._held -= len(message)
        return message

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        with contextlib.suppress(TimeoutError, XferError):
            async with asyncio.timeout(FLUSH):
                self._channel.bufferedAmountLowThreshold = 0
                await self._until(lambda: self._channel.bufferedAmount == 0)
        self._stop(PeerLost("the channel to the peer is closed"))
        await self._sctp.stop()
        await self._link.close()

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            if self._end is not None:
                raise self._end
            self._changed.clear()
            await self._changed.wait()

    def _arrived(self, message: bytes | str) -> None:
        if isinstance(message, str):
            self._stop(ProtocolError("the peer sent text on a channel for bytes"))
        elif self._end is None:
            self._unread.append(message)
            self._held += len(message)
            if self._held > UNREAD:
                self._stop(ProtocolError("the peer sent more than its window"))
            self._changed.set()

    def _lost(self) -> None:
        self._stop(PeerLost("the connection to the peer was closed"))

    def _dtls_changed(self) -> None:
        if self._link.dtls.state in ("closed", "failed"):
            self._lost()

    def _stop(self, end: XferError) -> None:
        self._end = self._end or end
        self._changed.set()


async def open_channel(link: Link, theirs: wire.Description, until: float) -> DataChannel:
    """Start SCTP on a connected link at once (its first packets would be lost otherwise). Raises PeerLost."""
    from aiortc import RTCDataChannel, RTCDataChannelParameters, RTCSctpCapabilities

    from transfer.transports.aiortc_private import Sctp

    sctp = Sctp(link.dtls)
    raw = RTCDataChannel(sctp, RTCDataChannelParameters(label="xfer", negotiated=True, id=0))
    channel = DataChannel(link, sctp, raw, min(MESSAGE, theirs.max_message))
    try:
        async with _phase("the data channel to the peer did not open", until):
            await sctp.start(RTCSctpCapabilities(maxMessageSize=theirs.max_message), theirs.sctp_port)
            await channel.opened()
    except BaseException:
        await channel.close()
        raise
    return channel


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
async def _setting_up(servers: IceServers, *, sender: bool, until: float) -> AsyncIterator[Link]:
    """A link that is closed again if the set-up does not succeed."""
    async with _phase("the network library was not loaded", until):
        await prepare()
    from aiortc import RTCCertificate

    from transfer.transports.aiortc_private import Dtls, Ice, parse_stun, parse_turn

    late = [parse_stun(url) for url in servers.stun], [parse_turn(*turn) for turn in servers.turn]
    certificate = await asyncio.to_thread(RTCCertificate.generateCertificate)
    ice = Ice(controlling=sender)
    link = Link(ice, certificate, Dtls(ice, [certificate]), late)
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


@contextlib.asynccontextmanager
async def _phase(failure: str, until: float) -> AsyncIterator[None]:
    """until: event loop time, seconds."""
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        raise PeerLost(f"{failure} in time") from None
