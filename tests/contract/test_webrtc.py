"""How two ends find each other over WebRTC: who they accept, how long they try, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

import aioice.stun
import aiortc
import google_crc32c
import ifaddr
import msgspec
import pytest
from aioice import Candidate
from aioice.ice import StunProtocol
from aioice.stun import Message
from aiortc.rtcsctptransport import (
    SCTP_DATA_FIRST_FRAG,
    CookieAckChunk,
    DataChunk,
    InitChunk,
    serialize_packet,
)
from routes import SILENCE, Talk, set_up, talks, until, vanish, webrtc_pair

from transfer import wire
from transfer.errors import PeerLost, ProtocolError, UsageError, XferError
from transfer.transports import aiortc_private
from transfer.transports.aiortc_private import MAX_FLIGHT, REASSEMBLY, Dtls, Ice, Sctp, host_addresses
from transfer.transports.webrtc import MESSAGE, UNREAD, DataChannel, IceServers, offer

Change = Callable[[wire.Description], wire.Description]


def altering(change: Change) -> Callable[[wire.AnySignal], list[wire.AnySignal]]:
    """Change what an offer or an answer says."""

    def meddle(signal: wire.AnySignal) -> list[wire.AnySignal]:
        if isinstance(signal, wire.Offer | wire.Answer):
            return [msgspec.structs.replace(signal, description=change(signal.description))]
        return [signal]

    return meddle


def replacing(**fields: object) -> Change:
    return lambda description: msgspec.structs.replace(description, **fields)


def expect(results: tuple[object, object], sentence: str) -> None:
    """Both ends gave up for that reason."""
    for result in results:
        assert isinstance(result, PeerLost)
        assert result.what == sentence


async def part(*channels: DataChannel) -> None:
    await asyncio.gather(*(channel.close() for channel in channels))


async def connects(sender: Talk, receiver: Talk, servers: IceServers | None = None) -> float:
    """Seconds that it took; a message has crossed each way."""
    started = time.monotonic()
    near, far = await webrtc_pair(sender, receiver, servers)
    took = time.monotonic() - started
    await near.send(b"ping")
    assert await far.receive() == b"ping"
    await far.send(b"pong")
    assert await near.receive() == b"pong"
    await part(near, far)
    return took


# --- who is accepted


@pytest.mark.parametrize("liar", [0, 1])
async def test_a_certificate_that_was_not_announced_is_refused(liar: int) -> None:
    ends = talks()
    false = aiortc.RTCCertificate.generateCertificate().getFingerprints()
    ends[liar].meddle = altering(replacing(fingerprints=[(f.algorithm, f.value) for f in false]))
    results = await set_up(*ends, deadline=1.0)
    deceived = results[1 - liar]
    assert isinstance(deceived, PeerLost)
    assert "certificate is not the announced one" in deceived.what
    assert isinstance(results[liar], PeerLost)


async def test_one_false_fingerprint_among_true_ones_is_refused() -> None:
    sender, receiver = talks()

    def spoil(description: wire.Description) -> wire.Description:
        (algorithm, value), *rest = description.fingerprints
        other = value[:-1] + ("0" if value[-1] != "0" else "1")
        return msgspec.structs.replace(description, fingerprints=[(algorithm, other), *rest])

    receiver.meddle = altering(spoil)
    refused, _ = await set_up(sender, receiver, deadline=1.0)
    assert isinstance(refused, PeerLost)
    assert "certificate is not the announced one" in refused.what


@pytest.mark.parametrize(
    "fields",
    [
        {"fingerprints": []},
        {"fingerprints": [("md5", "AB")]},
        {"ufrag": ""},
        {"ufrag": "u" * 300},
        {"password": "short"},
        {"password": "p" * 300},
        {"setup": "actpass"},
        {"sctp_port": 0},
        {"sctp_port": 70_000},
        {"max_message": 10},
    ],
    ids=str,
)
@pytest.mark.parametrize("liar", [0, 1])
async def test_a_description_that_makes_no_sense_is_a_protocol_error(
    liar: int, fields: dict[str, object]
) -> None:
    ends = talks()
    ends[liar].meddle = altering(replacing(**fields))
    results = await set_up(*ends, deadline=0.5)
    assert isinstance(results[1 - liar], ProtocolError)
    assert isinstance(results[liar], PeerLost)


# --- deadlines name their step


async def test_an_offer_that_nobody_answers_is_given_up_in_time() -> None:
    sender, _ = talks()
    started = time.monotonic()
    with pytest.raises(PeerLost, match="did not answer the offer in time"):
        await offer(sender, IceServers(), deadline=0.3)
    assert time.monotonic() - started < 1.5


async def test_no_path_is_given_up_in_time() -> None:
    sender, receiver = talks()
    sender.meddle = receiver.meddle = altering(replacing(candidates=["1 1 udp 1 192.0.2.77 9 typ host"]))
    started = time.monotonic()
    expect(await set_up(sender, receiver, deadline=0.5), "no network path to the peer was found in time")
    assert time.monotonic() - started < 2.0


async def test_a_handshake_that_stalls_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def deaf(self: Dtls, parameters: aiortc.RTCDtlsParameters) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Dtls, "start", deaf)
    expect(await set_up(*talks(), deadline=0.5), "the encrypted connection to the peer was not made in time")


async def test_a_data_channel_that_does_not_open_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(self: Sctp, data: bytes) -> None:
        pass

    monkeypatch.setattr(Sctp, "_handle_data", lost)
    results = await set_up(*talks(), deadline=0.5)
    assert all(isinstance(result, PeerLost) for result in results)
    said = {str(result) for result in results}  # the one that gives up first closes the other's connection
    assert "the data channel to the peer did not open in time" in said


async def test_a_cancelled_offer_leaves_nothing() -> None:
    sender, _ = talks()
    offering = asyncio.create_task(offer(sender, IceServers()))
    await until(lambda: bool(sender.said))
    offering.cancel()
    await asyncio.gather(offering, return_exceptions=True)
    assert offering.cancelled()


# --- candidates


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
    assert ice.getRemoteCandidates() == []
    await ice.stop()


async def test_a_peer_cannot_fill_the_list_of_candidates() -> None:
    ice = Ice(controlling=True)
    for port in range(1, 200):
        await ice.add(f"1 1 udp 1 127.0.0.1 {port} typ host")
    assert len(ice.getRemoteCandidates()) == wire.MAX_CANDIDATES
    await ice.stop()


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


def host_address() -> str:
    return next(address for address in host_addresses() if ":" not in address)


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
    address, real = host_address(), aiortc_private.host_addresses
    calls: list[None] = []

    def of_the_receiver_only() -> list[str]:
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

    monkeypatch.setattr(aiortc_private, "host_addresses", of_the_receiver_only)
    monkeypatch.setattr(aiortc_private, "relayed_candidate", relay)
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


# --- addresses of this host


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


# --- the channel


async def test_messages_arrive_whole_and_in_order() -> None:
    near, far = await webrtc_pair()
    sent = [bytes([n]) * (n * 997 % MESSAGE + 1) for n in range(60)]

    async def send() -> None:
        for message in sent:
            await near.send(message)

    _, got = await asyncio.gather(send(), _receive(far, len(sent)))
    assert got == sent
    await part(near, far)


async def _receive(channel: DataChannel, count: int) -> list[bytes]:
    return [await channel.receive() for _ in range(count)]


async def test_send_waits_while_too_much_is_under_way() -> None:
    near, far = await webrtc_pair()
    vanish(far)
    sent = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while True:
                await near.send(bytes(MESSAGE))
                sent += MESSAGE
    assert sent <= (1 << 20) + (1 << 20)
    await part(near, far)


async def test_what_is_in_flight_stays_bounded_without_losses() -> None:
    near, far = await webrtc_pair()
    near._sctp._cwnd = 100 << 20
    await near.send(b"x")
    await far.receive()
    await until(lambda: near._sctp._cwnd < MAX_FLIGHT + MESSAGE)
    await part(near, far)


async def test_closing_one_end_is_heard_at_the_other_at_once() -> None:
    near, far = await webrtc_pair()
    hearing = asyncio.create_task(far.receive())
    await near.send(b"last words")
    await near.close()
    async with asyncio.timeout(SILENCE):
        assert await hearing == b"last words"
        with pytest.raises(PeerLost):
            await far.receive()
        with pytest.raises(PeerLost):
            await far.send(b"x")
    await far.close()


async def test_text_is_no_message() -> None:
    near, far = await webrtc_pair()
    near._channel.send("text")
    with pytest.raises(ProtocolError, match="text"):
        await far.receive()
    await part(near, far)


async def test_messages_that_nobody_reads_are_bounded() -> None:
    near, far = await webrtc_pair()
    far._held = UNREAD
    await near.send(b"x")
    with contextlib.suppress(ProtocolError):
        assert await far.receive() == b"x"
    with pytest.raises(ProtocolError, match="window"):
        await far.receive()
    await part(near, far)


async def test_unfinished_messages_are_bounded() -> None:
    near, far = await webrtc_pair()
    sctp = far._sctp

    async def receive_pieces(count: int) -> None:
        for number in range(count):
            piece = DataChunk(flags=0 if number else SCTP_DATA_FIRST_FRAG)
            assert sctp._last_received_tsn is not None
            piece.tsn = sctp._last_received_tsn + 1 & 0xFFFFFFFF
            piece.user_data = bytes(1 << 20)
            await sctp._receive_data_chunk(piece)

    await receive_pieces(REASSEMBLY >> 20)
    with pytest.raises(ConnectionError, match="unfinished"):
        await receive_pieces(3)
    await part(near, far)


async def test_a_packet_that_aiortc_trips_over_ends_the_channel_quietly() -> None:
    near, far = await webrtc_pair()
    far._sctp._remote_verification_tag = 0
    await near._link.dtls._send_data(_two_inits(near._sctp))
    with pytest.raises(PeerLost):
        async with asyncio.timeout(SILENCE):
            await far.receive()
    await part(near, far)


def _two_inits(sctp: Sctp) -> bytes:
    """A packet with an INIT beside another chunk, on which aiortc asserts."""
    init, other = InitChunk(), CookieAckChunk()
    init.initiate_tag = 1
    init.advertised_rwnd = init.outbound_streams = init.inbound_streams = init.initial_tsn = 1
    packet = bytearray(serialize_packet(5000, 5000, 0, init) + bytes(other))
    packet[8:12] = bytes(4)
    packet[8:12] = google_crc32c.value(bytes(packet)).to_bytes(4, "little")
    return bytes(packet)


async def test_packets_after_the_end_are_dropped_without_a_word() -> None:
    near, far = await webrtc_pair()
    for _ in range(20):
        await near.send(bytes(MESSAGE))
    await far._link.close()
    await near._link.close()
    near._sctp._t3_expired()
    await asyncio.sleep(0.05)
    await part(near, far)


async def test_another_version_of_aiortc_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, aiortc_private.__name__)
    monkeypatch.setattr(aiortc, "__version__", "9.0.0")
    with pytest.raises(XferError, match=r"aiortc 9\.0\.0"):
        importlib.import_module(aiortc_private.__name__)
