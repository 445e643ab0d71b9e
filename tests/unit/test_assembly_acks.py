"""Assembly acknowledges what the ledger has, and keeps it whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from assembling import CHUNK, FIRST, IN_ORDER, SOON, Receiver, chunk, feed, frames_of, hear_nothing

from transfer.chunks import Extent
from transfer.commits import COMMIT_EVERY
from transfer.errors import DiskFull
from transfer.ledger import JobRow, Ledger
from transfer.model import Entry, EntryKind, Frame, FrameId

# the ledger comes first


async def test_nothing_is_acknowledged_before_the_ledger_has_it(receiver: Receiver, tmp_path: Path) -> None:
    raws = [bytes([n]) * CHUNK for n in range(COMMIT_EVERY + 5)]
    entry = Entry(b"f", EntryKind.FILE, CHUNK * len(raws), 0o644, 0)
    seen: set[FrameId] = set()
    with closing(Ledger(tmp_path / "ledger.db")) as another_process:

        async def ack(frames: Sequence[FrameId]) -> None:
            assert another_process.frames(receiver.row).keys() >= set(frames)
            seen.update(frames)

        frames = frames_of([entry], raws)
        await receiver.assembly.consume(feed(frames.values()), ack)
    assert seen == set(frames)


async def hold(frames: Iterable[Frame], until: asyncio.Event) -> AsyncGenerator[Frame, None]:
    for frame in frames:
        yield frame
    await asyncio.wait_for(until.wait(), SOON)


async def test_a_lone_frame_is_acknowledged_without_waiting_for_more(receiver: Receiver) -> None:
    heard = asyncio.Event()

    async def ack(frames: Sequence[FrameId]) -> None:
        if chunk(0) in frames:
            heard.set()

    await receiver.assembly.consume(hold(IN_ORDER[:2], heard), ack)
    assert heard.is_set()


async def test_a_sender_hears_of_each_quarter_of_its_window_and_need_not_wait_for_more(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it has nothing left to send while the rest is waited for."""
    monkeypatch.setattr("transfer.commits.COMMIT_SECONDS", 10 * SOON)
    raws = [bytes([n]) * CHUNK for n in range(5)]
    manifest, *chunks = frames_of([Entry(b"f", EntryKind.FILE, CHUNK * len(raws), 0o644, 0)], raws).values()
    heard = asyncio.Event()

    async def ack(frames: Sequence[FrameId]) -> None:
        if chunk(1) in frames:
            heard.set()

    async def window() -> AsyncGenerator[Frame, None]:
        for frame in (manifest, *chunks[:2]):
            yield frame
        await asyncio.wait_for(heard.wait(), SOON)
        for frame in chunks[2:]:
            yield frame

    await receiver.assembly.consume(window(), ack, window=4 * 2 * len(chunks[0].data))
    assert receiver.assembly.complete.is_set()


async def test_a_ledger_that_was_full_for_a_moment_loses_no_acknowledgement(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()
    add_frames = receiver.ledger.add_frames

    def full_once(row: JobRow, frames: list[tuple[FrameId, bytes]]) -> None:
        if not refused.is_set():
            refused.set()
            raise DiskFull("no room for the ledger")
        add_frames(row, frames)

    monkeypatch.setattr(receiver.ledger, "add_frames", full_once)
    await receiver.assembly.consume(hold(IN_ORDER[:3], refused), receiver.ack)
    assert sorted(receiver.acked) == [FIRST, chunk(0), chunk(1)]
    assert receiver.ledger.frames(receiver.row).keys() == set(receiver.acked)


async def test_a_full_ledger_ends_it_and_nothing_is_acknowledged(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_row: JobRow, _frames: object) -> None:
        raise DiskFull("no room for the ledger")

    closed = False

    async def route() -> AsyncGenerator[Frame, None]:
        nonlocal closed
        try:
            for frame in IN_ORDER:
                yield frame
        finally:
            closed = True

    monkeypatch.setattr(receiver.ledger, "add_frames", full)
    with pytest.raises(DiskFull):
        await receiver.assembly.consume(route(), receiver.ack)
    assert receiver.acked == []
    assert not receiver.complete()
    assert closed


async def test_a_write_that_fails_is_told_though_no_other_frame_comes(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_extents: Sequence[Extent], _raw: bytes) -> None:
        raise DiskFull("no room")

    monkeypatch.setattr(receiver.sink, "write", full)
    with pytest.raises(DiskFull):
        await receiver.assembly.consume(hold(IN_ORDER[:2], asyncio.Event()), receiver.ack)


async def test_what_is_written_is_kept_when_the_route_dies(receiver: Receiver) -> None:
    async def dying() -> AsyncGenerator[Frame, None]:
        for frame in IN_ORDER[:3]:
            yield frame
        await receiver.written(2 * CHUNK)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await receiver.assembly.consume(dying(), receiver.ack)
    assert {chunk(0), chunk(1)} <= receiver.ledger.frames(receiver.row).keys()


async def test_a_cancelled_fetch_keeps_what_is_written_and_leaves_no_task(receiver: Receiver) -> None:
    never = asyncio.Event()
    task = asyncio.create_task(receiver.assembly.consume(hold(IN_ORDER[:3], never), hear_nothing))
    await receiver.written(2 * CHUNK)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {chunk(0), chunk(1)} <= receiver.ledger.frames(receiver.row).keys()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_ack_that_cannot_be_said_ends_the_route_with_its_error(receiver: Receiver) -> None:
    async def deaf(_frames: Sequence[FrameId]) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await receiver.assembly.consume(feed(IN_ORDER), deaf)
