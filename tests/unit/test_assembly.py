"""Assembly: frames in any order, from any number of routes, become exact bytes once."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncGenerator, Sequence

import pytest
from assembling import CHUNK, FILES, FIRST, IN_ORDER, SOON, WHOLE, Receiver, chunk, encode, frames_of, job

from transfer.chunks import Extent
from transfer.errors import DamagedData
from transfer.model import TRAILER, Entry, EntryKind, Frame, FrameId, FrameSet, Kind

# exact bytes, whatever the order


@pytest.mark.parametrize("seed", range(6))
async def test_frames_in_any_order_behind_the_manifest_give_exact_bytes(
    receiver: Receiver, seed: int
) -> None:
    rest = IN_ORDER[1:]
    random.Random(seed).shuffle(rest)
    await receiver.take([IN_ORDER[0], *rest])
    assert receiver.complete()
    assert receiver.files() == FILES
    assert sorted(receiver.acked) == sorted(WHOLE)
    assert receiver.begun == 1
    assert receiver.meter.done == receiver.meter.total == sum(map(len, FILES.values()))


async def test_the_blocks_of_a_long_manifest_may_come_in_any_order(receiver: Receiver) -> None:
    entries = [Entry(b"%d" % n, EntryKind.FILE, 0, 0o644, 0) for n in range(9000)]
    entries[8999] = Entry(b"last", EntryKind.FILE, 3, 0o644, 0)
    frames = frames_of(entries, [b"abc"])
    blocks = [FrameId(Kind.MANIFEST, n) for n in (2, 0, 1)]
    await receiver.take([*(frames[b] for b in blocks), frames[chunk(0)], frames[TRAILER]])
    assert receiver.complete()
    assert receiver.assembly.manifest is not None
    assert list(receiver.assembly.manifest.entries) == entries


async def test_repeats_are_harmless(receiver: Receiver) -> None:
    await receiver.take([frame for frame in IN_ORDER for _ in range(3)])
    assert receiver.files() == FILES
    assert sorted(receiver.acked) == sorted(WHOLE)
    assert receiver.meter.done == receiver.meter.total


async def test_two_routes_at_once_count_and_write_every_chunk_once(receiver: Receiver) -> None:
    await asyncio.gather(receiver.take(IN_ORDER), receiver.take(IN_ORDER[:1] + IN_ORDER[:0:-1]))
    assert receiver.complete()
    assert receiver.files() == FILES
    assert receiver.meter.done == receiver.meter.total


async def test_of_two_copies_under_one_number_the_one_on_disk_is_the_one_that_counts(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong copy is written late, while the right one comes by another route: its digest must not hide that."""
    entered, gate = threading.Event(), threading.Event()
    write = receiver.sink.write

    def lingering(extents: Sequence[Extent], raw: bytes) -> None:
        if not entered.is_set():
            entered.set()
            gate.wait(SOON)
        write(extents, raw)

    monkeypatch.setattr(receiver.sink, "write", lingering)
    wrong = encode(chunk(0), b"w" * CHUNK)
    slow = asyncio.create_task(receiver.take([IN_ORDER[0], wrong]))
    await asyncio.to_thread(entered.wait, SOON)
    quick = asyncio.create_task(receiver.take(IN_ORDER))
    while receiver.assembly.wanted.ranges() != [(Kind.CHUNK, 0, 1)]:
        await receiver.news()
    gate.set()
    ended = await asyncio.gather(slow, quick, return_exceptions=True)
    assert any(isinstance(error, DamagedData) for error in ended)
    assert not receiver.complete()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_it_is_not_complete_while_another_route_still_writes(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    """A late write would touch a file that has its final name and mtime; cancelling a task stops no thread."""
    entered, gate = threading.Event(), threading.Event()
    write = receiver.sink.write

    def lingering(extents: Sequence[Extent], raw: bytes) -> None:
        if not entered.is_set():
            entered.set()
            gate.wait(SOON)
        write(extents, raw)

    monkeypatch.setattr(receiver.sink, "write", lingering)
    slow = asyncio.create_task(receiver.take(IN_ORDER[:2]))
    await asyncio.to_thread(entered.wait, SOON)
    if cancelled:
        slow.cancel()
    quick = asyncio.create_task(receiver.take(IN_ORDER))
    while receiver.assembly.wanted.ranges() != [(Kind.CHUNK, 0, 1)]:
        await receiver.news()
    assert not receiver.complete()
    gate.set()
    await asyncio.gather(slow, quick, return_exceptions=True)
    assert receiver.complete()
    assert receiver.files() == FILES


async def test_a_chunk_before_the_manifest_is_nothing_yet_and_stays_wanted(receiver: Receiver) -> None:
    await receiver.take([WHOLE[chunk(0)], WHOLE[TRAILER], IN_ORDER[0]])
    assert receiver.acked == [FIRST]
    assert chunk(0) in receiver.assembly.wanted
    assert TRAILER in receiver.assembly.wanted
    await receiver.take(IN_ORDER)
    assert receiver.files() == FILES


async def test_a_job_without_a_byte_is_a_job(receiver: Receiver) -> None:
    await receiver.take(job({b"empty": b""}).values())
    assert receiver.complete()
    assert receiver.files() == {b"empty": b""}


async def test_what_is_wanted_shrinks_to_what_the_manifest_says(receiver: Receiver) -> None:
    await receiver.take(IN_ORDER[:3])
    assert receiver.assembly.wanted == FrameSet([(Kind.CHUNK, 2, 6), (Kind.TRAILER, 0, 1)])
    assert not receiver.complete()


@pytest.mark.parametrize("last", [TRAILER, chunk(5)])
async def test_it_stops_reading_a_route_once_all_is_here(receiver: Receiver, last: FrameId) -> None:
    """A sender whose peer vanished stores the rest and waits for a receipt: no more comes, and no end either."""
    closed = False

    async def endless() -> AsyncGenerator[Frame, None]:
        nonlocal closed
        try:
            for frame in sorted(IN_ORDER, key=lambda frame: frame.id == last):
                yield frame
            await asyncio.Event().wait()
        finally:
            closed = True

    await asyncio.wait_for(receiver.assembly.consume(endless(), receiver.ack), SOON)
    assert receiver.complete()
    assert closed


async def test_closing_twice_is_fine(receiver: Receiver) -> None:
    await receiver.take(IN_ORDER[:3])
    receiver.assembly.close()
    receiver.assembly.close()
