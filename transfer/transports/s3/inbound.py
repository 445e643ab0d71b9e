"""The receiving end of the S3 route: follows the segments of a job as they are completed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple

import msgspec

from transfer import api
from transfer.broker_client import BrokerClient, Patience
from transfer.bwlimit import BwLimit
from transfer.codec import Codec, max_encoded
from transfer.errors import DamagedData, JobGone, UnsupportedVersion, void
from transfer.model import FORMAT, Frame, FrameId, FrameSet, IndexedFrame, Kind, SegmentIndex, SegmentRef
from transfer.plan import SEGMENT_FRAMES
from transfer.seal import Sealer
from transfer.transport import Limits
from transfer.transports.s3.gate import Gate
from transfer.transports.s3.http import Moved
from transfer.transports.s3.pace import Pace
from transfer.transports.s3.store import Store

READ_AT_ONCE = (8 << 20) + (1 << 16)
"""Bytes of neighbouring frames that one GET asks for, at most: two chunks of 4 MiB, sealed. A larger one is got alone."""
LAST_READS = 4
"""Of the last segment each connection reads so many pieces: the fast ones take over what the slow ones would be late with."""
READ_SECONDS = 1.0
"""What one GET should take at most: the last of all waits for the slowest."""
IN_MEMORY = 65 << 20
"""Bytes that were asked for and not taken yet: what bounds memory, whatever the pace."""
LIGHTEST = 4096
"""Bytes that any frame counts for."""
INDEXES_AHEAD = 4
"""Of segments that wait for their turn: those of a job's first ones come as fast as they are read, and each costs two
round trips."""
POLL_SECONDS = 2.0
"""How often the broker is asked for new segments when no reference announces one."""


class Run(NamedTuple):
    """Neighbouring frames of one segment: start is a byte offset in the object."""

    start: int
    frames: list[IndexedFrame]

    @property
    def length(self) -> int:
        return sum(f.length for f in self.frames)

    @property
    def weight(self) -> int:
        """Bytes of memory that it takes, at most: a frame of zeros is little more than the objects that say what it is."""
        return sum(max(LIGHTEST, f.length) for f in self.frames)


class _Read(NamedTuple):
    """A run that was asked for. in_turn: nothing that was asked for later may be handed on before it, nor it before them."""

    run: Run
    task: asyncio.Task[list[Frame]]
    in_turn: bool


class _Reads:
    """Reads that were begun: handed out as they end, so that a slow connection holds up nobody but itself."""

    def __init__(self) -> None:
        self._begun: list[_Read] = []
        self._news = asyncio.Event()
        self._closed = False

    def add(self, read: _Read) -> None:
        self._begun.append(read)
        read.task.add_done_callback(lambda _: self._news.set())

    def close(self) -> None:
        """No more will be added."""
        self._closed = True
        self._news.set()

    async def next(self) -> _Read | None:
        """One that has ended, in whatever way, as soon as its turn has come; None after the last."""
        while True:
            for at, read in enumerate(self._begun):
                if read.in_turn and at:
                    break
                if read.task.done():
                    return self._begun.pop(at)
                if read.in_turn:
                    break
            if self._closed and not self._begun:
                return None
            self._news.clear()
            await self._news.wait()

    def left(self) -> list[_Read]:
        return self._begun


class _Taken:
    """Segments that were taken, out of turn or not. first: the lowest that was not."""

    def __init__(self) -> None:
        self.first = 0
        self._beyond: set[int] = set()

    def add(self, number: int) -> None:
        self._beyond.add(number)
        while self.first in self._beyond:
            self._beyond.remove(self.first)
            self.first += 1

    def __contains__(self, number: int) -> bool:
        return number < self.first or number in self._beyond


class S3Inbound:
    """The receiving end: follows the job's segments as they are completed, until it is stored whole.

    Once the manifest is known they are taken as they come: one that waits for its slowest part holds up nobody.

    `frames` takes `wanted` as it changes: frames that came another way meanwhile are not asked for.

    Args:
        in_order: hand frames on as the sender made them, for a sink that needs them so; it costs speed on a link
            whose connections are not equally fast. Chunks come as they come otherwise, and manifest and trailer in turn.
        pace, limit: how many requests at once, and how many bytes a second.
        on_tick: called several times a second; `under_way` may say something else then.
    """

    def __init__(
        self,
        broker: BrokerClient,
        sealer: Sealer,
        codec: Codec,
        *,
        patience: Patience,
        in_order: bool = False,
        pace: Pace | None = None,
        limit: BwLimit | None = None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker, self._sealer, self._codec = broker, sealer, codec
        self._pace = pace = pace or Pace()
        self._limit = limit
        self._store = Store(patience, pace, limit, ca=broker.ca, on_tick=on_tick)
        in_memory = max(IN_MEMORY, READ_AT_ONCE * pace.limit)
        self._memory = Gate(lambda held: held <= in_memory)
        self._in_order = in_order
        self._moving: list[tuple[Run, Moved]] = []
        self._refs: dict[int, SegmentRef] = {}
        self._urls: dict[int, api.SignedUrl] = {}
        self._stored = False
        self._news = asyncio.Event()
        self.starved = False
        """Whether the next segment is not there yet: it is the sender who is waited for, and not the store."""
        self.paused = False
        """Whether the sender's owner has it wait."""
        self.limits = Limits(1, READ_AT_ONCE, pace.most, in_memory, False)

    @property
    def concurrency(self) -> int:
        """How many requests may run at once, just now."""
        return self._pace.limit

    def under_way(self, wanted: FrameSet) -> list[tuple[IndexedFrame, int]]:
        """Frames that are being read, or were and are still wanted, and how many bytes of each have come."""
        found: dict[FrameId, tuple[IndexedFrame, int]] = {}
        left: list[tuple[Run, Moved]] = []
        for run, moved in self._moving:
            come, needed = moved.bytes, False
            for row in run.frames:
                frame = FrameId(row.kind, row.index)
                if frame in wanted:
                    needed = True
                    found[frame] = row, max(0, min(come, row.length))
                come -= row.length
            if needed:
                left.append((run, moved))
        self._moving = left
        return list(found.values())

    def announce(self, ref: SegmentRef | None) -> None:
        """A reference came over the bus (or only the news that there is one): no need to wait for the next poll."""
        if ref is not None and 0 <= ref.number < api.MAX_SEGMENTS:
            self._refs[ref.number] = ref
        self._news.set()

    def expect(self, size: int | None) -> None:
        """Connect to the store, before it is known where in it so many bytes lie."""
        self._store.expect(self._broker.store, self._pace.limit if size is None else size // READ_AT_ONCE + 2)

    async def frames(self, wanted: FrameSet) -> AsyncGenerator[Frame, None]:
        reads = _Reads()
        producer = asyncio.create_task(self._produce(wanted, reads))
        producer.add_done_callback(lambda _: reads.close())
        try:
            while (read := await reads.next()) is not None:
                try:
                    for frame in read.task.result():
                        yield frame
                finally:
                    self._memory.leave(read.run.weight)
            await producer
        finally:
            left = reads.left()
            for task in (producer, *(read.task for read in left)):
                task.cancel()
            await asyncio.gather(producer, *(read.task for read in left), return_exceptions=True)
            for read in left:
                self._memory.leave(read.run.weight)

    async def ack(self, frames: Sequence[FrameId]) -> None:
        """The store keeps everything until the job ends; nobody waits for acks."""

    async def close(self, reason: str = "") -> None:
        self._store.close()

    async def _produce(self, wanted: FrameSet, reads: _Reads) -> None:
        """Begin reads, as far ahead as memory and pace allow; the next indexes are read while this segment is."""
        taken = _Taken()
        indexes: dict[int, asyncio.Task[list[IndexedFrame]]] = {}
        try:
            while (ref := await self._segment(taken, wanted)) is not None:
                taken.add(ref.number)
                if not wanted:
                    continue
                index = indexes.pop(ref.number, None)
                rows = await (index or self._index(ref))
                upcoming = [self._refs[number] for number in sorted(self._refs) if number not in taken]
                for following in upcoming[:INDEXES_AHEAD]:
                    if following.number not in indexes:
                        indexes[following.number] = asyncio.create_task(self._index(following))
                for run in runs(rows, wanted, self._at_once(rows, last=self._stored and not upcoming)):
                    await self._memory.enter(run.weight)
                    in_turn = self._in_order or any(row.kind is not Kind.CHUNK for row in run.frames)
                    reads.add(_Read(run, asyncio.create_task(self._read(ref, run)), in_turn))
        finally:
            for index in indexes.values():
                index.cancel()
            await asyncio.gather(*indexes.values(), return_exceptions=True)

    def _at_once(self, rows: list[IndexedFrame], *, last: bool) -> int:
        """Bytes of one read: what is there is to keep all connections busy, and a slow one nobody waiting."""
        there = sum(row.length for row in rows) + sum(ref.size for ref in self._refs.values())
        share = there // self._pace.limit // (LAST_READS if last else 1)
        alone = self._pace.alone or (self._limit and self._limit.rate) or READ_AT_ONCE
        return min(IN_MEMORY // self._pace.limit, share, int(READ_SECONDS * alone))

    async def _segment(self, taken: _Taken, wanted: FrameSet) -> SegmentRef | None:
        """The reference of one that was not taken yet, once there is one; None when the job is stored and has no more."""
        while (ref := self._there(taken, wanted)) is None:
            self._news.clear()
            page = await self._broker.segments(self._sealer, taken.first)
            self._refs.update((ref.number, ref) for ref in page.refs if ref.number not in taken)
            self._stored = page.state is api.JobState.STORED
            self.paused = page.state is api.JobState.PAUSED
            if self._there(taken, wanted) is not None:
                continue
            if page.state is api.JobState.STORED:
                self.starved = False
                return None
            if page.state is api.JobState.VOID:
                raise void(page.cancelled)
            if page.state is api.JobState.DELIVERED:
                raise JobGone("this transfer has been delivered and is not kept any longer")
            self.starved = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._news.wait()
        self.starved = False
        return self._refs.pop(ref.number)

    def _there(self, taken: _Taken, wanted: FrameSet) -> SegmentRef | None:
        """The first of those that may be taken now: only the very next, until it is known where chunks go."""
        in_turn = self._in_order or wanted.count(Kind.MANIFEST)
        numbers = (n for n in self._refs if n == taken.first or (n not in taken and not in_turn))
        return min((self._refs[n] for n in numbers), key=lambda ref: ref.number, default=None)

    async def _index(self, ref: SegmentRef) -> list[IndexedFrame]:
        """Read and open a segment's index; once more if it was damaged on its way."""
        if not 0 < ref.index <= min(ref.size, max_encoded(Kind.INDEX)):
            raise DamagedData(f"segment {ref.number} states an impossible index")
        start = ref.size - ref.index
        try:
            return read_index(self._codec, ref, await self._get(ref, start, ref.index))
        except DamagedData:
            return read_index(self._codec, ref, await self._get(ref, start, ref.index))

    async def _read(self, ref: SegmentRef, run: Run) -> list[Frame]:
        moving = run, Moved()
        self._moving.append(moving)
        try:
            data = memoryview(await self._get(ref, run.start, run.length, moving[1]))
        except BaseException:
            self._moving = [each for each in self._moving if each is not moving]
            raise
        frames, at = [], 0
        for row in run.frames:
            frames.append(Frame(FrameId(row.kind, row.index), data[at : at + row.length]))
            at += row.length
        return frames

    async def _get(self, ref: SegmentRef, start: int, length: int, moved: Moved | None = None) -> bytes:
        async def sign(refused: api.SignedUrl | None) -> api.SignedUrl:
            if self._urls.get(ref.number) in (None, refused):
                known = [ref.number, *sorted(n for n in self._refs if n > ref.number)][: api.MAX_GETS]
                self._urls.update(zip(known, await self._broker.sign_gets(self._sealer, known), strict=True))
            return self._urls[ref.number]

        return await self._store.get(sign, start, length, moved)


def read_index(codec: Codec, ref: SegmentRef, sealed: bytes) -> list[IndexedFrame]:
    """Raises DamagedData for an index that does not open or does not fit its object, UnsupportedVersion for a later one."""
    raw = codec.decode(Frame(FrameId(Kind.INDEX, ref.number), sealed)).raw
    try:
        index = msgspec.msgpack.decode(raw, type=SegmentIndex)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        raise DamagedData(f"the index of segment {ref.number} is not readable") from None
    if index.version > FORMAT:
        raise UnsupportedVersion("that transfer was made by a newer xfer")
    rows = index.frames
    fits = (
        index.version == FORMAT
        and index.segment == ref.number
        and len(rows) <= SEGMENT_FRAMES
        and all(r.kind is not Kind.INDEX and 0 < r.length <= max_encoded(r.kind) for r in rows)
        and sum(r.length for r in rows) == ref.size - ref.index
    )
    if not fits:
        raise DamagedData(f"the index of segment {ref.number} does not fit its object")
    return rows


def runs(rows: list[IndexedFrame], wanted: FrameSet, most: int = READ_AT_ONCE) -> list[Run]:
    """The wanted frames, neighbours together up to READ_AT_ONCE bytes, or `most` if that is less.

    Of one kind only: all chunks wait for the manifest, and that should not wait for chunks that come with it.
    """
    most = min(most, READ_AT_ONCE)
    runs: list[Run] = []
    at, end_of_last = 0, -1
    for row in rows:
        if FrameId(row.kind, row.index) in wanted:
            joins = at == end_of_last and runs[-1].frames[-1].kind == row.kind
            if joins and runs[-1].length + row.length <= most:
                runs[-1].frames.append(row)
            else:
                runs.append(Run(at, [row]))
            end_of_last = at + row.length
        at += row.length
    return runs
