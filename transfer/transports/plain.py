"""The direct route by aiortc's public interface alone, where aioice or pyOpenSSL are not as we know them.

Slower (10 MB/s and less), but the same to the peer, who notices only that SCTP's handshake has to be made. Addresses
are gathered before they are told, so a STUN or TURN server that is silent costs five seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec
from aiortc import RTCConfiguration, RTCDataChannel, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

from transfer import wire
from transfer.errors import PeerLost, ProtocolError, XferError
from transfer.ice_urls import IceServers
from transfer.transports import sdp
from transfer.transports.data_channel import BUFFER_HIGH, BUFFER_LOW, FLUSH, MESSAGE
from transfer.transports.interfaces import host_addresses
from transfer.transports.link import TEARDOWN, phase
from transfer.transports.webrtc import Conversation

CHECKED = "1.16."
"""The versions whose insides were looked at: how these begin. Only `candidate_from_sdp` is nowhere described."""

LABEL, STREAM = "xfer", 0
"""Of the channel that both ends have by agreement."""


class PlainChannel:
    """`peer.Channel` over aiortc's data channel."""

    max_message = MESSAGE

    def __init__(self, connection: RTCPeerConnection, channel: RTCDataChannel) -> None:
        self._connection, self._channel = connection, channel
        self._unread: deque[bytes | str] = deque()
        self._over = False
        self._changed = asyncio.Event()
        channel.bufferedAmountLowThreshold = BUFFER_LOW
        channel.on("message", self._arrived)
        channel.on("bufferedamountlow", self._changed.set)
        channel.on("open", self._changed.set)
        channel.on("close", self._end)
        connection.on("connectionstatechange", self._look)

    async def opened(self) -> None:
        await self._until(lambda: self._channel.readyState == "open")

    async def send(self, message: bytes) -> None:
        if self._channel.bufferedAmount >= BUFFER_HIGH:
            await self._until(lambda: self._channel.bufferedAmount <= BUFFER_LOW)
        if self._over:
            raise _closed()
        self._channel.send(message)

    async def receive(self) -> bytes:
        await self._until(lambda: bool(self._unread))
        message = self._unread.popleft()
        if isinstance(message, str):
            raise ProtocolError("the peer sent text on a channel for bytes")
        return message

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError, XferError):
            async with asyncio.timeout(FLUSH):
                self._channel.bufferedAmountLowThreshold = 0
                await self._until(lambda: not self._channel.bufferedAmount)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TEARDOWN):
                await self._connection.close()
        self._end()

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            if self._over:
                raise _closed()
            self._changed.clear()
            await self._changed.wait()

    def _arrived(self, message: bytes | str) -> None:
        self._unread.append(message)
        self._changed.set()

    def _look(self) -> None:
        if self._connection.connectionState in ("closed", "failed", "disconnected"):
            self._end()

    def _end(self) -> None:
        self._over = True
        self._changed.set()


async def offer(talk: Conversation, servers: IceServers, until: float) -> PlainChannel:
    """As `webrtc.offer`. until: event loop time, seconds."""
    async with _connecting(servers) as (connection, channel):
        await connection.setLocalDescription(await connection.createOffer())
        await talk.say(wire.Offer, description=_description(connection, servers))
        async with phase("the peer did not answer the offer", until):
            theirs, late = await _answer(talk)
        await _take(connection, "answer", theirs)
        for line in late:
            await _add(connection, line)
        return await _open(connection, channel, talk, until)


async def answer(
    talk: Conversation, theirs: wire.Description, servers: IceServers, until: float
) -> PlainChannel:
    """As `webrtc.answer`. until: event loop time, seconds."""
    async with _connecting(servers) as (connection, channel):
        await _take(connection, "offer", theirs)
        await connection.setLocalDescription(await connection.createAnswer())
        await talk.say(wire.Answer, description=_description(connection, servers))
        return await _open(connection, channel, talk, until)


async def _open(
    connection: RTCPeerConnection, channel: PlainChannel, talk: Conversation, until: float
) -> PlainChannel:
    """The channel, once it can be used; candidates that come meanwhile are taken."""

    async def hear() -> None:
        while True:
            signal = await talk.hear()
            if isinstance(signal, wire.Candidate):
                await _add(connection, signal.candidate)

    hearing = asyncio.create_task(hear())
    try:
        async with phase("no network path to the peer was found", until):
            await channel.opened()
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
    return channel


async def _answer(talk: Conversation) -> tuple[wire.Description, list[str]]:
    """Their description, and the candidates that came before it."""
    late: list[str] = []
    while True:
        signal = await talk.hear()
        if isinstance(signal, wire.Answer):
            return signal.description, late
        if isinstance(signal, wire.Candidate) and len(late) < wire.MAX_CANDIDATES:
            late.append(signal.candidate)


@contextlib.asynccontextmanager
async def _connecting(servers: IceServers) -> AsyncIterator[tuple[RTCPeerConnection, PlainChannel]]:
    """A connection that is closed again if the set-up does not succeed."""
    asked = [RTCIceServer(urls=url) for url in servers.stun]
    asked += [RTCIceServer(urls=url, username=user, credential=word) for url, user, word in servers.turn]
    connection = RTCPeerConnection(RTCConfiguration(iceServers=asked))
    channel = PlainChannel(connection, connection.createDataChannel(LABEL, negotiated=True, id=STREAM))
    try:
        yield connection, channel
    except BaseException:
        await channel.close()
        raise


def _description(connection: RTCPeerConnection, servers: IceServers) -> wire.Description:
    """Without `init`: SCTP's handshake is still to be made."""
    found = sdp.read(connection.localDescription.sdp).description
    ours = set(host_addresses(servers.interfaces))
    lines = [line for line in found.candidates if " typ host" not in line or line.split()[4] in ours]
    if not lines:
        raise PeerLost("this host has no network address for a peer to reach")
    return msgspec.structs.replace(found, candidates=lines)


async def _take(connection: RTCPeerConnection, kind: str, theirs: wire.Description) -> None:
    text = sdp.write(sdp.Session(theirs), secrets.randbits(62))
    try:
        await connection.setRemoteDescription(RTCSessionDescription(sdp=text, type=kind))
    except Exception as error:  # whatever it can raise for what a peer said
        raise ProtocolError("the peer's description of itself is incomplete") from error


async def _add(connection: RTCPeerConnection, line: str) -> None:
    with contextlib.suppress(ValueError, AssertionError, IndexError):
        candidate = candidate_from_sdp(line)
        candidate.sdpMid = "0"
        await connection.addIceCandidate(candidate)


def _closed() -> PeerLost:
    return PeerLost("the connection to the peer was closed")
