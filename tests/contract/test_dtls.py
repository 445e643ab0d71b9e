"""The handshake by itself: lost, repeated, damaged and foreign datagrams."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from transfer.transports.dtls import REPEAT, Certificate, Dtls, State
from transfer.transports.ice import Ice


class Pipe:
    """Stands for Ice: what one end sends, the other gets in the next turn, unless `fate` has it otherwise."""

    def __init__(self) -> None:
        self.way: Any = self
        self.transport = None
        self.reached = asyncio.Event()
        self.certificate = Certificate.make()
        self.to: Dtls | None = None
        self.sent = 0
        self.fate: Callable[[bytes], Sequence[bytes]] = lambda datagram: [datagram]

    def take_records(self, dtls: Dtls) -> None:
        """The test knows them."""

    def guesses(self) -> list[Any]:
        return [self]

    def send(self, run: bytes, size: int) -> None:
        for at in range(0, len(run), size):
            self.sent += 1
            for datagram in self.fate(run[at : at + size]):
                asyncio.get_running_loop().call_soon(self._arrive, datagram)

    def _arrive(self, datagram: bytes) -> None:
        assert self.to is not None
        if datagram[0] == 23 and self.to.records_received(datagram, len(datagram)):
            self.to.turn_ended()
        elif datagram:
            self.to.datagram_received(datagram)


class Heard:
    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.over = False

    def packets_received(self, packets: list[bytes]) -> None:
        self.packets += packets

    def writable(self) -> None:
        """Nothing waits here."""

    def ended(self) -> None:
        self.over = True


def two() -> tuple[Dtls, Dtls, Pipe, Pipe]:
    """Client, server, and what each sends through; the handshake has begun."""
    there, back = Pipe(), Pipe()
    client = Dtls(cast(Ice, there), there.certificate, client=True)
    server = Dtls(cast(Ice, back), back.certificate, client=False)
    there.to, back.to = server, client
    return client, server, there, back


def begin(client: Dtls, server: Dtls) -> None:
    ours, theirs = (cast(Pipe, end._ice).certificate.fingerprints for end in (client, server))
    server.start(ours)
    client.start(theirs)


async def connected(client: Dtls, server: Dtls, within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        await asyncio.gather(client.done.wait(), server.done.wait())
    assert client.connected
    assert server.connected


async def talk(client: Dtls, server: Dtls) -> None:
    for one, other in ((client, server), (server, client)):
        heard = Heard()
        other.reader = heard
        one.send_packets([b"a" * 500, b"a" * 500, b"b" * 20, b"c"])
        for _ in range(20):
            await asyncio.sleep(0)
        assert heard.packets == [b"a" * 500, b"a" * 500, b"b" * 20, b"c"]


async def test_four_flights_and_few_datagrams() -> None:
    client, server, there, back = two()
    begin(client, server)
    await connected(client, server, 1)
    assert (there.sent, back.sent) == (2, 2), "flights are packed into as few datagrams as hold them"
    await talk(client, server)
    client.stop()
    server.stop()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("flight", range(2))
@pytest.mark.parametrize("lossy", range(2))
async def test_each_lost_flight_is_said_again_soon(flight: int, lossy: int, times: int) -> None:
    client, server, *pipes = two()
    count = 0

    def lose(datagram: bytes) -> list[bytes]:
        nonlocal count
        count += 1
        return [] if flight < count <= flight + times else [datagram]

    pipes[lossy].fate = lose
    began = asyncio.get_running_loop().time()
    begin(client, server)
    await connected(client, server)
    took = asyncio.get_running_loop().time() - began
    assert (2**times - 1) * REPEAT <= took < (2**times + 1) * REPEAT
    await talk(client, server)
    client.stop()
    server.stop()


@pytest.mark.parametrize("seed", range(20))
async def test_a_bad_path_only_delays(seed: int) -> None:
    client, server, *pipes = two()
    chance = random.Random(seed)

    def fate(datagram: bytes) -> list[bytes]:
        return [datagram] * chance.choice([0, 1, 1, 1, 2])

    for pipe in pipes:
        pipe.fate = fate
    begin(client, server)
    await connected(client, server, 15)
    for pipe in pipes:
        pipe.fate = lambda datagram: [datagram]
    await talk(client, server)
    client.stop()
    server.stop()


async def test_a_goodbye_is_heard() -> None:
    client, server, *_ = two()
    begin(client, server)
    await connected(client, server)
    heard = Heard()
    server.reader = heard
    client.stop()
    async with asyncio.timeout(5):
        while not heard.over:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert heard.over
    assert server.state is State.CLOSED


@pytest.mark.parametrize("seed", range(10))
async def test_garbage_makes_no_exception_and_no_connection(seed: int) -> None:
    """In every state: noise, flipped bits, true datagrams at the wrong moment, records cut short."""
    client, server, *pipes = two()
    chance = random.Random(seed)
    seen: list[bytes] = [b"\x16\xfe\xfd" + bytes(40)]

    def garbled() -> bytes:
        data = bytearray(chance.choice(seen))
        match chance.randrange(4):
            case 0:
                return bytes([chance.choice([20, 21, 22, 23, 24, 40])]) + chance.randbytes(
                    chance.randrange(80)
                )
            case 1:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 2:
                del data[chance.randrange(1, len(data) + 1) :]
        return bytes(data)

    def fate(datagram: bytes) -> list[bytes]:
        seen.append(datagram)
        return [*(garbled() for _ in range(20)), datagram]

    for pipe in pipes:
        pipe.fate = fate
    begin(client, server)
    async with asyncio.timeout(10):
        await asyncio.wait([asyncio.ensure_future(end.done.wait()) for end in (client, server)], timeout=1)
    for end in (client, server):
        for _ in range(500):
            end.datagram_received(garbled())
            end.records_received(garbled(), chance.choice([1, 20, 100]))
        assert end.state in State
    client.stop()
    server.stop()
