"""The receiving centre: frames in any order become exact bytes, and nothing is believed, said or kept too early."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import random
import threading
import time
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from transfer import assembly as assembly_module
from transfer.assembly import COMMIT_EVERY, WORKERS, Assembly
from transfer.chunks import (
    CHUNK_SIZES,
    Extent,
    encode_trailer,
    make_manifest,
    manifest_blocks,
    root_digest,
)
from transfer.codec import Codec, digest_of
from transfer.errors import CutShort, DamagedData, DestinationExists, DiskFull, ProtocolError, UnsafeName
from transfer.events import Event, Progress
from transfer.folder_sink import FolderSink
from transfer.ledger import JobRow, Ledger
from transfer.meter import Meter
from transfer.model import (
    FORMAT,
    INDEX_LIMIT,
    TRAILER,
    Entry,
    EntryKind,
    Frame,
    FrameId,
    FrameSet,
    Head,
    Kind,
    ManifestBlock,
)
from transfer.pipe import PipeSink
from transfer.seal import Sealer
from transfer.sink import Raw
from transfer.ticket import Ticket

JOB = "q" * 16
CODEC = Codec(Sealer(Ticket(JOB, bytes(16))))
CHUNK, STREAM_CHUNK = CHUNK_SIZES[0], CHUNK_SIZES[1]
SOON = 20.0
FIRST = FrameId(Kind.MANIFEST, 0)
FILES = {
    b"a": random.Random(5).randbytes(2 * CHUNK + 11),
    b"d/empty": b"",
    b"d/b": b"b" * (3 * CHUNK),
    b"z": b"the end",
}
"""Six chunks; chunks 2 and 5 hold the bytes of two files."""


def chunk(index: int) -> FrameId:
    return FrameId(Kind.CHUNK, index)


def encode(frame: FrameId, raw: bytes) -> Frame:
    return CODEC.encode(frame, raw).frame


def trailer(total: int, digests: Sequence[bytes], blocks: Sequence[bytes]) -> Frame:
    root = root_digest([digest_of(b) for b in blocks], digests)
    return encode(TRAILER, encode_trailer(total, len(digests), root))


def frames_of(entries: list[Entry], raws: list[bytes]) -> dict[FrameId, Frame]:
    """All frames of a job, in order; raws: of its chunks."""
    blocks = list(manifest_blocks(make_manifest(entries)))
    made = {FrameId(Kind.MANIFEST, n): encode(FrameId(Kind.MANIFEST, n), raw) for n, raw in enumerate(blocks)}
    made |= {chunk(n): encode(chunk(n), raw) for n, raw in enumerate(raws)}
    made[TRAILER] = trailer(sum(map(len, raws)), [digest_of(raw) for raw in raws], blocks)
    return made


def job(files: dict[bytes, bytes]) -> dict[FrameId, Frame]:
    entries = [Entry(b"d", EntryKind.DIRECTORY, 0, 0o755, 0)] if any(b"/" in p for p in files) else []
    entries += [Entry(p, EntryKind.FILE, len(raw), 0o644, 10**18) for p, raw in files.items()]
    whole = b"".join(files.values())
    return frames_of(entries, [whole[at : at + CHUNK] for at in range(0, len(whole), CHUNK)])


def stream(lengths: Sequence[int]) -> dict[FrameId, Frame]:
    """A stream whose chunks have these lengths, honest or not."""
    raws = [bytes([n + 1]) * length for n, length in enumerate(lengths)]
    return frames_of([Entry(b"s", EntryKind.FILE, None, 0o644, 0)], raws)


def damaged(frame: Frame) -> Frame:
    return Frame(frame.id, bytes(frame.data[:-1]) + bytes([frame.data[-1] ^ 1]))


WHOLE = job(FILES)
IN_ORDER = list(WHOLE.values())


async def feed(frames: Iterable[Frame]) -> AsyncGenerator[Frame, None]:
    for frame in frames:
        yield frame


async def hear_nothing(_frames: Sequence[FrameId]) -> None:
    """For those who do not wait for acks."""


class Receiver:
    """A real sink and a real ledger around one assembly; `again` is the next run after a kill."""

    def __init__(self, folder: Path, state: bytes = b"") -> None:
        self.folder, self.out = folder, folder / "out"
        self.out.mkdir(exist_ok=True)
        self.ledger = Ledger(folder / "ledger.db")
        self.row: JobRow = self.ledger.add("fetch", JOB, b"key", b"secret")
        resumed = FolderSink.resume(state, self.out, job=JOB) if state else None
        self.sink = resumed or FolderSink(self.out, job=JOB)
        self.events: list[Event] = []
        self.meter = Meter(self._hear, clock=map(float, itertools.count()).__next__)  # tells of every chunk
        self._news = asyncio.Event()
        self.begun = 0
        self.assembly = Assembly(CODEC, self.sink, self.meter, self.ledger, self.row, self._begin)
        self.acked: list[FrameId] = []

    def _begin(self) -> None:
        self.begun += 1

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def ack(self, frames: Sequence[FrameId]) -> None:
        self.acked += frames
        self._news.set()

    async def take(self, frames: Iterable[Frame]) -> None:
        await self.assembly.consume(feed(frames), self.ack)

    async def take_one_by_one(self, frames: Iterable[Frame]) -> None:
        """In this very order: `take` works on several at once."""
        for frame in frames:
            await self.take([frame])

    async def news(self) -> None:
        """Returns when something is told or acknowledged."""
        self._news.clear()
        await asyncio.wait_for(self._news.wait(), SOON)

    async def written(self, done: int) -> None:
        """Returns once that many bytes are in the sink."""
        while self.meter.done < done:
            await self.news()

    def complete(self) -> bool:
        return self.assembly.complete.is_set()

    def files(self) -> dict[bytes, bytes]:
        """What is under its final name."""
        self.sink.publish()
        found = (p for p in self.out.rglob("*") if p.is_file() and ".xfer-" not in str(p))
        return {p.relative_to(self.out).as_posix().encode(): p.read_bytes() for p in found}

    def nothing_published(self) -> bool:
        return all(p.name.startswith(".xfer-") for p in self.out.iterdir())

    def on_disk(self, name: str) -> Path:
        """A file in the staging folder."""
        return next(p for p in self.out.glob(f".xfer-*/tree/{name}"))

    def close(self) -> None:
        self.assembly.close()
        self.sink.close()
        self.ledger.close()

    def again(self) -> Receiver:
        state = self.sink.state()
        self.close()
        return Receiver(self.folder, state)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with closing(Receiver(tmp_path)) as made:
        yield made


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


# damage


@pytest.mark.parametrize("index", range(len(IN_ORDER)))
async def test_a_frame_damaged_once_stays_wanted_and_is_taken_when_it_comes_whole(
    receiver: Receiver, index: int
) -> None:
    frames = [damaged(f) if n == index else f for n, f in enumerate(IN_ORDER)]
    await receiver.take(frames)
    assert not receiver.complete()
    assert IN_ORDER[index].id in receiver.assembly.wanted
    assert receiver.assembly.damaged == {IN_ORDER[index].id}
    assert IN_ORDER[index].id not in receiver.acked
    await receiver.take(IN_ORDER)
    assert receiver.complete()
    assert receiver.files() == FILES


@pytest.mark.parametrize("index", range(len(IN_ORDER)))
async def test_a_frame_damaged_twice_is_damaged_data(receiver: Receiver, index: int) -> None:
    bad = damaged(IN_ORDER[index])
    with pytest.raises(DamagedData):
        await receiver.take([*IN_ORDER[:index], bad, bad])
    assert not receiver.complete()
    assert receiver.nothing_published()


async def test_a_chunk_of_another_length_than_the_manifest_says_is_damaged(receiver: Receiver) -> None:
    for length in (CHUNK - 1, 0):
        await receiver.take([IN_ORDER[0], encode(chunk(length % 2), b"x" * length)])
    assert receiver.acked == [FIRST]
    assert receiver.assembly.damaged == {chunk(0), chunk(1)}


async def test_a_chunk_beyond_the_jobs_end_is_never_looked_at(receiver: Receiver) -> None:
    await receiver.take([IN_ORDER[0], encode(chunk(6), b"x"), *IN_ORDER[1:]])
    assert receiver.files() == FILES


async def test_far_numbers_of_a_streams_chunks_take_no_memory(receiver: Receiver) -> None:
    """A stream's sender chooses them, and a chunk of zeros is some hundred bytes on the wire."""
    first = stream([STREAM_CHUNK])
    raw = bytes(STREAM_CHUNK)
    far = [encode(chunk(number), raw) for number in range(10**6, INDEX_LIMIT, INDEX_LIMIT // 10)]
    await receiver.take([first[FIRST], first[chunk(0)]])
    tracemalloc.start()
    try:
        with contextlib.suppress(DiskFull):  # a file system may not have files of petabytes
            await receiver.take(far)
        assert tracemalloc.get_traced_memory()[0] < CHUNK
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("raw", [bytes(STREAM_CHUNK + 1), random.Random(6).randbytes(STREAM_CHUNK + 1)])
async def test_a_chunk_of_a_stream_that_is_longer_than_chunks_are_is_refused(
    receiver: Receiver, raw: bytes
) -> None:
    """Packed it fits the memory for one, and else it does not."""
    long = encode(chunk(0), raw)
    with pytest.raises((ProtocolError, DamagedData)):
        await receiver.take([stream([1])[FIRST], long, long])
    assert chunk(0) not in receiver.acked


async def test_closing_twice_is_fine(receiver: Receiver) -> None:
    await receiver.take(IN_ORDER[:3])
    receiver.assembly.close()
    receiver.assembly.close()


# trailers that lie


BLOCKS = [CODEC.decode(IN_ORDER[0]).raw]
DIGESTS = [CODEC.decode(f).digest for f in IN_ORDER[1:-1]]
TOTAL = sum(map(len, FILES.values()))


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (trailer(TOTAL, [*DIGESTS[:-1], bytes(32)], BLOCKS), DamagedData),
        (trailer(TOTAL, DIGESTS[::-1], BLOCKS), DamagedData),
        (trailer(TOTAL, DIGESTS, [b"another manifest"]), DamagedData),
        (trailer(TOTAL + 1, DIGESTS, BLOCKS), ProtocolError),
        (trailer(TOTAL, DIGESTS[:-1], BLOCKS), ProtocolError),
        (encode(TRAILER, b"\x90"), ProtocolError),
    ],
)
async def test_a_trailer_that_lies_is_refused(receiver: Receiver, lie: Frame, error: type[Exception]) -> None:
    with pytest.raises(error):
        await receiver.take([*IN_ORDER[:-1], lie])
    assert not receiver.complete()
    assert receiver.nothing_published()


async def test_a_job_without_its_trailer_never_is_complete(receiver: Receiver) -> None:
    await receiver.take(IN_ORDER[:-1])
    assert not receiver.complete()
    assert list(receiver.assembly.wanted) == [TRAILER]


async def test_another_chunk_under_the_right_seal_is_found_by_the_trailer(receiver: Receiver) -> None:
    swapped = encode(chunk(0), b"!" * CHUNK)
    with pytest.raises(DamagedData, match="trailer"):
        await receiver.take([IN_ORDER[0], swapped, *IN_ORDER[2:]])
    assert not receiver.complete()


# hostile manifests


async def test_a_block_beyond_the_stated_number_is_refused(receiver: Receiver) -> None:
    stray = encode(FrameId(Kind.MANIFEST, 5), msgspec.msgpack.encode(ManifestBlock(None, [])))
    head = Head(FORMAT, CHUNK, 0, 5000, 2)
    first = encode(FIRST, msgspec.msgpack.encode(ManifestBlock(head, [])))
    with pytest.raises(ProtocolError, match="more blocks"):
        await receiver.take([stray, first])


async def test_a_manifest_without_end_is_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly_module, "MAX_MANIFEST", 10_000)
    entries = [Entry(b"x" * 90, EntryKind.FILE, 0, 0, 0)] * 20
    block = msgspec.msgpack.encode(ManifestBlock(None, entries))
    with pytest.raises(ProtocolError, match="longer"):
        await receiver.take(encode(FrameId(Kind.MANIFEST, n), block) for n in range(1, 50))
    assert len(receiver.acked) * len(block) <= 10_000


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (Entry(b"../../etc/passwd", EntryKind.FILE, 3, 0o644, 0), UnsafeName),
        (Entry(b"f", EntryKind.FILE, 4, 0o644, 0), ProtocolError),
    ],
)
async def test_a_manifest_that_must_not_be_begins_nothing(
    receiver: Receiver, entry: Entry, error: type[Exception]
) -> None:
    head = Head(FORMAT, CHUNK, 3, 1, 1)
    block = encode(FIRST, msgspec.msgpack.encode(ManifestBlock(head, [entry])))
    with pytest.raises(error):
        await receiver.take([block, encode(chunk(0), b"abc")])
    assert receiver.begun == 0
    assert not any(receiver.out.iterdir())


async def test_a_target_that_is_there_is_said_before_a_byte_is_written(receiver: Receiver) -> None:
    (receiver.out / "a").write_text("mine")
    with pytest.raises(DestinationExists):
        await receiver.take(IN_ORDER)
    assert (receiver.out / "a").read_text() == "mine"
    assert receiver.meter.done == 0


# streams of unknown length


@pytest.mark.parametrize(
    "lengths", [[], [1], [STREAM_CHUNK], [STREAM_CHUNK, STREAM_CHUNK], [STREAM_CHUNK, STREAM_CHUNK, 5]]
)
@pytest.mark.parametrize("trailer_first", [False, True])
async def test_a_stream_of_any_length_arrives(
    receiver: Receiver, lengths: list[int], trailer_first: bool
) -> None:
    frames = stream(lengths)
    order = list(frames)
    if trailer_first:
        order = [order[0], order[-1], *order[-2:0:-1]]
    await receiver.take(frames[f] for f in order)
    assert receiver.complete()
    assert receiver.meter.total == sum(lengths)
    assert receiver.files() == {b"s": b"".join(bytes([n + 1]) * ln for n, ln in enumerate(lengths))}


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([STREAM_CHUNK, STREAM_CHUNK - 5, STREAM_CHUNK], id="a short chunk in the middle"),
        pytest.param([1, STREAM_CHUNK], id="a short chunk at the start"),
        pytest.param([STREAM_CHUNK - 5, 5, STREAM_CHUNK], id="two short chunks that make a full one"),
        pytest.param([STREAM_CHUNK, 5, 5], id="two short chunks at the end"),
        pytest.param([STREAM_CHUNK - 5, STREAM_CHUNK, 6], id="a short chunk that another one makes up for"),
        pytest.param([STREAM_CHUNK, 0], id="an empty chunk"),
        pytest.param([STREAM_CHUNK + 1], id="a chunk too long"),
    ],
)
async def test_a_stream_with_a_hole_is_refused(receiver: Receiver, lengths: list[int]) -> None:
    with pytest.raises(ProtocolError):
        await receiver.take_one_by_one(stream(lengths).values())
    assert not receiver.complete()
    assert receiver.nothing_published()


@pytest.mark.parametrize("length", [0, STREAM_CHUNK + 1, 3 * STREAM_CHUNK])
async def test_a_stream_chunk_of_impossible_length_is_refused_before_it_is_written(
    receiver: Receiver, length: int
) -> None:
    frames = stream([STREAM_CHUNK, length])
    with pytest.raises(ProtocolError, match="impossible length"):
        await receiver.take([frames[FIRST], frames[chunk(1)]])
    assert receiver.meter.done == 0
    assert not any(p.stat().st_size for p in receiver.out.glob(".xfer-*/tree/*"))


async def test_a_stream_chunk_beyond_the_end_that_its_trailer_states_is_refused(receiver: Receiver) -> None:
    frames = stream([STREAM_CHUNK, 5])
    await receiver.take([frames[FIRST], encode(chunk(2), b"x" * STREAM_CHUNK)])
    with pytest.raises(DamagedData):
        await receiver.take(frames.values())
    assert not receiver.complete()


@pytest.mark.parametrize(
    ("total", "count"),
    [
        (STREAM_CHUNK + 5, 1),
        (STREAM_CHUNK + 5, 3),
        (2 * STREAM_CHUNK + 5, 2),
        (STREAM_CHUNK + 6, 2),
        (STREAM_CHUNK + 4, 2),
        (2**62, 2),
        (0, 0),
    ],
)
async def test_a_streams_trailer_that_lies_about_its_length_is_refused(
    receiver: Receiver, total: int, count: int
) -> None:
    frames = stream([STREAM_CHUNK, 5])
    blocks = [CODEC.decode(frames[FIRST]).raw]
    digests = [CODEC.decode(frames[chunk(n)]).digest for n in (0, 1)]
    digests = [*digests, bytes(32)][:count]
    frames[TRAILER] = trailer(total, digests, blocks)
    with pytest.raises((ProtocolError, DamagedData)):
        await receiver.take(frames.values())
    assert not receiver.complete()


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


async def test_every_frame_gone_but_no_trailer_seen_is_cut_short(receiver: Receiver) -> None:
    """Whoever empties `wanted` by other means than a trailer gets no complete job out of it."""
    await receiver.take(IN_ORDER[:-1])
    receiver.assembly.wanted.discard(TRAILER)
    with pytest.raises(CutShort):
        await receiver.take([])


class SlowFirst(PipeSink):
    """Its first chunk takes its time; overtaken: how many came meanwhile."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.written, self.overtaken = 0, -1

    def write(self, extents: Sequence[Extent], raw: Raw) -> None:
        if extents[0].start == 0:
            time.sleep(0.3)
            self.overtaken = self.written
        self.written += 1
        super().write(extents, raw)


@pytest.mark.parametrize("pause", [0, 0.02])
async def test_a_chunk_for_a_pipe_is_overtaken_by_no_more_than_are_decoded_at_once(pause: float) -> None:
    """However slowly they come: the others then end one by one, and never are many at once."""

    async def paused() -> AsyncGenerator[Frame, None]:
        for frame in job({b"f": content}).values():
            yield frame
            await asyncio.sleep(pause)

    content = bytes(range(250)) * (CHUNK // 25)
    out = io.BytesIO()
    sink = SlowFirst(out)
    assembly = Assembly(CODEC, sink, Meter(lambda _event: None), None, None, lambda: None)
    async with asyncio.timeout(20):
        await assembly.consume(paused(), hear_nothing)
    assembly.close()
    assert assembly.complete.is_set()
    assert out.getvalue() == content
    assert 0 <= sink.overtaken < WORKERS
