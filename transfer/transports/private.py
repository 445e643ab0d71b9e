"""What of aioice and pyOpenSSL is not public: the place to look at when a new version comes (`light` imports aioice).

- aioice starts to send only when all candidates are gathered, which a dead STUN server delays by 5 s, and it pairs
  no local candidate that is found later. So we bind the sockets ourselves (`UdpTransport`), add what is found late,
  and look at its list of pairs: a pair that was heard on will do for the handshake, long before one is nominated.
- It hands each datagram to its STUN parser first, and data through a queue and a task. `_Sorting` tells them apart
  by the first byte (RFC 7983) and hands data on in batches.
- pyOpenSSL takes a Python call, a lock and a buffer for each record. `Records` calls OpenSSL itself for many at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL

from transfer.errors import XferError
from transfer.ice_urls import Relay, Server
from transfer.transports.interfaces import host_addresses
from transfer.transports.light import (
    CandidatePair,
    Message,
    StunProtocol,
    TransactionError,
    aioice,
    candidate_foundation,
    candidate_priority,
    server_reflexive_candidate,
)
from transfer.transports.lookup import look_up
from transfer.transports.turn import RelayTransport, relayed_candidate
from transfer.transports.udp import Address, UdpTransport
from transfer.wire import MAX_CANDIDATES

if TYPE_CHECKING:
    from transfer.transports.dtls import Dtls


try:
    _lib, _ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]
    _SSL_write, _SSL_read, _BIO_write = _lib.SSL_write, _lib.SSL_read, _lib.BIO_write
except AttributeError as missing:
    raise XferError(f"the installed pyOpenSSL has no {missing.name}, which the direct route needs") from None

GUESSES = 4
"""Ways that a first word goes out on before any is known to work."""
DATA_RECORD = 23
"""The first byte of a DTLS record with data."""
LARGEST_RECORD, MOST_OVERHEAD = 16_640, 128
"""Bytes of a record, and how many of them are not its data. Source: RFC 6347, RFC 5246 section 6.2.3."""
BATCHING = (UdpTransport, RelayTransport)
"""Transports that take many packets at once."""
LATE = 5.0
"""Seconds that a STUN or TURN server may take; nothing waits for it but its own candidate."""
MAX_NAMES = 8
"""Names of a peer that are looked up: a browser has one for each of its addresses."""
NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.local", re.IGNORECASE)
"""What a browser says instead of an address. Source: draft-ietf-mmusic-mdns-ice-candidates section 3.1.1."""


@dataclass(frozen=True)
class Way:
    """A socket of ours, or a relay's, and where the peer is reached from it."""

    transport: Any
    address: tuple[str, int]

    @property
    def full(self) -> bool:
        """The system takes no more just now."""
        return isinstance(self.transport, BATCHING) and self.transport.full

    def may_fragment(self) -> None:
        """IP may cut packets on their way from now on."""
        if isinstance(self.transport, BATCHING):
            self.transport.may_fragment()

    def send(self, run: bytes, size: int) -> None:
        """Datagrams of `size` bytes each, the last maybe shorter."""
        if isinstance(self.transport, BATCHING):
            self.transport.send_batch(run, size, self.address)
        else:
            for at in range(0, len(run), size):
                self.transport.sendto(run[at : at + size], self.address)


class Ice:
    """Host candidates at once, the others as they are found. It never fails by itself: set a deadline.

    way: where to send just now; the best that is known to work, or that the peer was heard on. None before.
    reached: a way is known to work in both directions.
    """

    def __init__(self, *, controlling: bool, interfaces: Sequence[str] = ()) -> None:
        """interfaces: as for `host_addresses`."""
        self.controlling = controlling
        self.way: Way | None = None
        self.reached = asyncio.Event()
        self._interfaces = interfaces
        self.dtls: Dtls | None = None
        self.heard = 0.0
        """When there was news of a way, by the loop's clock: another address of either end, or a STUN packet."""
        self._connection = _Connection(self, controlling)
        self._connecting: asyncio.Task[None] | None = None
        self._looking_up: list[asyncio.Task[None]] = []

    @property
    def ufrag(self) -> str:
        return self._connection.local_username

    @property
    def password(self) -> str:
        return self._connection.local_password

    @property
    def remote_candidates(self) -> list[aioice.Candidate]:
        return self._connection.remote_candidates

    def start(self, ufrag: str, password: str) -> None:
        """Look for a way to the peer, whose credentials these are. Candidates may still come."""
        self._connection.remote_username, self._connection.remote_password = ufrag, password
        self._connecting = asyncio.create_task(self._connection.connect())

    async def close(self) -> None:
        self.way = None
        tasks = [*self._looking_up, *([self._connecting] if self._connecting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.close()

    def guesses(self) -> list[Way]:
        """Where the peer may be, the likeliest first, as long as no way is known."""
        return [
            Way(pair.protocol.transport, pair.remote_addr) for pair in self._connection._check_list[:GUESSES]
        ]

    def knows(self, address: Address) -> bool:
        """Whether the peer named that address, or proved to be there. The handshake is not protected from others."""
        return any(
            candidate._network_host == address[0] and candidate.port == address[1]
            for candidate in self._connection._remote_candidates
        )

    def look(self, heard: CandidatePair | None = None) -> None:
        """The list of pairs has changed. heard: the peer asked on it, and proved who it is."""
        ice = self._connection
        working = ice._nominated.get(1) or next(
            (pair for pair in ice._check_list if pair.state is CandidatePair.State.SUCCEEDED), None
        )
        if working is not None:
            self.reached.set()
        best = working or (heard if self.way is None else None)
        if best is None:
            return
        way = Way(best.protocol.transport, best.remote_addr)
        if way != self.way:
            self.way = way
            if self.dtls is not None:
                self.dtls.way_changed()

    async def gather_hosts(self) -> list[str]:
        """Bind a socket to each local address, or to those of the interfaces. Candidate lines; empty if none could be bound."""
        ice = self._connection
        ice._local_candidates_start = True
        for address in host_addresses(self._interfaces):
            try:
                protocol = await self._bind(address)
            except OSError:
                continue
            ice._protocols.append(protocol)
            ice._local_candidates.append(protocol.local_candidate)
        ice._local_candidates_end = True
        return [candidate.to_sdp() for candidate in ice.local_candidates]

    def noted(self) -> None:
        """There is news of a way."""
        self.heard = asyncio.get_running_loop().time()

    def take_records(self, dtls: Dtls) -> None:
        """Who takes what is encrypted."""
        self.dtls = dtls

    async def _bind(self, address: str) -> StunProtocol:
        """A socket on that address, and its candidate. Raises OSError."""
        protocol = _Sorting(self)
        try:
            transport: asyncio.DatagramTransport = UdpTransport(address, protocol)
            protocol.connection_made(transport)
        except NotImplementedError:  # Windows: its loop watches no sockets
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=(address, 0))
        host, port = transport.get_extra_info("sockname")[:2]
        protocol.local_candidate = aioice.Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=1,
            transport="udp",
            priority=candidate_priority(1, "host"),
            host=host,
            port=port,
            type="host",
        )
        return protocol

    async def gather_late(self, stun: Sequence[Server], turn: Sequence[Relay]) -> AsyncGenerator[str, None]:
        """Server-reflexive and relayed candidate lines, as they come; a silent server is passed over."""
        hosts = [p for p in self._connection._protocols if ":" not in p.local_candidate.host]
        asking: list[Coroutine[None, None, str | None]] = []
        for host, port in stun:
            address = look_up(host, socket.AF_INET)
            address.add_done_callback(lambda found: found.cancelled() or found.exception())  # nobody may wait
            asking += [self._reflect(protocol, address, port) for protocol in hosts]
        asking += [self._relay(relay) for relay in turn]
        tasks = [asyncio.create_task(question) for question in asking]
        try:
            for answer in asyncio.as_completed(tasks):
                if line := await answer:
                    self.noted()
                    yield line
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def add(self, line: str) -> None:
        """Take a candidate line of the peer; a browser's name is looked up meanwhile.

        One that is no UDP address of component 1 is passed over.
        """
        try:
            candidate = aioice.Candidate.from_sdp(line)
            if not (named := NAME.fullmatch(candidate.host)):
                ipaddress.ip_address(candidate.host)
        except ValueError:
            return
        usable = (
            candidate.component == 1 and candidate.transport.lower() == "udp" and 0 < candidate.port < 65536
        )
        if not usable or len(self._connection.remote_candidates) >= MAX_CANDIDATES:
            return
        if not named:
            await self._connection.add_remote_candidate(candidate)
            self.noted()
        elif len(self._looking_up) < MAX_NAMES:
            self._looking_up.append(asyncio.create_task(self._look_up(candidate)))

    async def _look_up(self, candidate: aioice.Candidate) -> None:
        with contextlib.suppress(TimeoutError, OSError):  # another program may have the port for itself
            async with asyncio.timeout(LATE):
                await self._connection.add_remote_candidate(candidate)
                self.noted()

    async def _reflect(self, protocol: StunProtocol, server: asyncio.Future[str], port: int) -> str | None:
        with contextlib.suppress(TimeoutError, OSError, TransactionError, KeyError):
            async with asyncio.timeout(LATE):
                address = await asyncio.shield(server)
                candidate, _ = await server_reflexive_candidate(protocol, (address, port))
            local = protocol.local_candidate
            if (candidate.host, candidate.port) != (local.host, local.port):
                return candidate.to_sdp()
        return None

    async def _relay(self, relay: Relay) -> str | None:
        ice = self._connection
        with contextlib.suppress(TimeoutError, OSError, TransactionError, KeyError):
            async with asyncio.timeout(LATE):
                candidate, protocol = await relayed_candidate(
                    relay=relay, protocol_factory=lambda: _Sorting(self)
                )
            ice._protocols.append(protocol)
            ice._local_candidates.append(candidate)
            if ice._early_checks_done:  # else connect() is still to pair it
                for remote in ice.remote_candidates:
                    ice._pair_remote_candidate(remote)
                ice.sort_check_list()
            return candidate.to_sdp()
        return None


class _Connection(aioice.Connection):
    """Says when its list of pairs has changed."""

    def __init__(self, ice: Ice, controlling: bool) -> None:
        super().__init__(ice_controlling=controlling)
        self._ice = ice

    def check_complete(self, pair: CandidatePair) -> None:
        super().check_complete(pair)
        self._ice.look()

    def check_incoming(self, message: Message, addr: tuple[str, int], protocol: StunProtocol) -> None:
        super().check_incoming(message, addr, protocol)
        self._ice.look(
            next((p for p in self._check_list if p.protocol is protocol and p.remote_addr == addr), None)
        )


class Records:
    """Data of a pyOpenSSL connection whose handshake is done, many records a call."""

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self._ssl, self._bio = connection._ssl, connection._into_ssl
        self._plain = _ffi.new("char[]", LARGEST_RECORD)
        self._view = _ffi.buffer(self._plain)

    def seal(self, packets: list[bytes]) -> tuple[bytes, int]:
        """A record for each, laid end to end, and the bytes that each is larger than its packet. Nothing on failure."""
        ssl, total = self._ssl, 0
        for packet in packets:
            if _SSL_write(ssl, packet, len(packet)) <= 0:
                _lib.ERR_clear_error()
                return b"", 0
            total += len(packet)
        sealed = self._connection.bio_read(total + len(packets) * MOST_OVERHEAD)
        return sealed, (len(sealed) - total) // len(packets)

    def open(self, data: bytes, size: int, into: list[bytes]) -> None:
        """Records of `size` bytes each, the last maybe shorter. What is no good record is passed over."""
        ssl, bio, plain, view = self._ssl, self._bio, self._plain, self._view
        step = (
            max(1, LARGEST_RECORD // size) * size
        )  # OpenSSL reads no more at once, and forgets what is cut off
        for at in range(0, len(data), step):
            piece = data[at : at + step] if len(data) > step else data
            _BIO_write(bio, _ffi.from_buffer(piece), len(piece))
            while (length := _SSL_read(ssl, plain, LARGEST_RECORD)) > 0:
                into.append(view[:length])
        _lib.ERR_clear_error()


class _Sorting(StunProtocol):
    """Packets are told apart by their first byte (RFC 7983), before anything tries to read them."""

    def __init__(self, ice: Ice) -> None:
        super().__init__(ice._connection)
        self._ice = ice

    def batch_received(self, data: bytes, size: int, address: Address) -> None:
        if (
            data[0] == DATA_RECORD
            and self._ice.dtls is not None
            and self._ice.dtls.records_received(data, size)
        ):
            return
        for at in range(0, len(data), size):
            self._sort(data[at : at + size], address)

    def datagram_received(self, data: bytes | str, address: tuple[Any, ...]) -> None:
        """From a transport that is none of ours: a relay's."""
        assert isinstance(data, bytes)
        if data:
            self.batch_received(data, len(data), address)
            self.turn_ended()

    def turn_ended(self) -> None:
        if self._ice.dtls is not None:
            self._ice.dtls.turn_ended()

    def writable(self) -> None:
        if self._ice.dtls is not None:
            self._ice.dtls.writable()

    def _sort(self, packet: bytes, address: Address) -> None:
        if packet[0] < 4:
            self._ice.noted()
            super().datagram_received(packet, address)
        elif 19 < packet[0] < 64 and self._ice.dtls is not None and self._ice.knows(address):
            self._ice.dtls.datagram_received(packet)
