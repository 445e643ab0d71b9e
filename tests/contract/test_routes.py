"""What every route promises (`transfer/transport.py`), each claim on each route of `routes.MAKERS`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from routes import SILENCE, Route, chunk, until

from transfer.errors import PeerLost, ProtocolError
from transfer.model import TRAILER, Frame, FrameId, FrameSet, Kind
from transfer.transports import peer
from transfer.transports.peer import PeerInbound

EVERYTHING = FrameSet.everything()
SOON = 3 * SILENCE
"""Seconds within which a route must have noticed whatever happened."""


async def send(route: Route, frames: Sequence[Frame]) -> FrameSet:
    wanted = await route.outbound.wanted()
    for frame in frames:
        await route.outbound.put(frame)
    await route.outbound.finish()
    return wanted


async def fetch(route: Route, wanted: FrameSet = EVERYTHING) -> list[Frame]:
    got = []
    async for frame in route.inbound.frames(wanted):
        got.append(frame)
        await route.inbound.ack([frame.id])
    return got


async def both(route: Route, frames: Sequence[Frame], wanted: FrameSet = EVERYTHING) -> list[Frame]:
    async with asyncio.timeout(20):
        got, _ = await asyncio.gather(fetch(route, wanted), send(route, frames))
    return got


async def settle() -> None:
    """Let everything happen that can without more input."""
    await asyncio.sleep(0.1)


# --- order, completeness, repeats


def same(got: list[Frame], put: list[Frame]) -> bool:
    """Each frame once; what is no chunk in its place."""
    assert [frame.id.kind for frame in got] == [frame.id.kind for frame in put]
    return sorted(got, key=lambda frame: frame.id) == sorted(put, key=lambda frame: frame.id)


async def test_all_frames_arrive_once_and_what_is_no_chunk_in_its_place(route: Route) -> None:
    chunks = [chunk(index) for index in (0, 3, 1, 2, 40)]
    frames = [Frame(FrameId(Kind.MANIFEST, 0), b"m"), *chunks, Frame(TRAILER, b"t")]
    assert same(await both(route, frames), frames)


async def test_every_kind_and_size_arrives_intact(route: Route) -> None:
    frames = [
        Frame(FrameId(Kind.MANIFEST, 0), b"m"),
        chunk(0, 0),
        chunk(1, 1),
        chunk(2, 700_000),
        Frame(TRAILER, b"t" * 100),
    ]
    assert same(await both(route, frames), frames)


async def test_more_than_a_window_passes_through(route: Route) -> None:
    frames = [chunk(index, 300_000) for index in range(12)]
    assert same(await both(route, frames), frames)


async def test_a_frame_beyond_the_window_passes_through(route: Route) -> None:
    frames = [chunk(0), chunk(1, 3_000_000), chunk(2)]
    assert same(await both(route, frames), frames)


async def test_a_frame_that_is_put_twice_does_no_harm(route: Route) -> None:
    one, two = chunk(0), chunk(1)
    got = await both(route, [one, one, two, one])
    assert all(frame in (one, two) for frame in got)
    assert {frame.id for frame in got} == {one.id, two.id}
    assert len(got) <= 4


async def test_a_frame_that_is_put_again_when_it_is_safe_does_no_harm(route: Route) -> None:
    receiving = asyncio.create_task(fetch(route))
    await route.outbound.wanted()
    await route.outbound.put(chunk(0))
    if route.outbound.limits.acknowledges:
        assert await anext(aiter(route.outbound.delivered())) == [chunk(0).id]
    async with asyncio.timeout(SOON):
        await route.outbound.put(chunk(0))
        await route.outbound.finish()
    assert {frame.id for frame in await receiving} == {chunk(0).id}


async def test_the_sender_learns_what_is_wanted_open_ranges_included(route: Route) -> None:
    if not route.outbound.limits.acknowledges:
        assert Kind.CHUNK in {kind for kind, _, _ in (await route.outbound.wanted()).ranges()}
        return
    wanted = FrameSet(
        [(Kind.MANIFEST, 0, 1), (Kind.CHUNK, 5, 7), (Kind.CHUNK, 9, 1 << 32), (Kind.TRAILER, 0, 1)]
    )
    _, heard = await asyncio.gather(fetch(route, wanted), send(route, [chunk(5)]))
    assert heard == wanted


async def test_nothing_to_send_ends_the_frames(route: Route) -> None:
    if not route.outbound.limits.acknowledges:  # a job that is stored has a manifest and a trailer at least
        assert await both(route, [Frame(TRAILER, b"t" * 100)]) == [Frame(TRAILER, b"t" * 100)]
        return
    assert await both(route, []) == []


# --- acknowledgement, finish


async def test_what_is_acknowledged_is_told_once_and_in_order(route: Route) -> None:
    frames = [chunk(index) for index in range(5)]
    told: list[FrameId] = []

    async def note() -> None:
        async for batch in route.outbound.delivered():
            told.extend(batch)

    noting = asyncio.create_task(note())
    await both(route, frames)
    await route.outbound.close()
    async with asyncio.timeout(SOON):
        await noting
    assert told == ([frame.id for frame in frames] if route.outbound.limits.acknowledges else [])


async def test_finish_waits_until_everything_is_safe(route: Route) -> None:
    if not route.outbound.limits.acknowledges:
        await both(route, [chunk(0)])
        return
    sending = asyncio.create_task(send(route, [chunk(0), chunk(1)]))
    got = [frame async for frame in route.inbound.frames(EVERYTHING)]
    await route.inbound.ack([got[0].id])
    await settle()
    assert not sending.done()
    await route.inbound.ack([got[1].id])
    async with asyncio.timeout(SOON):
        await sending


async def test_finish_may_be_called_again(route: Route) -> None:
    await both(route, [chunk(0)])
    async with asyncio.timeout(SOON):
        await route.outbound.finish()
        await asyncio.gather(route.outbound.finish(), route.outbound.finish())


async def test_an_ack_of_a_frame_from_elsewhere_is_passed_over(route: Route) -> None:
    await route.inbound.ack([])
    receiving = asyncio.create_task(fetch(route))
    await route.outbound.wanted()
    await route.inbound.ack([FrameId(Kind.CHUNK, 77)])
    await route.outbound.put(chunk(0))
    await route.outbound.finish()
    assert [frame.id for frame in await receiving] == [chunk(0).id]


async def test_a_frame_that_came_damaged_may_be_asked_for_again(route: Route) -> None:
    if not route.outbound.limits.acknowledges:
        assert route.outbound.limits.concurrency > 0  # such a route is read again from its store
        return
    sending = asyncio.create_task(send(route, [chunk(0), chunk(1)]))
    first = [frame async for frame in route.inbound.frames(EVERYTHING)]
    await route.inbound.ack([FrameId(Kind.CHUNK, 0)])
    again = await fetch(route, FrameSet([(Kind.CHUNK, 1, 2)]))
    assert again == first[1:]
    async with asyncio.timeout(SOON):
        await sending


# --- bounds


async def test_an_inbound_that_is_not_read_bounds_what_put_takes(route: Route) -> None:
    limits = route.outbound.limits
    if not limits.acknowledges:
        assert limits.window < 1 << 30
        return
    frames = route.inbound.frames(EVERYTHING)
    reading = asyncio.ensure_future(anext(frames))
    await route.outbound.wanted()
    size = len(chunk(0).data)
    taken = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while taken < 1000:
                await route.outbound.put(chunk(taken))
                taken += 1
    assert taken == limits.window // size
    await route.inbound.ack([(await reading).id])
    async with asyncio.timeout(SOON):
        await route.outbound.put(chunk(taken))


async def test_a_frame_beyond_the_largest_part_is_refused(route: Route) -> None:
    receiving = asyncio.create_task(fetch(route))
    await route.outbound.wanted()
    for kind in (Kind.MANIFEST, Kind.CHUNK):
        with pytest.raises(ValueError, match="fit"):
            await route.outbound.put(Frame(FrameId(kind, 0), bytes(route.outbound.limits.max_part + 1)))
    await route.outbound.put(chunk(0))
    await route.outbound.finish()
    assert len(await receiving) == 1


async def test_others_run_while_a_large_frame_is_sent(route: Route) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await both(route, [chunk(0, 8 << 20)])
    counting.cancel()
    assert turns > 20


# --- loss of the peer


async def expect_loss(work: Coroutine[Any, Any, object]) -> str:
    """What is said of it."""
    async with asyncio.timeout(SOON):
        with pytest.raises(PeerLost) as lost:
            await work
    return lost.value.what


async def put_for_ever(route: Route) -> None:
    index = 0
    while True:
        await route.outbound.put(chunk(index))
        index += 1


async def begin(route: Route) -> list[asyncio.Future[Any]]:
    """A route with one frame across, a put that waits, and an iteration that waits."""
    frames = route.inbound.frames(EVERYTHING)
    first = asyncio.ensure_future(anext(frames))
    await route.outbound.wanted()
    await route.outbound.put(chunk(0))
    await first
    putting = asyncio.create_task(put_for_ever(route))

    async def read_on() -> None:
        async for _ in frames:
            pass

    reading = asyncio.create_task(read_on())
    await settle()
    assert not putting.done()
    assert not reading.done()
    return [putting, reading]


async def test_a_lost_connection_wakes_everyone_at_once(route: Route) -> None:
    if route.lose is None:
        assert not route.outbound.limits.acknowledges
        return
    waiting = await begin(route)
    await route.lose()
    for task in waiting:
        assert "said a word" not in await expect_loss(asyncio.wait_for(task, SOON)), (
            "it was not heard but timed out"
        )
    await expect_loss(route.outbound.put(chunk(5000)))
    await expect_loss(route.outbound.finish())
    await expect_loss(route.outbound.wanted())
    await expect_loss(fetch(route))


async def test_a_receiver_that_dies_without_a_word_is_lost_after_the_silence(route: Route) -> None:
    if route.kill_inbound is None:
        assert not route.outbound.limits.acknowledges
        return
    putting, reading = await begin(route)
    route.kill_inbound()
    await expect_loss(asyncio.wait_for(putting, SOON))
    await expect_loss(route.outbound.finish())
    await asyncio.wait({reading}, timeout=SOON)
    assert isinstance(reading.exception(), PeerLost)


async def test_a_sender_that_dies_without_a_word_is_lost_after_the_silence(route: Route) -> None:
    if route.kill_outbound is None:
        assert not route.outbound.limits.acknowledges
        return
    putting, reading = await begin(route)
    route.kill_outbound()
    await expect_loss(asyncio.wait_for(reading, SOON))
    await asyncio.wait({putting}, timeout=SOON)
    assert isinstance(putting.exception(), PeerLost)


async def test_a_peer_that_has_nothing_to_say_is_not_lost(route: Route) -> None:
    receiving = asyncio.create_task(fetch(route))
    await route.outbound.wanted()
    await asyncio.sleep(2 * SILENCE)
    await route.outbound.put(chunk(0))
    await route.outbound.finish()
    assert len(await receiving) == 1


async def test_what_arrived_before_the_loss_can_still_be_read(route: Route) -> None:
    if route.lose is None:
        assert not route.outbound.limits.acknowledges
        return
    frames = route.inbound.frames(EVERYTHING)
    first = asyncio.ensure_future(anext(frames))
    await route.outbound.wanted()
    for index in range(3):
        await route.outbound.put(chunk(index))
    await first
    assert isinstance(route.inbound, PeerInbound)
    arrived = route.inbound._arrived
    async with asyncio.timeout(SOON):
        await until(lambda: len(arrived) == 2)
    await route.lose()
    assert [(await anext(frames)).id.index for _ in range(2)] == [1, 2]
    with pytest.raises(PeerLost):
        await anext(frames)


async def test_garbage_from_the_peer_is_a_protocol_error_and_ends_the_route(route: Route) -> None:
    if route.garble is None:
        assert not route.outbound.limits.acknowledges
        return
    frames = route.inbound.frames(EVERYTHING)
    first = asyncio.ensure_future(anext(frames))
    await route.outbound.wanted()
    await route.outbound.put(chunk(0))
    await first
    await route.garble()
    async with asyncio.timeout(SOON):
        with pytest.raises(ProtocolError, match="cannot be read"):
            await anext(frames)
        with pytest.raises(ProtocolError, match="cannot be read"):
            await route.outbound.finish()
        with pytest.raises(ProtocolError, match="cannot be read"):
            await route.outbound.put(chunk(1))


# --- cancellation


async def test_a_cancelled_put_leaves_the_route_usable(route: Route) -> None:
    frames = route.inbound.frames(EVERYTHING)
    reading = asyncio.ensure_future(anext(frames))
    await route.outbound.wanted()
    putting = asyncio.create_task(put_for_ever(route))
    first = await reading
    await settle()
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    await route.inbound.ack([first.id])
    finishing = asyncio.create_task(route.outbound.finish())
    got = [first]
    async for frame in frames:
        got.append(frame)
        await route.inbound.ack([frame.id])
    async with asyncio.timeout(SOON):
        await finishing
    assert sorted(frame.id.index for frame in got) == list(range(len(got)))


async def test_a_cancelled_put_leaves_the_route_closable(route: Route) -> None:
    receiving = asyncio.create_task(fetch(route))
    await route.outbound.wanted()
    putting = asyncio.create_task(put_for_ever(route))
    await asyncio.sleep(0.01)
    putting.cancel()
    receiving.cancel()
    await asyncio.gather(putting, receiving, return_exceptions=True)
    async with asyncio.timeout(SOON):
        await route.outbound.close("cancelled")
        await route.inbound.close("cancelled")


async def test_an_iteration_that_was_cancelled_may_be_begun_again(route: Route) -> None:
    reading = asyncio.create_task(fetch(route))
    await route.outbound.wanted()
    await settle()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    got, _ = await asyncio.gather(fetch(route), send_rest(route))
    assert [frame.id for frame in got] == [chunk(0).id]


async def send_rest(route: Route) -> None:
    await settle()
    await route.outbound.put(chunk(0))
    await route.outbound.finish()


# --- the end


async def test_close_may_be_called_again_and_by_many(route: Route) -> None:
    await both(route, [chunk(0)])
    async with asyncio.timeout(SOON):
        await asyncio.gather(route.outbound.close(), route.inbound.close(), route.outbound.close("x"))
        await route.outbound.close()
        await route.inbound.close()


async def test_a_good_end_waits_for_nothing(route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "FAREWELL", 100.0)
    await both(route, [chunk(0)])
    async with asyncio.timeout(SOON):
        await asyncio.gather(route.outbound.close(), route.inbound.close())


async def test_closing_wakes_whoever_waits(route: Route) -> None:
    if not route.outbound.limits.acknowledges:
        await route.outbound.close()
        return
    waiting = await begin(route)
    await route.outbound.close("enough")
    for task in waiting:
        await expect_loss(asyncio.wait_for(task, SOON))


async def test_why_a_peer_stops_is_told_without_control_characters(route: Route) -> None:
    if not route.outbound.limits.acknowledges:
        await route.outbound.close("no room\x1b[2J\n")
        return
    receiving = asyncio.create_task(fetch(route))
    await route.outbound.wanted()
    await route.outbound.close("no room\x1b[2J\n")
    with pytest.raises(PeerLost, match=r"^the peer stopped: no room\[2J$"):
        await receiving


async def test_acks_said_just_before_a_good_close_arrive(route: Route) -> None:
    sending = asyncio.create_task(send(route, [chunk(index) for index in range(8)]))
    got = [frame.id async for frame in route.inbound.frames(EVERYTHING)]
    await route.inbound.ack(got)
    await route.inbound.close()
    async with asyncio.timeout(SOON):
        await sending


async def test_a_receiver_that_has_all_may_close_without_hearing_the_end(route: Route) -> None:
    receiving = aiter(route.inbound.frames(EVERYTHING))
    first = asyncio.ensure_future(anext(receiving))
    await route.outbound.wanted()
    await route.outbound.put(chunk(0))
    await route.inbound.ack([(await first).id])
    await route.inbound.close()
    async with asyncio.timeout(SOON):
        await route.outbound.finish()


async def test_closing_a_lost_route_waits_for_nothing_and_is_silent(
    route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "FAREWELL", 100.0)
    if route.kill_inbound is None:
        assert not route.outbound.limits.acknowledges
        return
    waiting = await begin(route)
    route.kill_inbound()
    await asyncio.wait(waiting, timeout=SOON)
    async with asyncio.timeout(SOON):
        await asyncio.gather(route.outbound.close(), route.inbound.close())
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_nothing_is_taken_after_the_finish(route: Route) -> None:
    await both(route, [chunk(0)])
    with pytest.raises((ValueError, PeerLost)):
        await route.outbound.put(chunk(1))
