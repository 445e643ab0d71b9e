"""Assembly goes on where it was, with what on disk is still as the ledger says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from assembling import (
    CHUNK,
    CODEC,
    FILES,
    FIRST,
    IN_ORDER,
    JOB,
    STREAM_CHUNK,
    TOTAL,
    Receiver,
    chunk,
    feed,
    hear_nothing,
    stream,
)

from transfer.assembly import Assembly
from transfer.events import Progress
from transfer.folder_sink import FolderSink
from transfer.meter import Meter
from transfer.model import TRAILER, FrameSet, Kind

# taking up an earlier run


async def test_an_interrupted_fetch_goes_on_where_it_was(receiver: Receiver) -> None:
    await receiver.take(IN_ORDER[:4])
    with closing(receiver.again()) as second:
        await second.assembly.restore()
        assert second.begun == 1
        assert second.assembly.wanted == FrameSet([(Kind.CHUNK, 3, 6), (Kind.TRAILER, 0, 1)])
        told = [e for e in second.events if isinstance(e, Progress)]
        assert (told[-1].done, told[-1].total) == (3 * CHUNK, TOTAL)
        assert {CHUNK, 2 * CHUNK} < {progress.done for progress in told}, "it says nothing while it checks"
        assert second.meter.kept == 3
        await second.take(IN_ORDER)
        assert second.complete()
        assert second.meter.done == TOTAL
        assert second.meter.wire == sum(len(f.data) for f in IN_ORDER[4:])
        assert second.files() == FILES


@pytest.mark.parametrize(
    "alter",
    [
        pytest.param(lambda p: flip(p, CHUNK + 3), id="a changed byte"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[: CHUNK + 9]), id="a cut file"),
    ],
)
async def test_a_chunk_whose_bytes_on_disk_were_altered_is_fetched_again(
    receiver: Receiver, alter: Callable[[Path], object]
) -> None:
    await receiver.take(IN_ORDER[:3])
    alter(receiver.on_disk("a"))
    with closing(receiver.again()) as second:
        await second.assembly.restore()
        assert chunk(0) not in second.assembly.wanted
        assert chunk(1) in second.assembly.wanted
        assert second.ledger.frames(second.row).keys() == {FIRST, chunk(0)}
        assert second.meter.done == CHUNK
        await second.take(IN_ORDER)
        assert second.files() == FILES


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


async def test_a_file_that_is_gone_is_fetched_again(receiver: Receiver) -> None:
    await receiver.take(IN_ORDER[:6])
    receiver.on_disk("d/b").unlink()
    with closing(receiver.again()) as second:
        await second.assembly.restore()
        assert [f.index for f in second.assembly.wanted if f.kind is Kind.CHUNK] == [2, 3, 4, 5]
        await second.take(IN_ORDER)
        assert second.files() == FILES


async def test_a_manifest_block_the_ledger_cannot_vouch_for_is_fetched_again(receiver: Receiver) -> None:
    await receiver.take(IN_ORDER[:3])
    receiver.ledger.add_block(receiver.row, 0, b"another")
    with closing(receiver.again()) as second:
        await second.assembly.restore()
        assert second.assembly.manifest is None
        assert second.assembly.wanted == FrameSet.everything()
        assert chunk(0) not in second.ledger.frames(second.row)
        await second.take(IN_ORDER)
        assert second.files() == FILES


async def test_a_streams_full_chunks_are_found_again_and_its_last_is_fetched(receiver: Receiver) -> None:
    lengths = [STREAM_CHUNK, STREAM_CHUNK, 5]
    frames = stream(lengths)
    await receiver.take([f for f in frames.values() if f.id != TRAILER])
    with closing(receiver.again()) as second:
        await second.assembly.restore()
        assert second.meter.done == 2 * STREAM_CHUNK
        assert chunk(1) not in second.assembly.wanted
        assert chunk(2) in second.assembly.wanted
        await second.take(frames.values())
        assert second.complete()
        assert second.files() == {b"s": b"".join(bytes([n + 1]) * ln for n, ln in enumerate(lengths))}


async def test_a_sink_without_a_ledger_has_nothing_to_restore_and_works_all_the_same(tmp_path: Path) -> None:
    sink = FolderSink(tmp_path, job=JOB)
    assembly = Assembly(CODEC, sink, Meter(lambda _event: None), None, None, lambda: None)
    await assembly.restore()
    assert assembly.wanted == FrameSet.everything()
    await assembly.consume(feed(IN_ORDER), hear_nothing)
    assert assembly.complete.is_set()
    sink.publish()
    assert (tmp_path / "z").read_bytes() == b"the end"
    assembly.close()
    sink.close()
