"""A TURN relay for many packets a turn: they are framed here, and go to the relay in batches.

aioice's own client starts a task for each packet. What is rare stays its work: the allocation, its refreshes,
the binding of channels, and ICE's checks. Source: RFC 8656 section 12.4 (ChannelData), section 3.7 (over TCP).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any

from transfer.ice_urls import Relay
from transfer.transports.light import (
    DEFAULT_ALLOCATION_LIFETIME,
    StunProtocol,
    TransactionError,
    TurnClientMixin,
    TurnTransport,
    aioice,
    candidate_foundation,
    candidate_priority,
)
from transfer.transports.lookup import look_up
from transfer.transports.udp import Address, UdpTransport

_HEADER = struct.Struct("!HH")
"""Channel (or type) and length, of ChannelData and STUN alike."""
_STUN_HEADER = 20
BIND_EVERY, BIND_AGAIN = 240, 20
"""Seconds until a channel is bound again, and until that is repeated if it failed.

A channel lasts 600 s, but the permission that comes with it 300 s. Source: RFC 8656 sections 9, 12.
"""


class RelayTransport(TurnTransport):
    """As `UdpTransport`, to peers by way of the relay; made by `relayed_candidate`."""

    def __init__(self, client: _Client) -> None:
        super().__init__(client)  # type: ignore[arg-type]
        self._client = client

    @property
    def full(self) -> bool:
        return self._client.full

    def may_fragment(self) -> None:
        self._client.may_fragment()

    def send_batch(self, data: bytes, size: int, address: Address) -> None:
        """Packets of `size` bytes each, the last maybe shorter, laid end to end."""
        client = self._client
        channel = client.channel(address)
        if channel is None:  # the first packet to a peer binds one
            for at in range(0, len(data), size):
                self.sendto(data[at : at + size], address)
        elif not client.transport.is_closing():
            client.send_framed(channel, data, size)


class _Client(TurnClientMixin):
    """What UDP and TCP have in common."""

    receiver: Any  # a `udp.Batches`
    full = False

    def __init__(self, server: tuple[str, int], relay: Relay) -> None:
        super().__init__(server, relay.username, relay.password, DEFAULT_ALLOCATION_LIFETIME, BIND_EVERY)
        self._binding: asyncio.Task[None] | None = None

    def may_fragment(self) -> None: ...

    def send_framed(self, channel: int, data: bytes, size: int) -> None:
        """Packets of `size` bytes each, the last maybe shorter."""
        raise NotImplementedError

    def channel(self, address: Address) -> int | None:
        """The one that is bound to that peer; None before. It is bound again in time."""
        channel: int | None = self.peer_to_channel.get(address)
        now = time.time()  # aioice's clock for it
        if channel is not None and now > self.channel_refresh_at[channel]:
            self.channel_refresh_at[channel] = now + BIND_AGAIN
            self._binding = asyncio.create_task(self._bind_again(channel, address))
        return channel

    async def _bind_again(self, channel: int, address: Address) -> None:
        with contextlib.suppress(ConnectionError, TransactionError):
            await self.channel_bind(channel, address)
            self.channel_refresh_at[channel] = time.time() + BIND_EVERY

    def _packet(self, data: bytes) -> None:
        """One message of the relay: without its padding, if it is ChannelData."""
        channel, length = _HEADER.unpack_from(data)
        if channel & 0xC000 != 0x4000:
            self.datagram_received(data, self.server)
        elif self.receiver is not None and 0 < length <= len(data) - _HEADER.size:
            peer = self.channel_to_peer.get(channel)
            if peer is not None:
                self.receiver.batch_received(data[_HEADER.size : _HEADER.size + length], length, peer)

    def turn_ended(self) -> None:
        if self.receiver is not None:
            self.receiver.turn_ended()

    def writable(self) -> None:
        if self.receiver is not None:
            self.receiver.writable()


class _UdpClient(_Client):
    transport: UdpTransport

    @property
    def full(self) -> bool:  # type: ignore[override]
        return bool(self.transport.full)

    def may_fragment(self) -> None:
        self.transport.may_fragment()

    def batch_received(self, data: bytes, size: int, address: Address) -> None:
        if address[:2] == self.server and size >= _HEADER.size:
            for at in range(0, len(data) - _HEADER.size + 1, size):
                self._packet(data[at : at + size])

    def send_framed(self, channel: int, data: bytes, size: int) -> None:
        self.transport.send_batch(_framed(channel, data, size, 1), size + _HEADER.size, self.server)

    def _send(self, data: bytes) -> None:
        self.transport.sendto(data, self.server)


class _TcpClient(_Client, asyncio.Protocol):
    """Every message is padded to four bytes."""

    transport: asyncio.Transport
    _rest = b""

    def send_framed(self, channel: int, data: bytes, size: int) -> None:
        self.transport.write(_framed(channel, data, size, 4))

    def data_received(self, data: bytes) -> None:
        data, at = self._rest + data, 0
        while len(data) - at >= _HEADER.size:
            kind, length = _HEADER.unpack_from(data, at)
            head = _HEADER.size if kind & 0xC000 == 0x4000 else _STUN_HEADER
            end = at + head + length + -length % 4
            if end > len(data):
                break
            self._packet(data[at:end])
            at = end
        self._rest = data[at:]
        self.turn_ended()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.writable()

    def _send(self, data: bytes) -> None:
        self.transport.write(data + bytes(-len(data) % 4))


def _framed(channel: int, data: bytes, size: int, multiple: int) -> bytes:
    """Packets of `size` bytes each, the last maybe shorter, as ChannelData of a multiple of so many bytes."""
    header, padding = _HEADER.pack(channel, size), bytes(-size % multiple)
    parts: list[bytes] = []
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        if len(piece) < size:
            header, padding = _HEADER.pack(channel, len(piece)), bytes(-len(piece) % multiple)
        parts += (header, piece, padding)
    return b"".join(parts)


async def relayed_candidate(
    relay: Relay, protocol_factory: Callable[[], StunProtocol]
) -> tuple[aioice.Candidate, StunProtocol]:
    """An address at the relay, and the protocol that packets to it come to. Raises OSError, TransactionError, KeyError."""
    transport: Any
    client: _Client
    address = await look_up(relay.host)
    if relay.transport == "tcp":
        loop = asyncio.get_running_loop()
        secure = ssl.create_default_context() if relay.tls else None
        transport, client = await loop.create_connection(
            lambda: _TcpClient((address, relay.port), relay),
            address,
            relay.port,
            ssl=secure,
            server_hostname=relay.host if relay.tls else None,
        )
    else:
        client = _UdpClient((address, relay.port), relay)
        transport = UdpTransport("::" if ":" in address else "0.0.0.0", client)
        client.connection_made(transport)
    protocol = protocol_factory()
    try:
        await RelayTransport(client)._connect(protocol)
    except BaseException:
        transport.close()
        raise
    host, port = protocol.transport.get_extra_info("sockname")
    ours = protocol.transport.get_extra_info("related_address")
    protocol.local_candidate = aioice.Candidate(
        foundation=candidate_foundation("relay", "udp", host),
        component=1,
        transport="udp",
        priority=candidate_priority(1, "relay"),
        host=host,
        port=port,
        type="relay",
        related_address=ours[0],
        related_port=ours[1],
    )
    return protocol.local_candidate, protocol
