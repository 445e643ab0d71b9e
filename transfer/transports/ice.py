"""ICE: where the peer may be reached from here, and which of these ways works.

We bind the sockets ourselves (`UdpTransport`), and look at aioice's list of pairs: a pair that was heard on will do for
the handshake, long before one is nominated. aioice hands each datagram to its STUN parser first, and data through a
queue and a task; `_Sorting` tells them apart by the first byte (RFC 7983) and hands data on in batches.
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

from transfer.ice_urls import Relay, Server
from transfer.transports.inside_aioice import (
    Candidate,
    CandidatePair,
    Connection,
    StunProtocol,
    TransactionError,
    local_candidate,
    server_reflexive_candidate,
)
from transfer.transports.interfaces import host_addresses
from transfer.transports.lookup import look_up
from transfer.transports.turn import RelayTransport, relayed_candidate
from transfer.transports.udp import Address, UdpTransport
from transfer.wire import MAX_CANDIDATES

if TYPE_CHECKING:
    from transfer.transports.dtls import Dtls


GUESSES = 4
"""Ways that a first word goes out on before any is known to work."""
DATA_RECORD = 23
"""The first byte of a DTLS record with data."""
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
        self._connection = Connection(controlling=controlling, changed=self.look)
        self._connecting: asyncio.Task[None] | None = None
        self._looking_up: list[asyncio.Task[None]] = []

    @property
    def ufrag(self) -> str:
        return self._connection.local_username

    @property
    def password(self) -> str:
        return self._connection.local_password

    @property
    def remote_candidates(self) -> list[Candidate]:
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
        return [Way(pair.protocol.transport, pair.remote_addr) for pair in self._connection.pairs[:GUESSES]]

    def knows(self, address: Address) -> bool:
        """Whether the peer named that address, or proved to be there. The handshake is not protected from others."""
        return self._connection.knows(address[0], address[1])

    def look(self, heard: CandidatePair | None = None) -> None:
        """The list of pairs has changed. heard: the peer asked on it, and proved who it is."""
        working = self._connection.working
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
        ice.begin_local()
        for address in host_addresses(self._interfaces):
            try:
                ice.add_local(await self._bind(address))
            except OSError:
                continue
        ice.end_local()
        return [candidate.to_sdp() for candidate in ice.local_candidates]

    def noted(self) -> None:
        """There is news of a way."""
        self.heard = asyncio.get_running_loop().time()

    def take_records(self, dtls: Dtls) -> None:
        """Who takes what is encrypted."""
        self.dtls = dtls

    async def _bind(self, address: str) -> StunProtocol:
        """A socket on that address, and its candidate. Raises OSError."""
        protocol = _Sorting(self, self._connection)
        try:
            transport: asyncio.DatagramTransport = UdpTransport(address, protocol)
            protocol.connection_made(transport)
        except NotImplementedError:  # Windows: its loop watches no sockets
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=(address, 0))
        protocol.local_candidate = local_candidate("host", transport.get_extra_info("sockname")[:2])
        return protocol

    async def gather_late(self, stun: Sequence[Server], turn: Sequence[Relay]) -> AsyncGenerator[str, None]:
        """Server-reflexive and relayed candidate lines, as they come; a silent server is passed over."""
        hosts = [p for p in self._connection.ends if ":" not in p.local_candidate.host]
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
            candidate = Candidate.from_sdp(line)
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

    async def _look_up(self, candidate: Candidate) -> None:
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
        with contextlib.suppress(TimeoutError, OSError, TransactionError, KeyError):
            async with asyncio.timeout(LATE):
                candidate, protocol = await relayed_candidate(
                    relay=relay, protocol_factory=lambda: _Sorting(self, self._connection)
                )
            self._connection.add_local(protocol)
            return candidate.to_sdp()
        return None


class _Sorting(StunProtocol):
    """Packets are told apart by their first byte (RFC 7983), before anything tries to read them."""

    def __init__(self, ice: Ice, connection: Connection) -> None:
        super().__init__(connection)
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
