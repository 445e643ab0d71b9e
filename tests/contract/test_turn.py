"""The relay's client against a real coturn, by UDP and by TCP, and what it makes of the relay's bytes."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from routes import webrtc_pair

from transfer.ice_urls import IceServers, parse_turn
from transfer.transports import ice, inside_aioice
from transfer.transports.data_channel import MESSAGE, DataChannel
from transfer.transports.inside_aioice import RelayClient
from transfer.transports.turn import RelayTransport, _framed, _TcpClient, _UdpClient

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a coturn on loopback."""
    if shutil.which("turnserver") is None:
        pytest.skip("there is no `turnserver` (coturn)")
    folder = tmp_path_factory.mktemp("coturn")
    with socket.create_server((HOST, 0)) as free:
        port = int(free.getsockname()[1])
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [
                "turnserver", "-n", "-L", HOST, "-E", HOST, "-p", str(port), "-a", "-u", "ann:hunter2", "-r", "xfer.test",
                "--allow-loopback-peers", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout", "--pidfile", "pid",
                "--userdb", "db", "-v",
            ],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while not _listens(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


async def relayed(
    port: int, transport: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[DataChannel, DataChannel]:
    """Two ends that have no address but the relay's."""
    monkeypatch.setattr(ice, "host_addresses", lambda _chosen: [])
    url = f"turn:{HOST}:{port}?transport={transport}"
    near, far = await webrtc_pair(servers=IceServers([], [(url, "ann", "hunter2")]))
    for end in (near, far):
        way = end._link.ice.way
        assert way is not None
        assert isinstance(way.transport, RelayTransport)
    return near, far


async def crosses(near: DataChannel, far: DataChannel, count: int) -> None:
    """Messages of all lengths, whole and in order."""
    sent = [bytes([n % 251]) * (n * 997 % MESSAGE + 1) for n in range(count)]

    async def send() -> None:
        for message in sent:
            await near.send(message)

    async def receive() -> list[bytes]:
        return [await far.receive() for _ in sent]

    async with asyncio.timeout(40):
        _, got = await asyncio.gather(send(), receive())
    assert got == sent


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_everything_crosses_the_relay_both_ways(
    relay: int, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = await relayed(relay, transport, monkeypatch)
    await crosses(near, far, 300)
    await crosses(far, near, 300)
    await asyncio.gather(near.close(), far.close())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_channel_is_bound_again_before_its_time_is_over(
    relay: int, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside_aioice, "BIND_EVERY", 0)
    bound: list[int] = []
    real = RelayClient.channel_bind

    async def channel_bind(self: RelayClient, channel: int, address: tuple[str, int]) -> None:
        await real(self, channel, address)
        bound.append(channel)

    monkeypatch.setattr(RelayClient, "channel_bind", channel_bind)
    near, far = await relayed(relay, transport, monkeypatch)
    first = len(bound)
    for _ in range(20):
        await crosses(near, far, 10)
        await asyncio.sleep(0.02)
    assert len(bound) > first
    assert set(bound) == {0x4000}, "the same channel, of both ends"
    await asyncio.gather(near.close(), far.close())


class Heard:
    """Who hears of packets."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.turns = self.writables = 0

    def batch_received(self, data: bytes, size: int, address: tuple[str, int]) -> None:
        assert size == len(data)
        assert address == ("192.0.2.1", 9)
        self.packets.append(data)

    def turn_ended(self) -> None:
        self.turns += 1

    def writable(self) -> None:
        self.writables += 1


@pytest.mark.parametrize("step", [1, 3, 7, 1000, 1 << 20])
async def test_a_stream_is_cut_into_packets_wherever_it_was_split(step: int) -> None:
    heard = Heard()
    client = _TcpClient((HOST, 3478), parse_turn("turn:x?transport=tcp", "", ""))
    client.receiver, client.channel_to_peer[0x4001] = heard, ("192.0.2.1", 9)
    packets = [bytes([size % 256]) * size for size in (1, 2, 3, 4, 5, 1200, 1200, 999)]
    indication = b"\x00\x17\x00\x04" + b"\x21\x12\xa4\x42" + bytes(16)
    stream = indication + b"".join(_framed(0x4001, packet, len(packet), 4) for packet in packets)
    stream += _framed(0x4002, b"of a channel that nobody bound", 99, 4) + _framed(0x4001, b"last", 4, 4)
    for at in range(0, len(stream), step):
        client.data_received(stream[at : at + step])
    assert heard.packets == [*packets, b"last"]
    assert heard.turns == -(-len(stream) // step)


@pytest.mark.parametrize("multiple", [1, 4])
def test_a_batch_is_framed_packet_by_packet(multiple: int) -> None:
    framed = _framed(0x4000, b"aaaaabbbbbcc", 5, multiple)
    if multiple == 1:
        assert framed == b"\x40\x00\x00\x05aaaaa\x40\x00\x00\x05bbbbb\x40\x00\x00\x02cc"
    else:
        pad = b"\0\0\0"
        assert framed == (
            b"\x40\x00\x00\x05aaaaa" + pad + b"\x40\x00\x00\x05bbbbb" + pad + b"\x40\x00\x00\x02cc\0\0"
        )


async def test_datagrams_that_are_none_of_the_relays_are_passed_over() -> None:
    heard = Heard()
    client = _UdpClient((HOST, 3478), parse_turn("turn:x", "", ""))
    client.receiver, client.channel_to_peer[0x4000] = heard, ("192.0.2.1", 9)
    framed = _framed(0x4000, b"aaaabb", 4, 1)
    client.batch_received(framed, 8, (HOST, 3479))
    for junk in (b"\x40", b"\x40\0\0", b"\x40\0\0\0", b"\x40\0\0\x09short", bytes(30), b"\xff" * 50):
        client.batch_received(junk, len(junk), (HOST, 3478))
    client.batch_received(b"\x40\0" * 9, 2, (HOST, 3478))
    assert heard.packets == []
    client.batch_received(framed, 8, (HOST, 3478))
    assert heard.packets == [b"aaaa", b"bb"]


async def test_a_stream_that_takes_no_more_says_so_and_when_it_does_again() -> None:
    heard = Heard()
    client = _TcpClient((HOST, 3478), parse_turn("turn:x?transport=tcp", "", ""))
    client.receiver = heard
    transport = RelayTransport(client)
    client.pause_writing()
    assert transport.full
    client.resume_writing()
    assert not transport.full
    assert heard.writables == 1
