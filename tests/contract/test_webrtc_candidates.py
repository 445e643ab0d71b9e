"""WebRTC candidates: late ones, names, STUN and TURN, this host's addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import cast

import aioice.stun
import ifaddr
import msgspec
import pytest
from aioice import Candidate, mdns
from aioice.ice import StunProtocol
from aioice.stun import Message
from ends import connects, host_address
from routes import talks, until

from transfer import wire
from transfer.errors import PeerLost, UsageError
from transfer.ice_urls import IceServers
from transfer.transports import ice as ice_module
from transfer.transports.ice import Ice
from transfer.transports.interfaces import host_addresses
from transfer.transports.webrtc import offer


async def test_host_candidates_do_not_wait_for_dead_servers() -> None:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        servers = IceServers(
            [f"stun:127.0.0.1:{port}"], [(f"turn:127.0.0.1:{port}?transport=udp", "user", "secret")]
        )
        assert await connects(*talks(), servers) < 1.0


async def test_addresses_that_come_late_are_enough() -> None:
    ends = talks()

    def late(signal: wire.AnySignal) -> list[wire.AnySignal]:
        if not isinstance(signal, wire.Offer | wire.Answer):
            return [signal]
        bare = msgspec.structs.replace(signal.description, candidates=[])
        first: wire.AnySignal = msgspec.structs.replace(signal, description=bare)
        return [first] + [
            wire.Candidate(session=signal.session, seq=signal.seq + 1, candidate=line)
            for line in signal.description.candidates
        ]

    for end in ends:
        end.meddle = late
    await connects(*ends)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        "1 1 udp 1 somewhere.local 9 typ host",
        "1 1 udp 1 88da89e2-d5f4-4727-8cb8-48dc57c34299.example 9 typ host",
        "1 1 udp 1 88da89e2-d5f4-4727-8cb8-48dc57c34299.local.example 9 typ host",
        "1 1 tcp 1 88da89e2-d5f4-4727-8cb8-48dc57c34299.local 9 typ host",
        "1 2 udp 1 127.0.0.1 9 typ host",
        "1 1 tcp 1 127.0.0.1 9 typ host",
        "1 1 udp 1 127.0.0.1 99999 typ host",
        "1 1 udp 1 127.0.0.1 0 typ host",
        "1 1 udp x 127.0.0.1 9 typ host",
        "1 1 udp 1 127.0.0.1 9 typ spaceship",
    ],
)
async def test_a_candidate_that_makes_no_sense_is_passed_over_at_once(line: str) -> None:
    ice = Ice(controlling=True)
    async with asyncio.timeout(0.2):
        await ice.add(line)
    assert ice.remote_candidates == []
    await ice.close()


async def test_a_peer_cannot_fill_the_list_of_candidates() -> None:
    ice = Ice(controlling=True)
    for port in range(1, 200):
        await ice.add(f"1 1 udp 1 127.0.0.1 {port} typ host")
    assert len(ice.remote_candidates) == wire.MAX_CANDIDATES
    await ice.close()


UUID = "88da89e2-d5f4-4727-8cb8-48dc57c34299"


@contextlib.asynccontextmanager
async def named(address: str) -> AsyncIterator[None]:
    """Somebody on this network says that `UUID.local` has that address."""
    responder = await mdns.create_mdns_protocol()
    try:
        try:
            await responder.publish(f"{UUID}.local", address)
        except OSError as error:
            pytest.skip(f"no multicast here: {error}")
        yield
    finally:
        await responder.close()


async def test_a_browsers_name_is_looked_up_and_delays_no_other_candidate() -> None:
    ice = Ice(controlling=True)
    async with named("192.0.2.77"), asyncio.timeout(5):
        await ice.add(f"1 1 udp 1 {UUID}.local 9 typ host")
        await ice.add("1 1 udp 1 192.0.2.78 9 typ host")
        assert [candidate.host for candidate in ice.remote_candidates] == ["192.0.2.78"]
        await until(lambda: len(ice.remote_candidates) == 2)
    assert ice.remote_candidates[1]._network_host == "192.0.2.77"
    await ice.close()


async def test_a_name_that_nobody_knows_is_given_up_and_closing_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ice_module, "LATE", 100.0)
    ice = Ice(controlling=True)
    await ice.add(f"1 1 udp 1 {UUID}.local 9 typ host")
    await asyncio.sleep(0.1)
    async with asyncio.timeout(20):
        await ice.close()
    assert ice.remote_candidates == []


async def test_a_peer_cannot_have_many_names_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ice = Ice(controlling=True)
    asked: list[Candidate] = []

    async def ask(candidate: Candidate) -> None:
        asked.append(candidate)

    monkeypatch.setattr(ice._connection, "add_remote_candidate", ask)
    for number in range(100):
        await ice.add(f"1 1 udp 1 {number:08}{UUID[8:]}.local 9 typ host")
    await until(lambda: len(asked) >= ice_module.MAX_NAMES)
    await asyncio.sleep(0)
    assert len(asked) == ice_module.MAX_NAMES
    await ice.close()


class StunServer(asyncio.DatagramProtocol):
    """Answers a binding request with where it came from, but for the port (as a NAT would change it)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        request = aioice.stun.parse_message(data)
        response = aioice.stun.Message(
            aioice.stun.Method.BINDING, aioice.stun.Class.RESPONSE, request.transaction_id
        )
        response.attributes["XOR-MAPPED-ADDRESS"] = (address[0], address[1] ^ 1)
        self.transport.sendto(bytes(response), address)


@pytest.fixture
async def stun_url() -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(StunServer, local_addr=("0.0.0.0", 0))
    yield f"stun:{host_address()}:{transport.get_extra_info('sockname')[1]}"
    transport.close()


async def test_a_server_reflexive_address_is_told_as_a_late_candidate(stun_url: str) -> None:
    sender, _ = talks()
    offering = asyncio.create_task(offer(sender, IceServers([stun_url]), deadline=5.0))
    async with asyncio.timeout(3):
        await until(lambda: len(sender.said) == 2)
    offering.cancel()
    await asyncio.gather(offering, return_exceptions=True)
    first, second = sender.said[:2]
    assert isinstance(first, wire.Offer)
    assert isinstance(second, wire.Candidate)
    assert "typ srflx" in second.candidate
    assert not any("srflx" in line for line in first.description.candidates)


async def test_a_relayed_address_that_is_found_after_the_offer_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sender has no address but the relay's.

    Here the relay is a socket that is opened late and, as TURN does, lets in only who was spoken to first.
    """
    address, real = host_address(), host_addresses
    calls: list[None] = []

    def of_the_receiver_only(_chosen: object) -> list[str]:
        calls.append(None)
        return real() if len(calls) > 1 else []

    async def relay(
        *, protocol_factory: Callable[[], StunProtocol], **_: object
    ) -> tuple[Candidate, StunProtocol]:
        await asyncio.sleep(0.2)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(protocol_factory, local_addr=(address, 0))
        permitted: set[tuple[str, int]] = set()
        say, hear = protocol.send_stun, protocol.datagram_received

        def send_stun(message: Message, peer: tuple[str, int]) -> None:
            permitted.add(peer)
            say(message, peer)

        def datagram_received(data: bytes, peer: tuple[str, int]) -> None:
            if peer in permitted:
                hear(data, peer)

        monkeypatch.setattr(protocol, "send_stun", send_stun)
        monkeypatch.setattr(protocol, "datagram_received", datagram_received)
        port = transport.get_extra_info("sockname")[1]
        protocol.local_candidate = Candidate("r", 1, "udp", 1, address, port, "relay", address, port)
        return protocol.local_candidate, protocol

    monkeypatch.setattr(ice_module, "host_addresses", of_the_receiver_only)
    monkeypatch.setattr(ice_module, "relayed_candidate", relay)
    sender, receiver = talks()
    await connects(sender, receiver, IceServers([], [("turn:192.0.2.1", "user", "secret")]))
    offered, late = sender.said
    assert isinstance(offered, wire.Offer)
    assert offered.description.candidates == []
    assert isinstance(late, wire.Candidate)
    assert "typ relay" in late.candidate


@pytest.mark.parametrize(
    "servers",
    [
        IceServers(["http://example.org"]),
        IceServers(["turn:example.org"]),
        IceServers([], [("stun:example.org", "u", "p")]),
        IceServers([], [("turn:example.org?transport=pigeon", "u", "p")]),
    ],
    ids=str,
)
async def test_a_server_that_cannot_be_read_is_named(servers: IceServers) -> None:
    with pytest.raises(UsageError, match="server"):
        await offer(talks()[0], servers)


def test_the_password_of_a_turn_server_is_not_shown() -> None:
    assert "secret" not in repr(IceServers([], [("turn:example.org", "user", "secret")]))


def adapters(**found: list[str]) -> list[ifaddr.Adapter]:
    def ip(text: str) -> ifaddr.IP:
        return ifaddr.IP(text, 24, "x") if ":" not in text else ifaddr.IP((text, 0, 0), 64, "x")

    return [ifaddr.Adapter(name, name, [ip(text) for text in texts]) for name, texts in found.items()]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (adapters(lo=["127.0.0.1", "::1"]), ["127.0.0.1", "::1"]),
        (
            adapters(lo=["127.0.0.1"], eth0=["192.0.2.5", "2001:db8::5", "fe80::1"]),
            ["192.0.2.5", "2001:db8::5"],
        ),
        (adapters(lo=["127.0.0.1"], eth0=["169.254.1.1"]), ["127.0.0.1"]),
        (adapters(docker0=["172.17.0.1"], eth0=["192.0.2.5"]), ["192.0.2.5"]),
        (adapters(lo=["127.0.0.1"], docker0=["172.17.0.1"]), ["172.17.0.1"]),
        ([], []),
    ],
)
def test_loopback_counts_only_where_there_is_nothing_else(
    found: list[ifaddr.Adapter], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: found)
    assert host_addresses() == expected


async def test_a_host_with_loopback_only_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters(lo=["127.0.0.1"]))
    await connects(*talks())


async def test_a_host_without_an_address_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", list)
    with pytest.raises(PeerLost, match="no network address"):
        await offer(talks()[0], IceServers())
