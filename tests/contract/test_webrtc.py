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
import ifaddr
import msgspec
import pytest
from aioice import Candidate, mdns
from aioice.ice import StunProtocol
from aioice.stun import Message
from routes import SILENCE, Talk, set_up, talks, until, vanish, webrtc_pair

from transfer import wire
from transfer.errors import PeerLost, ProtocolError, UsageError, XferError
from transfer.ice_urls import IceServers
from transfer.transports import ice as ice_module
from transfer.transports import inside_aioice, link
from transfer.transports.data_channel import BUFFER_HIGH, MESSAGE, UNREAD, DataChannel
from transfer.transports.dtls import Certificate, Dtls
from transfer.transports.ice import Ice
from transfer.transports.interfaces import host_addresses
from transfer.transports.link import NO_NEWS
from transfer.transports.webrtc import DEADLINE, offer

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
    ends[liar].meddle = altering(replacing(fingerprints=Certificate.make().fingerprints))
    results = await set_up(*ends, deadline=1.0)
    deceived = results[1 - liar]
    assert isinstance(deceived, PeerLost)
    assert "certificate is not the announced one" in deceived.what
    await refused(results[liar])


async def refused(result: object) -> None:
    """Whose handshake was refused hears of it while it connects, or as the end of what it thought to be connected."""
    if isinstance(result, DataChannel):
        async with asyncio.timeout(SILENCE):
            with pytest.raises(PeerLost):
                await result.receive()
        await result.close()
    else:
        assert isinstance(result, PeerLost)


async def test_a_false_fingerprint_beside_a_true_one_is_refused() -> None:
    sender, receiver = talks()

    def spoil(description: wire.Description) -> wire.Description:
        false = ("sha-512", ":".join(["00"] * 64))
        return msgspec.structs.replace(description, fingerprints=[*description.fingerprints, false])

    receiver.meddle = altering(spoil)
    deceived, liar = await set_up(sender, receiver, deadline=1.0)
    assert isinstance(deceived, PeerLost)
    assert "certificate is not the announced one" in deceived.what
    await refused(liar)


@pytest.mark.parametrize(
    "fields",
    [
        {"fingerprints": []},
        {"fingerprints": [("md5", "AB")]},
        {"ufrag": ""},
        {"ufrag": "u" * 300},
        {"password": "short"},
        {"password": "p" * 300},
        {"setup": "nobody"},
        {"max_message": 10},
        {"init": b"x"},
        {"init": bytes(16)},
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
    sender.meddle = receiver.meddle = altering(replacing(candidates=[NOWHERE]))
    started = time.monotonic()
    expect(await set_up(sender, receiver, deadline=0.5), "no network path to the peer was found in time")
    assert time.monotonic() - started < 2.0


NOWHERE = "1 1 udp 1 192.0.2.77 9 typ host"


async def test_a_search_without_any_news_ends_long_before_the_deadline() -> None:
    sender, receiver = talks()
    sender.meddle = receiver.meddle = altering(replacing(candidates=[NOWHERE]))
    started = time.monotonic()
    expect(await set_up(sender, receiver, deadline=DEADLINE), "no network path to the peer was found in time")
    assert NO_NEWS <= time.monotonic() - started < NO_NEWS + 2


async def test_an_address_that_comes_late_prolongs_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "NO_NEWS", 1.0)
    ends = talks()
    for end in ends:
        end.meddle = altering(replacing(candidates=[NOWHERE]))
    searching = asyncio.create_task(set_up(*ends, deadline=DEADLINE))
    await until(lambda: all(end.said for end in ends))
    for number in range(4):
        await asyncio.sleep(0.3)
        told = time.monotonic()
        for end in ends:
            late = NOWHERE.replace(" 9 ", f" {number + 10} ")
            end.far.heard.put_nowait(wire.Candidate(session=b"", seq=number + 2, candidate=late))
    expect(await searching, "no network path to the peer was found in time")
    assert time.monotonic() - told >= 1.0, "the last of them began the time anew"


async def test_a_handshake_that_stalls_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dtls, "datagram_received", lambda *_: None)
    expect(await set_up(*talks(), deadline=0.5), "the encrypted connection to the peer was not made in time")


async def test_a_cancelled_offer_leaves_nothing() -> None:
    sender, _ = talks()
    offering = asyncio.create_task(offer(sender, IceServers()))
    await until(lambda: bool(sender.said))
    offering.cancel()
    await asyncio.gather(offering, return_exceptions=True)
    assert offering.cancelled()


async def test_strangers_cannot_disturb_the_handshake() -> None:
    """Alerts in the clear, from an address that is no candidate of the peer's, all the time that it takes."""
    alert = b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x02\x28"
    ends = talks()
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as stranger:
        stranger.bind((host_address(), 0))

        def disturb(signal: wire.AnySignal) -> list[wire.AnySignal]:
            if isinstance(signal, wire.Offer | wire.Answer):
                for line in signal.description.candidates:
                    address, port = line.split()[4:6]
                    if ":" not in address:
                        for delay in range(200):
                            asyncio.get_running_loop().call_later(
                                delay / 1000, stranger.sendto, alert, (address, int(port))
                            )
            return [signal]

        for end in ends:
            end.meddle = disturb
        await connects(*ends)
        await asyncio.sleep(0.2)


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


async def test_a_name_that_nobody_knows_is_given_up_and_closing_does_not_wait_for_it() -> None:
    ice = Ice(controlling=True)
    await ice.add(f"1 1 udp 1 {UUID}.local 9 typ host")
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await ice.close()
    assert time.monotonic() - started < 0.5
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
    address, real = host_address(), ice_module.host_addresses
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
    near._association.send(0, 51, b"text")
    near._stir()
    with pytest.raises(ProtocolError, match="text"):
        await far.receive()
    await part(near, far)


async def test_messages_that_nobody_reads_are_bounded_and_not_lost() -> None:
    near, far = await webrtc_pair()
    count = (UNREAD + BUFFER_HIGH) // MESSAGE + 64
    sent = 0

    async def send() -> None:
        nonlocal sent
        for number in range(count):
            await near.send(number.to_bytes(4, "big") * (MESSAGE // 4))
            sent += 1

    sending = asyncio.create_task(send())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(4):  # longer than a dead peer would be given
            await sending
    assert sent < count
    sending = asyncio.create_task(_send_on(near, sent, count)) if sending.done() else sending
    got = await _receive(far, count)
    assert [int.from_bytes(message[:4], "big") for message in got] == list(range(count))
    await sending
    await part(near, far)


async def _send_on(channel: DataChannel, first: int, end: int) -> None:
    for number in range(first, end):
        await channel.send(number.to_bytes(4, "big") * (MESSAGE // 4))


async def test_packets_that_make_no_sense_are_dropped() -> None:
    near, far = await webrtc_pair()
    garbage = [b"\0", bytes(12), bytes(100), bytes(16384), b"\x13\x88\x13\x88" + bytes(40)]
    near._link.dtls.send_packets(garbage)
    await near.send(b"still there")
    assert await far.receive() == b"still there"
    way = near._link.ice.way
    assert way is not None
    for junk in (b"\x17", b"\x17" * 2000, b"\x16" * 50, b"\x00" * 30, b"\xff" * 9, b"\x80\x60" + bytes(60)):
        way.send(junk, len(junk))
    await near.send(b"even now")
    assert await far.receive() == b"even now"
    await part(near, far)


async def test_packets_after_the_end_are_dropped_without_a_word() -> None:
    near, far = await webrtc_pair()
    for _ in range(20):
        await near.send(bytes(MESSAGE))
    await far._link.close()
    await near._link.close()
    near._stir()
    await asyncio.sleep(0.05)
    await part(near, far)


async def test_another_version_of_aioice_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, inside_aioice.__name__)
    monkeypatch.setattr(aioice, "__version__", "9.0.0")
    with pytest.raises(XferError, match=r"aioice 9\.0\.0"):
        importlib.import_module(inside_aioice.__name__)
