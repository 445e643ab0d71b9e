"""A TURN relay for many packets a turn: they are framed here, and go to the relay in batches.

aioice's own client starts a task for each packet. What is rare stays its work: the allocation, its refreshes,
the binding of channels, and ICE's checks. Source: RFC 8656 section 12.4 (ChannelData), section 3.7 (over TCP).
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable
from typing import Any

from transfer.ice_urls import Relay
from transfer.transports.inside_aioice import (
    Candidate,
    RelayClient,
    StunProtocol,
    TurnTransport,
    allocate,
    local_candidate,
)
from transfer.transports.lookup import look_up
from transfer.transports.udp import Address, UdpTransport

_HEADER = struct.Struct("!HH")
"""Channel (or type) and length, of ChannelData and STUN alike."""
_STUN_HEADER = 20


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


class _Client(RelayClient):
    """What UDP and TCP have in common."""

    receiver: Any  # a `udp.Batches`
    full = False

    def __init__(self, server: tuple[str, int], relay: Relay) -> None:
        super().__init__(server, relay.username, relay.password)

    def may_fragment(self) -> None: ...

    def send_framed(self, channel: int, data: bytes, size: int) -> None:
        """Packets of `size` bytes each, the last maybe shorter."""
        raise NotImplementedError

    def _packet(self, data: bytes) -> None:
        """One message of the relay: without its padding, if it is ChannelData."""
        channel, length = _HEADER.unpack_from(data)
        if channel & 0xC000 != 0x4000:
            self.datagram_received(data, self.server)
        elif self.receiver is not None and 0 < length <= len(data) - _HEADER.size:
            peer = self.peer(channel)
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

    def say(self, data: bytes) -> None:
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

    def say(self, data: bytes) -> None:
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
) -> tuple[Candidate, StunProtocol]:
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
        await allocate(RelayTransport(client), protocol)
    except BaseException:
        transport.close()
        raise
    made = protocol.transport
    protocol.local_candidate = local_candidate(
        "relay", made.get_extra_info("sockname")[:2], made.get_extra_info("related_address")[:2]
    )
    return protocol.local_candidate, protocol
