"""How one end of a peer route talks, heard word by word at the other end of its channel."""

from __future__ import annotations

import asyncio

import pytest
from routes import chunk

from transfer.errors import PeerLost, ProtocolError
from transfer.model import FrameSet, Kind
from transfer.session import split
from transfer.transports.memory import MemoryChannel, channel_pair
from transfer.transports.peer import PeerInbound, PeerOutbound
from transfer.wire import Ack, Close, Data, End, Message, Ping, Want, pack, unpack

EVERYTHING = FrameSet.everything()
WANT = pack(Want(EVERYTHING))


async def words(channel: MemoryChannel) -> list[Message]:
    """All that is said until the channel ends, but for the pings."""
    heard: list[Message] = []
    while True:
        try:
            message = unpack(await channel.receive())
        except PeerLost:
            return heard
        if not isinstance(message, Ping):
            heard.append(message)


async def begun() -> tuple[PeerInbound, MemoryChannel]:
    """A receiver that has read one frame, and the far end of its channel, which holds one more word."""
    near, far = channel_pair(buffer=1)
    route = PeerInbound(near)
    frames = route.frames(EVERYTHING)
    first = asyncio.ensure_future(anext(frames))
    assert unpack(await far.receive()) == Want(EVERYTHING)
    for piece in split(chunk(0, 100)):
        await far.send(pack(piece))
    assert (await first).id == chunk(0).id
    await far.send(pack(End()))
    return route, far


async def test_a_good_close_comes_after_all_that_was_said() -> None:
    route, far = await begun()
    for _ in range(3):
        await route.ack([chunk(0).id])
    closing = asyncio.create_task(route.close())
    await asyncio.sleep(0.05)
    said = [unpack(await far.receive()) for _ in range(4)]
    assert said == [Ack((chunk(0).id,))] * 3 + [Close("")]
    await far.send(pack(Close("")))
    await closing


async def test_a_good_close_waits_for_the_peers_close() -> None:
    route, far = await begun()
    closing = asyncio.create_task(route.close())
    assert unpack(await far.receive()) == Close("")
    await asyncio.sleep(0.05)
    assert not closing.done()
    await far.send(pack(Close("")))
    async with asyncio.timeout(0.5):
        await closing


async def test_a_bad_close_says_why_and_waits_for_nobody() -> None:
    route, far = await begun()
    async with asyncio.timeout(0.4):
        await route.close("no room left")
    assert await words(far) == [Close("no room left")]


@pytest.mark.parametrize("kind", [PeerInbound, PeerOutbound])
async def test_garbage_is_answered_with_the_reason_and_the_end(
    kind: type[PeerInbound | PeerOutbound],
) -> None:
    near, far = channel_pair()
    route = kind(near)
    await far.send(b"\xff")
    async with asyncio.timeout(1):
        heard = await words(far)
    assert heard == [Close("the peer sent a message that cannot be read")]
    await route.close()


async def test_a_sender_answers_a_close_with_its_own() -> None:
    near, far = channel_pair()
    route = PeerOutbound(near)
    await far.send(WANT)
    await route.wanted()
    await far.send(pack(Close("")))
    async with asyncio.timeout(1):
        assert await words(far) == [Close("")]
    await route.close()


async def test_every_want_gets_an_end() -> None:
    near, far = channel_pair()
    route = PeerOutbound(near)
    await far.send(WANT)
    await far.send(WANT)
    assert await route.wanted() == EVERYTHING
    await asyncio.sleep(0.01)
    finishing = asyncio.create_task(route.finish())
    await finishing
    await route.close("done")
    assert await words(far) == [End(), End(), Close("done")]


async def test_a_frame_that_is_wanted_again_is_sent_again_unasked() -> None:
    near, far = channel_pair()
    route = PeerOutbound(near)
    await far.send(WANT)
    await route.wanted()
    frame = chunk(0, 100)
    await route.put(frame)
    finishing = asyncio.create_task(route.finish())
    first = [unpack(await far.receive()) for _ in range(2)]
    await far.send(WANT)
    again = [unpack(await far.receive()) for _ in range(2)]
    assert first == again == [Data(frame.id, len(frame.data), 0, bytes(frame.data)), End()]
    assert not finishing.done()
    await far.send(pack(Ack((frame.id,))))
    await finishing
    await route.close("done")


async def test_a_put_that_waits_while_its_frame_becomes_safe_takes_no_room() -> None:
    near, far = channel_pair()
    route = PeerOutbound(near, window=400)
    await far.send(WANT)
    await route.wanted()
    first, second = chunk(0, 100), chunk(1, 100)
    await route.put(first)
    await route.put(second)
    larger = first._replace(data=bytes(first.data) + bytes(200))
    waiting = asyncio.create_task(route.put(larger))
    for _ in range(2):
        await far.receive()
    assert not waiting.done()
    await far.send(pack(Ack((first.id, second.id))))
    await waiting
    async with asyncio.timeout(1):
        await route.finish()
    await route.close("done")


async def test_an_ack_of_what_was_never_sent_ends_the_route() -> None:
    near, far = channel_pair()
    route = PeerOutbound(near)
    await far.send(WANT)
    await route.wanted()
    await far.send(pack(Ack((chunk(0).id,))))
    with pytest.raises(ProtocolError, match="never sent"):
        await route.wanted()
    await route.close()


async def test_a_peer_that_only_asks_is_given_up() -> None:
    near, far = channel_pair(buffer=1 << 20)
    route = PeerOutbound(near)
    for number in range(4):
        odd = FrameSet(
            (Kind.CHUNK, index, index + 1) for index in range(number * 8000, number * 8000 + 4000, 2)
        )
        await far.send(pack(Want(odd)))
    assert await words(far) == [Close("the peer asks for more than can be kept track of")]
    await route.close()


async def test_more_than_a_window_from_the_peer_ends_the_route() -> None:
    near, far = channel_pair(buffer=1 << 20)
    route = PeerInbound(near, window=1000)
    frames = route.frames(EVERYTHING)
    first = asyncio.ensure_future(anext(frames))
    await far.receive()
    for index in range(3):
        for piece in split(chunk(index, 400)):
            await far.send(pack(piece))
    assert (await first).id.index == 0
    assert (await anext(frames)).id.index == 1
    with pytest.raises(ProtocolError, match="unacknowledged"):
        await anext(frames)
    await route.close()


# --- a pause


async def frames_said(channel: MemoryChannel, within: float) -> tuple[list[Message], int]:
    """What is said in that time, but for the pings, and how many of these there are."""
    heard: list[Message] = []
    pings = 0
    try:
        async with asyncio.timeout(within):
            while True:
                message = unpack(await channel.receive())
                pings += isinstance(message, Ping)
                if not isinstance(message, Ping):
                    heard.append(message)
    except TimeoutError:
        return heard, pings


async def test_a_held_route_says_the_frame_that_has_begun_and_pings_and_goes_on_in_order() -> None:
    near, far = channel_pair(buffer=1)
    route = PeerOutbound(near, silence=4.0)
    await far.send(WANT)
    frames = [chunk(number, 1000) for number in range(6)]
    for frame in frames[:4]:
        await route.put(frame)
    route.hold()
    for frame in frames[4:]:
        await route.put(frame)
    keeping = asyncio.create_task(keep_alive(far))
    said, pings = await frames_said(far, 1.5)
    assert [message.frame for message in said if isinstance(message, Data)] in (
        [frame.id for frame in frames[:1]],
        [frame.id for frame in frames[:2]],  # the next had begun by then
    )
    assert len(said) <= 2
    assert pings
    finishing = asyncio.create_task(route.finish())
    assert await frames_said(far, 0.5) == ([], pytest.approx(2, abs=2))
    route.go_on()
    rest: list[Message] = []
    async with asyncio.timeout(20):
        while not any(isinstance(message, End) for message in rest):
            rest += (await frames_said(far, 0.2))[0]
    ids = [message.frame for message in (*said, *rest) if isinstance(message, Data)]
    assert ids == [frame.id for frame in frames]
    assert isinstance(rest[-1], End)
    await far.send(pack(Ack(tuple(frame.id for frame in frames))))
    async with asyncio.timeout(20):
        await finishing
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await route.close("done")


async def keep_alive(far: MemoryChannel) -> None:
    """A peer that is there."""
    while True:
        await far.send(pack(Ping()))
        await asyncio.sleep(0.2)
