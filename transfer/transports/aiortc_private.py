"""Every place where aiortc and aioice are used below their public surface, for the versions that were read.

Importing this module imports aiortc (0.4 s): do it only when a peer is there, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncGenerator, Coroutine, Sequence

import aioice
import aiortc
import ifaddr
from aioice.ice import StunProtocol, relayed_candidate, server_reflexive_candidate
from aioice.stun import TransactionError
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceTransport, parse_stun_turn_uri
from aiortc.rtcsctptransport import DataChunk, RTCSctpTransport, SackChunk
from OpenSSL import SSL

from transfer.errors import UsageError, XferError
from transfer.session import WINDOW
from transfer.wire import MAX_CANDIDATES

KNOWN = (("aiortc", aiortc.__version__, "1.16."), ("aioice", aioice.__version__, "0.13."))
for _name, _found, _known in KNOWN:
    if not _found.startswith(_known):
        raise XferError(
            f"{_name} {_found} is installed, but the webrtc route was made for {_known}x",
            hint=f"install {_name}=={_known}*, or use `--via s3`",
        )

MAX_HOST_ADDRESSES = 16
RECEIVE_BUFFER = 4 << 20
"""Bytes that the system may hold for a socket (it grants what it allows): with aioice's 256 KiB a burst overflows it,
and each loss that SCTP does not see at once costs its least timeout of 1 s."""
LATE = 5.0
"""Seconds that a STUN or TURN server may take; nothing waits for it but its own candidate."""
BRIDGES = ("docker", "br-", "veth", "virbr", "vmnet", "vboxnet")
"""Names of interfaces that lead into this host's own containers and machines."""
REASSEMBLY = WINDOW + (2 << 20)
"""Bytes of unfinished messages that an honest sender cannot exceed, as it keeps to the window."""
MAX_FLIGHT = 512 << 10
"""Bytes sent and not acknowledged: aiortc walks all of them at each acknowledgement, so that a window that grows
without a loss slows it to a crawl."""

Server = tuple[str, int]
Relay = tuple[Server, str, bool, str, str]


class Ice(RTCIceTransport):
    """Host candidates at once, the others as they are found. It never fails by itself: set a deadline."""

    def __init__(self, *, controlling: bool) -> None:
        super().__init__(RTCIceGatherer(iceServers=[]))  # None would mean a public STUN server
        self._connection.ice_controlling = controlling

    async def gather_hosts(self) -> list[str]:
        """Bind a socket to each local address. Candidate lines; empty if none could be bound."""
        ice = self._connection
        ice._local_candidates_start = True
        ice._local_candidates += await ice.get_component_candidates(1, host_addresses())
        ice._local_candidates_end = True
        for protocol in ice._protocols:
            found = protocol.transport.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        return [candidate.to_sdp() for candidate in ice.local_candidates]

    async def gather_late(self, stun: Sequence[Server], turn: Sequence[Relay]) -> AsyncGenerator[str, None]:
        """Server-reflexive and relayed candidate lines, as they come; a silent server is passed over."""
        hosts = [p for p in self._connection._protocols if ":" not in p.local_candidate.host]
        asking: list[Coroutine[None, None, str | None]] = [
            self._reflect(protocol, server) for server in stun for protocol in hosts
        ]
        asking += [self._relay(relay) for relay in turn]
        tasks = [asyncio.create_task(question) for question in asking]
        try:
            for answer in asyncio.as_completed(tasks):
                if line := await answer:
                    yield line
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def add(self, line: str) -> None:
        """Take a candidate line of the peer. One that is no UDP address of component 1 is passed over."""
        try:
            candidate = aioice.Candidate.from_sdp(line)
            ipaddress.ip_address(candidate.host)  # a name would be looked up by multicast
        except ValueError:
            return
        usable = (
            candidate.component == 1 and candidate.transport.lower() == "udp" and 0 < candidate.port < 65536
        )
        if usable and len(self._connection.remote_candidates) < MAX_CANDIDATES:
            await self._connection.add_remote_candidate(candidate)

    async def _reflect(self, protocol: StunProtocol, server: Server) -> str | None:
        with contextlib.suppress(TimeoutError, OSError, TransactionError, KeyError):
            async with asyncio.timeout(LATE):
                candidate, _ = await server_reflexive_candidate(protocol, server)
            local = protocol.local_candidate
            if (candidate.host, candidate.port) != (local.host, local.port):
                return candidate.to_sdp()
        return None

    async def _relay(self, relay: Relay) -> str | None:
        server, transport, tls, username, password = relay
        ice = self._connection
        with contextlib.suppress(TimeoutError, OSError, TransactionError, KeyError):
            async with asyncio.timeout(LATE):
                candidate, protocol = await relayed_candidate(
                    component=1,
                    hide_related_address=False,
                    protocol_factory=lambda: StunProtocol(ice),
                    turn_server=server,
                    turn_username=username,
                    turn_password=password,
                    turn_ssl=tls,
                    turn_transport=transport,
                )
            ice._protocols.append(protocol)
            ice._local_candidates.append(candidate)
            if ice._early_checks_done:  # else connect() is still to pair it
                for remote in ice.remote_candidates:
                    ice._pair_remote_candidate(remote)
                ice.sort_check_list()
            return candidate.to_sdp()
        return None


class Dtls(RTCDtlsTransport):
    """Does not complain of packets that are written after the end: SCTP's timers cannot know better."""

    async def _send_data(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError, SSL.Error):
            await super()._send_data(data)


class Sctp(RTCSctpTransport):
    """aiortc's, with two bounds that it lacks: on unfinished messages of the peer, and on what is in flight."""

    async def _receive_sack_chunk(self, chunk: SackChunk) -> None:
        self._cwnd = min(self._cwnd, MAX_FLIGHT)
        await super()._receive_sack_chunk(chunk)

    async def _receive_data_chunk(self, chunk: DataChunk) -> None:
        await super()._receive_data_chunk(chunk)
        if self._advertised_rwnd < -REASSEMBLY:
            raise ConnectionError("the peer fills the memory with unfinished messages")


def parse_stun(url: str) -> Server:
    """Raises UsageError for what is no `stun:host[:port]`."""
    try:
        parsed = parse_stun_turn_uri(url)
    except ValueError:
        parsed = {"scheme": ""}
    if parsed["scheme"] != "stun":
        raise UsageError(f"{url!r} is not a STUN server", hint="write it as stun:host:port in the context")
    return parsed["host"], parsed["port"]


def parse_turn(url: str, username: str, password: str) -> Relay:
    """Raises UsageError for what is no `turn:host[:port][?transport=udp|tcp]` or `turns:host[:port]`."""
    try:
        parsed = parse_stun_turn_uri(url)
    except ValueError:
        parsed = {"scheme": ""}
    tls = parsed["scheme"] == "turns"
    if parsed["scheme"] not in ("turn", "turns") or parsed["transport"] not in (
        ("tcp",) if tls else ("udp", "tcp")
    ):
        raise UsageError(f"{url!r} is not a TURN server", hint="write it as turn:host:port in the context")
    return (parsed["host"], parsed["port"]), parsed["transport"], tls, username, password


def host_addresses() -> list[str]:
    """This host's addresses that a peer may reach.

    Those into its own containers only if there is no other, loopback only where there is nothing else at all.
    """
    ranked: tuple[list[str], list[str], list[str]] = ([], [], [])
    for adapter in ifaddr.get_adapters():
        for found in adapter.ips:
            text = found.ip if isinstance(found.ip, str) else found.ip[0]
            address = ipaddress.ip_address(text)
            if address.is_link_local:
                continue
            bridge = str(adapter.nice_name).startswith(BRIDGES)
            ranked[2 if address.is_loopback else 1 if bridge else 0].append(text)
    return next((addresses for addresses in ranked if addresses), [])[:MAX_HOST_ADDRESSES]
