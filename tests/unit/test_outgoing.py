"""Outgoing: a tree's frames in order, bounded ahead, only those that are wanted."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from outgoings import CODEC, MIB, SOON, chunk, collect, collect_ids, gone, pieces_of, raw_of, threads

from transfer import outgoing as outgoing_module
from transfer.chunks import Extent, make_manifest, read_trailer, root_digest
from transfer.codec import Codec, Encoded, Room, digest_of
from transfer.content import of_stream
from transfer.errors import SourceChanged
from transfer.model import TRAILER, Entry, EntryKind, FrameId, FrameSet, Kind
from transfer.outgoing import AHEAD, WORKERS, Outgoing, OutgoingStream
from transfer.scan import scan
from transfer.seal import Sealer
from transfer.source import Tree
from transfer.stream import no_verdict
from transfer.ticket import Ticket

CHUNK = 1 * MIB


class Counted:
    """A tree whose reads are counted."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self.reads: list[Extent] = []

    def read_into(self, extents: Sequence[Extent], view: memoryview) -> None:
        with self._lock:
            self.reads += extents
        self._tree.read_into(extents, view)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """Forty chunks in three files, one of them empty."""
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "a").write_bytes(random.Random(3).randbytes(2 * MIB + 7))
    (folder / "b").touch()
    (folder / "c").write_bytes(b"c" * (37 * MIB))
    found = scan([folder])
    yield found
    found.close()


# files that can be read again


async def test_frames_come_in_order_with_the_trailer_last(tree: Tree) -> None:
    manifest = make_manifest(tree.entries)
    outgoing = Outgoing(tree, manifest, CODEC)
    made = await collect(outgoing.frames(FrameSet.everything()))
    ids = [m.frame.id for m in made]
    assert ids == list(outgoing.everything) == [FrameId(Kind.MANIFEST, 0), *map(chunk, range(40)), TRAILER]
    whole = b"".join(raw_of(m) for m in made[1:-1])
    assert whole == random.Random(3).randbytes(2 * MIB + 7) + b"c" * (37 * MIB)
    trailer = read_trailer(raw_of(made[-1]))
    assert trailer.digest == outgoing.root == root_digest([made[0].digest], [m.digest for m in made[1:-1]])
    assert (trailer.total, trailer.chunks) == (len(whole), 40)
    assert sum(outgoing.raw_length(i) for i in ids) == len(whole)
    assert outgoing.digests == {m.frame.id: digest_of(raw_of(m)) for m in made}
    outgoing.close()


async def test_an_empty_folder_is_a_manifest_and_a_trailer(tmp_path: Path) -> None:
    outgoing = Outgoing(found := scan([tmp_path]), make_manifest(found.entries), CODEC)
    made = await collect(outgoing.frames(FrameSet.everything()))
    assert [m.frame.id for m in made] == [FrameId(Kind.MANIFEST, 0), TRAILER]
    outgoing.close()


async def test_a_slow_consumer_bounds_what_is_made_ahead(tree: Tree) -> None:
    source = Counted(tree)
    outgoing = Outgoing(source, make_manifest(tree.entries), CODEC)
    taken = 0
    async for _ in outgoing.frames(FrameSet.everything()):
        taken += 1
        await asyncio.wrap_future(outgoing._pool.submit(int))  # whatever was begun has its thread by now
        assert len({e.start // CHUNK for e in source.reads if e.entry == 3}) <= taken + AHEAD // CHUNK
    assert taken == 42
    assert AHEAD // CHUNK > WORKERS
    outgoing.close()


class Endless:
    """A file of terabytes: its bytes are made up, its reads counted. Each read takes so long."""

    def __init__(self, takes: Callable[[], None] = lambda: None) -> None:
        self.reads = 0
        self._takes = takes
        self._lock = threading.Lock()

    def read_into(self, extents: Sequence[Extent], view: memoryview) -> None:
        self._takes()
        with self._lock:
            self.reads += 1
        view[:8] = extents[0].start.to_bytes(8, "big")


@pytest.mark.parametrize(
    ("total", "chunk_size", "ahead"),
    [(50_000_000, MIB, 24), (10**12, 4 * MIB, 6), (2 * 10**12, 16 * MIB, 2)],
    ids=["small", "large", "terabytes"],
)
async def test_what_is_made_ahead_is_bounded_in_bytes_but_two_frames_always_are(
    total: int, chunk_size: int, ahead: int
) -> None:
    manifest = make_manifest([Entry(b"f", EntryKind.FILE, total, 0o644, 0)])
    assert manifest.head.chunk_size == chunk_size
    source = Endless()
    outgoing = Outgoing(source, manifest, CODEC)
    frames = outgoing.frames(FrameSet([(Kind.CHUNK, 0, 2**32)]))
    for taken in range(1, 5):
        made = await anext(frames)
        assert CODEC.decode(made.frame).raw[:8] == ((taken - 1) * chunk_size).to_bytes(8, "big")
        async with asyncio.timeout(SOON):
            while source.reads < taken - 1 + ahead:
                await asyncio.wrap_future(outgoing._pool.submit(int))
        await asyncio.wrap_future(outgoing._pool.submit(int))  # whatever was begun has its thread by now
        assert source.reads == taken - 1 + ahead
    assert outgoing._pool._max_workers == min(WORKERS, ahead)
    await frames.aclose()
    outgoing.close()


class Clock:
    """In place of `time`; moves by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def takes(self, seconds: float) -> Callable[[], None]:
        def move() -> None:
            self.now += seconds

        return move


class SlowCodec(Codec):
    """Each chunk takes two seconds of that clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Sealer(Ticket("q" * 16, bytes(16))))
        self._clock = clock

    def encode_in(self, place: Room, frame: FrameId, length: int) -> Encoded:
        self._clock.now += 2 if frame.kind is Kind.CHUNK else 0
        return super().encode_in(place, frame, length)


async def test_the_time_that_encoding_takes_is_counted_without_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(outgoing_module, "time", clock)
    manifest = make_manifest([Entry(b"f", EntryKind.FILE, 10 * MIB, 0o644, 0)])
    outgoing = Outgoing(Endless(clock.takes(50)), manifest, SlowCodec(clock))
    for index in range(3):
        await collect(outgoing.frames(FrameSet([(Kind.CHUNK, index, index + 1)])))
    assert outgoing.encoding.seconds == 6
    outgoing.close()


async def test_the_time_that_encoding_a_stream_takes_is_counted_without_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, pieces, begin = Clock(), pieces_of(b"x" * 1000, 1000), threading.Event()

    def read(size: int) -> bytes:
        begin.wait(SOON)
        clock.now += 50
        return pieces(size)

    monkeypatch.setattr(outgoing_module, "time", clock)
    outgoing = OutgoingStream(read, of_stream(io.BytesIO(), "s").manifest, SlowCodec(clock), no_verdict)
    frames = outgoing.frames(outgoing.everything)
    await anext(frames)  # the manifest: nothing is read while it is encoded
    begin.set()
    assert (await anext(frames)).frame.id == chunk(0)
    assert outgoing.encoding.seconds == 2
    await frames.aclose()
    outgoing.close()


async def test_only_what_is_wanted_is_made_and_the_trailer_covers_the_rest(tree: Tree) -> None:
    manifest = make_manifest(tree.entries)
    source = Counted(tree)
    outgoing = Outgoing(source, manifest, CODEC)
    wanted = FrameSet([(Kind.CHUNK, 2, 3), (Kind.CHUNK, 30, 31), (Kind.TRAILER, 0, 1)])
    made = await collect(outgoing.frames(wanted))
    assert [m.frame.id for m in made] == [chunk(2), chunk(30), TRAILER]
    assert len(outgoing.digests) == 42
    whole = Outgoing(tree, manifest, CODEC)
    await collect(whole.frames(FrameSet.everything()))
    assert read_trailer(raw_of(made[-1])).digest == outgoing.root == whole.root != b""
    outgoing.close()
    whole.close()


async def test_chunks_whose_digest_is_known_are_not_read_again(tree: Tree) -> None:
    manifest = make_manifest(tree.entries)
    earlier = Outgoing(tree, manifest, CODEC)
    await collect(earlier.frames(FrameSet.everything()))
    source = Counted(tree)
    outgoing = Outgoing(source, manifest, CODEC)
    outgoing.digests.update({f: d for f, d in earlier.digests.items() if f != chunk(5)})
    made = await collect(outgoing.frames(FrameSet([(Kind.CHUNK, 9, 10), (Kind.TRAILER, 0, 1)])))
    assert [m.frame.id for m in made] == [chunk(9), TRAILER]
    assert len(source.reads) == 2
    assert outgoing.root == earlier.root
    earlier.close()
    outgoing.close()


async def test_without_the_trailer_what_is_not_wanted_is_not_even_read(tree: Tree) -> None:
    source = Counted(tree)
    outgoing = Outgoing(source, make_manifest(tree.entries), CODEC)
    await collect(outgoing.frames(FrameSet([(Kind.CHUNK, 7, 9)])))
    assert len(source.reads) == 2
    outgoing.close()


async def test_what_a_peer_wants_beyond_the_job_is_ignored(tree: Tree) -> None:
    outgoing = Outgoing(tree, make_manifest(tree.entries), CODEC)
    made = await collect(outgoing.frames(FrameSet([(Kind.CHUNK, 39, 2**32), (Kind.MANIFEST, 1, 2**32)])))
    assert [m.frame.id for m in made] == [chunk(39)]
    outgoing.close()


async def test_a_file_that_changes_meanwhile_ends_it_without_a_trailer(tree: Tree, tmp_path: Path) -> None:
    outgoing = Outgoing(tree, make_manifest(tree.entries), CODEC)
    frames = outgoing.frames(FrameSet.everything())
    seen = [(await anext(frames)).frame.id]
    os.truncate(tmp_path / "src" / "c", 36 * MIB)
    with pytest.raises(SourceChanged):
        await collect_ids(frames, seen)
    assert TRAILER not in seen
    outgoing.close()


async def test_what_failed_besides_the_first_leaves_no_complaint_behind(tree: Tree, tmp_path: Path) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    outgoing = Outgoing(tree, make_manifest(tree.entries), CODEC)
    os.truncate(tmp_path / "src" / "c", 36 * MIB)
    with pytest.raises(SourceChanged):
        await collect(outgoing.frames(FrameSet([(Kind.CHUNK, 5, 40)])))
    for _ in range(AHEAD // CHUNK):
        await asyncio.wrap_future(outgoing._pool.submit(int))
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
    outgoing.close()


async def test_closing_early_leaves_no_thread_and_no_task(tree: Tree) -> None:
    before = threads("encode")
    outgoing = Outgoing(tree, make_manifest(tree.entries), CODEC)
    frames = outgoing.frames(FrameSet.everything())
    await anext(frames)
    await frames.aclose()
    outgoing.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert gone("encode", before)


async def test_cancelling_the_consumer_leaves_no_thread_and_no_task(tree: Tree) -> None:
    before = threads("encode")
    outgoing = Outgoing(tree, make_manifest(tree.entries), CODEC)
    begun = asyncio.Event()

    async def consume() -> None:
        async for _ in outgoing.frames(FrameSet.everything()):
            begun.set()

    task = asyncio.create_task(consume())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    outgoing.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert gone("encode", before)
