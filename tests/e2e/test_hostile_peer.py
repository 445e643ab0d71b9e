"""Strangers and liars on the bus and on the direct connection: what they say changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest
from helpers import MIB, Two, complaint
from hostile import BLOCK, block, chunk, context_of, file, sealed, trailer

from transfer import api, bus, events, wire
from transfer.broker_client import Patience, connected
from transfer.codec import Codec
from transfer.ice_urls import IceServers
from transfer.mailbox import Mailbox
from transfer.model import Frame, FrameId, Kind
from transfer.seal import Purpose, Sealer
from transfer.session import split
from transfer.ticket import Ticket
from transfer.transports.peer import Channel
from transfer.transports.webrtc import offer
from transfer.wire import MAX_MESSAGE, Close, Data, End, pack

Act = Callable[[Channel, Callable[[FrameId, bytes], Frame]], Awaitable[None]]


@contextlib.contextmanager
def meanwhile(work: Callable[[asyncio.Event], Awaitable[None]]) -> Iterator[None]:
    """`work` in a thread with a loop of its own, until the block ends; its error fails the test."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(work(stop))
        except Exception as error:
            failed.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join(20)
    assert not failed, failed


@pytest.mark.parametrize("route", ["webrtc", "s3"])
def test_garbage_and_replays_on_the_bus_do_not_hinder_a_transfer(two: Two, route: str) -> None:
    """Whatever is said about the job is said again, several times, late and changed, among plain noise."""
    source = two.file("f", 12 * MIB)
    sending = two.send(source, "--via", route, "--receipt")
    subject = bus.peer_subject("local", Ticket.parse(sending.ticket).job)
    context = context_of(two)

    async def pester(stop: asyncio.Event) -> None:
        client = await bus.connect(context.nats_url, context.nats_creds, "local", "pest")
        seen: set[bytes] = set()

        async def again(message: object) -> None:
            data = bytes(getattr(message, "data", b""))
            if data not in seen:
                changed = data[:-1] + bytes([data[-1] ^ 1]) if data else b"\0"
                seen.update((data, changed))
                for said in (data, data, changed, data[: len(data) // 2], data):
                    seen.add(said)
                    await client.publish(subject, said)

        await client.subscribe(subject, cb=again)
        while not stop.is_set():
            for size in (0, 1, 29, 500, 60_001, 200_000):
                noise = os.urandom(size)
                seen.add(noise)
                await client.publish(subject, noise)
            await client.flush()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.02)
        await client.close()

    with meanwhile(pester):
        got = two.fetch(sending.ticket)
        assert (got.summary.route, sending.summary.route) == (route, route)
    assert (two.out / "f").read_bytes() == source.read_bytes()
    assert (got.stderr, sending.stderr) == ("", "")
    assert len([e for e in sending.events if isinstance(e, events.Receipt)]) == 1


def test_receipts_and_voids_of_those_without_the_ticket_are_not_believed(two: Two) -> None:
    """Sealed with another ticket, for this job's subject."""
    sending = two.send(two.file("f", 100_000))
    real = Ticket.parse(sending.ticket)
    sealer = Sealer(Ticket(real.job, Ticket.new().secret))
    context = context_of(two)

    async def pester(stop: asyncio.Event) -> None:
        client = await bus.connect(context.nats_url, context.nats_creds, "local", "liar")
        lies = (
            (Purpose.TO_SENDER, wire.Receipted(session=bytes(16), seq=1, sealed=b"no receipt")),
            (Purpose.TO_RECEIVER, wire.Void(session=bytes(16), seq=1, reason="go away")),
            (Purpose.TO_RECEIVER, wire.UseStore(session=bytes(16), seq=2, segments=1)),
        )
        while not stop.is_set():
            for direction, lie in lies:
                said = wire.seal_signal(sealer, direction, lie)
                await client.publish(bus.peer_subject("local", real.job), said)
            await client.flush()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.02)
        await client.close()

    with meanwhile(pester):
        assert two.fetch(sending.ticket).summary.route == "webrtc"
        assert sending.summary.outcome == "receipt"


# --- a hostile sender on a direct connection


async def _say(channel: Channel, *messages: bytes) -> None:
    for message in messages:
        await channel.send(message)


async def noise(channel: Channel, _make: object) -> None:
    await _say(channel, *(os.urandom(1000) for _ in range(100)))


async def huge_messages(channel: Channel, _make: object) -> None:
    await _say(channel, *(b"\2" + bytes(MAX_MESSAGE - 1) for _ in range(100)))


async def huge_lengths(channel: Channel, _make: object) -> None:
    data = Data(FrameId(Kind.CHUNK, 0), 0xFFFFFFFF, 0, b"x")
    await _say(channel, pack(data))


async def a_receivers_words(channel: Channel, _make: object) -> None:
    await _say(channel, pack(wire.Ack((BLOCK,))), pack(End()))


async def pieces_out_of_order(channel: Channel, make: Callable[[FrameId, bytes], Frame]) -> None:
    frame = make(FrameId(Kind.CHUNK, 0), os.urandom(MIB))
    await _say(channel, *(pack(piece) for piece in reversed(list(split(frame)))))


async def a_flood(channel: Channel, make: Callable[[FrameId, bytes], Frame]) -> None:
    """Far more than a window, and nothing that could be acknowledged."""
    for index in range(64):
        frame = make(FrameId(Kind.CHUNK, index), os.urandom(MIB))
        await _say(channel, *(pack(piece) for piece in split(frame)))


async def farewell(channel: Channel, _make: object) -> None:
    await _say(channel, pack(Close("\x1b[2Jgone\nfishing " + "x" * 100)))


async def an_end_at_once(channel: Channel, _make: object) -> None:
    await _say(channel, pack(End()))


@pytest.fixture
def pretender(two: Two) -> Iterator[Callable[[Act], str]]:
    """pretender(act): a sender that exists at the broker, meets every receiver and then does `act`. Gives the ticket."""
    with contextlib.ExitStack() as stack:

        def begin(act: Act) -> str:
            ticket = Ticket.new()
            stack.enter_context(meanwhile(lambda stop: _pretend(two, ticket, act, stop)))
            return str(ticket)

        yield begin


async def _pretend(two: Two, ticket: Ticket, act: Act, stop: asyncio.Event) -> None:
    sealer = Sealer(ticket)
    codec = Codec(sealer)
    async with connected(context_of(two), "hostile", Patience(10)) as (client, broker):
        await broker.create(
            api.Create(job=ticket.job, token_hash=sealer.token_hash(), size=None, expire=3600.0)
        )
        mailbox = Mailbox(client, "local", sealer, hears=Purpose.TO_SENDER, says=Purpose.TO_RECEIVER)
        await mailbox.open()
        meeting = asyncio.create_task(_meet(mailbox, codec, sealer, act))
        await stop.wait()
        meeting.cancel()
        await asyncio.gather(meeting, return_exceptions=True)


async def _meet(mailbox: Mailbox, codec: Codec, sealer: Sealer, act: Act) -> None:
    met: set[bytes] = set()
    while True:
        hello = await mailbox.next()
        if isinstance(hello, wire.Hello) and hello.session not in met:
            met.add(hello.session)
            channel = await offer(mailbox.converse(hello.session, hello.user), IceServers())
            await channel.receive()  # what it wants
            with contextlib.suppress(Exception):  # it hangs up on us, as it should
                await act(channel, lambda id, raw: sealed(codec, sealer, (id, raw))[0])
                await channel.receive()
            await channel.close()


def fetch_until_the_connection_fails(two: Two, ticket: str) -> str:
    """The notice's sentence. The fetch goes on asking for the sender, until it is told to stop."""
    got = two.fetch(ticket)
    failed = got.event(events.Notice, lambda notice: "direct connection failed" in notice.text)
    got.signal(signal.SIGTERM)
    assert complaint(got).code == 143
    assert (two.arrived, got.stderr.count("\n") < 10) == ([], True)
    assert got.peak < 350 * MIB
    return failed.text


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (noise, "the peer"),
        (huge_messages, "the peer sent a piece that does not fit its frame"),
        (huge_lengths, "the peer sent a piece that does not fit its frame"),
        (a_receivers_words, "the peer said Ack out of turn"),
        (pieces_out_of_order, "the pieces of a frame do not follow each other"),
        (farewell, "gone"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_peer_that_breaks_the_law_is_hung_up_on(
    two: Two, pretender: Callable[[Act], str], act: Act, why: str
) -> None:
    said = fetch_until_the_connection_fails(two, pretender(act))
    assert why in said
    assert said.isprintable()


def test_a_flood_of_what_nobody_can_use_is_no_sign_of_life(two: Two, pretender: Callable[[Act], str]) -> None:
    """Bytes come without end, and the transfer gets nowhere: patience runs all the same."""
    got = two.fetch(pretender(a_flood), "--patience", "5s")
    said = complaint(got)
    assert got.event(events.RouteChosen).route == "webrtc"
    assert (said.code, said.kind) == (5, "PeerAbsent")
    assert (two.arrived, got.peak < 350 * MIB) == ([], True)


def test_a_peer_that_has_nothing_to_say_is_waited_for_only_so_long(
    two: Two, pretender: Callable[[Act], str]
) -> None:
    said = complaint(two.fetch(pretender(an_end_at_once), "--patience", "2s"))
    assert (said.code, said.kind) == (5, "PeerAbsent")
    assert two.arrived == []


def honest_then(frames: Sequence[tuple[FrameId, bytes]]) -> Act:
    async def act(channel: Channel, make: Callable[[FrameId, bytes], Frame]) -> None:
        for id, raw in frames:
            await _say(channel, *(pack(piece) for piece in split(make(id, raw))))
        await _say(channel, pack(End()))

    return act


def test_a_wrong_digest_in_the_trailer_is_seen_on_a_direct_connection_too(
    two: Two, pretender: Callable[[Act], str]
) -> None:
    first = block([file(b"f", MIB)])
    content, other = os.urandom(MIB), os.urandom(MIB)
    ticket = pretender(honest_then([first, chunk(0, content), trailer(MIB, first, [other])]))
    said = complaint(two.fetch(ticket))
    assert (said.code, said.kind) == (6, "DamagedData")
    assert two.arrived == []


def test_an_evil_name_is_refused_on_a_direct_connection_too(
    two: Two, pretender: Callable[[Act], str]
) -> None:
    first = block([file(b"../beside")])
    said = complaint(two.fetch(pretender(honest_then([first, trailer(0, first, [])]))))
    assert (said.code, said.kind) == (6, "UnsafeName")
    assert (two.arrived, two.left_over) == ([], [])
    assert not (two.tmp / "beside").exists()
