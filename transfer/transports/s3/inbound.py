"""The receiving end of the S3 route: follows the segments of a job as they are completed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple

import msgspec

from transfer import api
from transfer.broker_client import BrokerClient, Patience
from transfer.codec import Codec, max_encoded
from transfer.errors import CutShort, DamagedData, JobGone
from transfer.model import FORMAT, Frame, FrameId, FrameSet, IndexedFrame, Kind, SegmentIndex, SegmentRef
from transfer.plan import SEGMENT_FRAMES
from transfer.seal import Sealer
from transfer.transport import Limits
from transfer.transports.s3.store import CONCURRENCY, Store

READ_AT_ONCE = 8 << 20
"""Bytes of neighbouring frames that one GET asks for, at most; a larger frame is got alone."""
POLL_SECONDS = 2.0
"""How often the broker is asked for new segments when no reference announces one."""


class Run(NamedTuple):
    """Neighbouring frames of one segment: start is a byte offset in the object."""

    start: int
    frames: list[IndexedFrame]

    @property
    def length(self) -> int:
        return sum(f.length for f in self.frames)


class S3Inbound:
    """The receiving end: follows the job's segments as they are completed, until it is stored whole.

    `frames` takes `wanted` as it changes: frames that came another way meanwhile are not asked for.
    """

    def __init__(
        self,
        broker: BrokerClient,
        sealer: Sealer,
        codec: Codec,
        *,
        patience: Patience,
        concurrency: int = CONCURRENCY,
        on_wire: Callable[[int], None] = lambda _bytes: None,
    ) -> None:
        self._broker, self._sealer, self._codec = broker, sealer, codec
        self._store = Store(patience, concurrency)
        self._concurrency = concurrency
        self._on_wire = on_wire
        self._refs: dict[int, SegmentRef] = {}
        self._urls: dict[int, api.SignedUrl] = {}
        self._news = asyncio.Event()
        self.starved = False
        """Whether the next segment is not there yet: it is the sender who is waited for, and not the store."""
        self.limits = Limits(1, READ_AT_ONCE, concurrency, (concurrency + 2) * READ_AT_ONCE, False)

    def announce(self, ref: SegmentRef | None) -> None:
        """A reference came over the bus (or only the news that there is one): no need to wait for the next poll."""
        if ref is not None and 0 <= ref.number < api.MAX_SEGMENTS:
            self._refs[ref.number] = ref
        self._news.set()

    async def frames(self, wanted: FrameSet) -> AsyncGenerator[Frame, None]:
        reads: asyncio.Queue[asyncio.Task[list[Frame]] | None] = asyncio.Queue(self._concurrency)
        tasks: set[asyncio.Task[list[Frame]]] = set()
        producer = asyncio.create_task(self._produce(wanted, reads, tasks))
        try:
            while (read := await reads.get()) is not None:
                for frame in await read:
                    yield frame
                tasks.discard(read)
            await producer
        finally:
            for task in (producer, *tasks):
                task.cancel()
            await asyncio.gather(producer, *tasks, return_exceptions=True)

    async def ack(self, frames: Sequence[FrameId]) -> None:
        """The store keeps everything until the job ends; nobody waits for acks."""

    async def close(self, reason: str = "") -> None:
        self._store.close()

    async def _produce(
        self,
        wanted: FrameSet,
        reads: asyncio.Queue[asyncio.Task[list[Frame]] | None],
        tasks: set[asyncio.Task[list[Frame]]],
    ) -> None:
        try:
            number = 0
            while (ref := await self._segment(number)) is not None:
                if wanted:
                    for run in runs(await self._index(ref), wanted):
                        read = asyncio.create_task(self._read(ref, run))
                        tasks.add(read)
                        await reads.put(read)
                number += 1
        except Exception:
            await reads.put(None)
            raise
        await reads.put(None)

    async def _segment(self, number: int) -> SegmentRef | None:
        """The reference of that segment, once there is one; None when the job is stored and has no more."""
        while number not in self._refs:
            self._news.clear()
            page = await self._broker.segments(self._sealer, number)
            self._refs.update((ref.number, ref) for ref in page.refs)
            if number in self._refs:
                break
            if page.state is api.JobState.STORED:
                self.starved = False
                return None
            if page.state is api.JobState.VOID:
                raise CutShort("the sender ended this transfer before it was complete")
            if page.state is api.JobState.DELIVERED:
                raise JobGone("this transfer has been delivered and is not kept any longer")
            self.starved = True
            try:
                await asyncio.wait_for(self._news.wait(), POLL_SECONDS)
            except TimeoutError:
                continue
        self.starved = False
        return self._refs.pop(number)

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
        data = memoryview(await self._get(ref, run.start, run.length))
        frames, at = [], 0
        for row in run.frames:
            frames.append(Frame(FrameId(row.kind, row.index), bytes(data[at : at + row.length])))
            at += row.length
        return frames

    async def _get(self, ref: SegmentRef, start: int, length: int) -> bytes:
        async def sign(renew: bool) -> api.SignedUrl:
            if renew or ref.number not in self._urls:
                known = [ref.number, *sorted(n for n in self._refs if n > ref.number)][: api.MAX_GETS]
                self._urls.update(zip(known, await self._broker.sign_gets(self._sealer, known), strict=True))
            return self._urls[ref.number]

        data = await self._store.get(sign, start, length)
        self._on_wire(length)
        return data


def read_index(codec: Codec, ref: SegmentRef, sealed: bytes) -> list[IndexedFrame]:
    """Raises DamagedData for an index that does not open or does not fit its object."""
    raw = codec.decode(Frame(FrameId(Kind.INDEX, ref.number), sealed)).raw
    try:
        index = msgspec.msgpack.decode(raw, type=SegmentIndex)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        raise DamagedData(f"the index of segment {ref.number} is not readable") from None
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


def runs(rows: list[IndexedFrame], wanted: FrameSet) -> list[Run]:
    """The wanted frames, neighbours together up to READ_AT_ONCE bytes."""
    runs: list[Run] = []
    at, end_of_last = 0, -1
    for row in rows:
        if FrameId(row.kind, row.index) in wanted:
            if at == end_of_last and runs[-1].length + row.length <= READ_AT_ONCE:
                runs[-1].frames.append(row)
            else:
                runs.append(Run(at, [row]))
            end_of_last = at + row.length
        at += row.length
    return runs
