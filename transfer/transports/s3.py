"""The S3 route: segments of encoded frames, each one object, put and got through URLs the broker signs.

Sending: frames → parts of at least 8 MiB → segments; the broker opens each upload, signs each part
for its exact length and CRC32C just before its PUT, and joins the parts. Receiving: the sealed index
at a segment's tail says which frames lie where; only the wanted ones are asked for, in parallel,
and handed on in order. No acknowledgements: what is stored is safe, a receipt comes by other ways.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from transfer import api
from transfer.broker_client import BrokerClient, Patience
from transfer.codec import Codec, max_encoded
from transfer.errors import CutShort, DamagedData, JobGone, StoreUnreachable
from transfer.model import (
    FORMAT,
    Frame,
    FrameId,
    FrameSet,
    IndexedFrame,
    Kind,
    SegmentIndex,
    SegmentRef,
)
from transfer.plan import MIN_PART, SEGMENT_FRAMES, Part, SegmentBuilder, segment_size
from transfer.seal import Sealer
from transfer.transport import Limits
from transfer.transports.http import SignatureRefused, StoreHttp, crc32c

CONCURRENCY = 4
OPEN_SEGMENTS = 2
READ_AT_ONCE = 8 << 20
"""Bytes of neighbouring frames that one GET asks for, at most; a larger frame is got alone."""
POLL_SECONDS = 2.0
"""How often the broker is asked for new segments when no reference announces one."""

Result = TypeVar("Result")


class PartLog(Protocol):
    """What the sending end writes down before and after each step (the sender's ledger)."""

    def segment_begun(self, segment: int, upload: str) -> None: ...
    def part_made(self, segment: int, part: Part, crc: str) -> None: ...
    def segment_stored(self, ref: SegmentRef) -> None: ...


class OpenSegment(NamedTuple):
    """An upload that an earlier run left open: what the store has of it, as the ledger knows it."""

    number: int
    upload: str
    parts: list[tuple[Part, api.StoredPart]]
    used_numbers: int


class Remains(NamedTuple):
    """What an earlier run left. complete: references, gapless or not. stored: the frames in all of it."""

    complete: dict[int, SegmentRef]
    open: list[OpenSegment]
    stored: set[FrameId]


NOTHING = Remains({}, [], set())


Sign = Callable[[bool], Coroutine[Any, Any, api.SignedUrl]]
"""Gets a URL; the argument says that the last one was refused and must not come from a cache."""


class _Store:
    """HTTP to the store from threads, each request signed just before it is sent."""

    def __init__(self, patience: Patience, concurrency: int) -> None:
        self._patience = patience
        self._http = StoreHttp(concurrency)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="store")

    async def put(self, sign: Sign, body: bytes) -> str:
        return await self._signed(sign, lambda url: self._http.put(url, body))

    async def get(self, sign: Sign, start: int, length: int) -> bytes:
        return await self._signed(sign, lambda url: self._http.get(url, start, length))

    async def _signed(self, sign: Sign, request: Callable[[api.SignedUrl], Result]) -> Result:
        """A refused signature is renewed and tried once more; an outage is ridden out."""
        loop = asyncio.get_running_loop()
        async for attempt in self._patience.retrying(StoreUnreachable):
            with attempt:
                try:
                    return await loop.run_in_executor(self._threads, request, await sign(False))
                except SignatureRefused:
                    return await loop.run_in_executor(self._threads, request, await sign(True))
        raise AssertionError("retrying ends with a result or an error")

    def close(self) -> None:
        self._http.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Upload:
    """A segment on its way: its builder, and the parts that are being or have been stored."""

    def __init__(self, upload: str, builder: SegmentBuilder) -> None:
        self.upload, self.builder = upload, builder
        self.stored: list[api.StoredPart] = []
        self.puts: list[asyncio.Task[None]] = []


class S3Outbound:
    """The sending end.

    Args:
        digests: of the raw bytes of every frame that will be put, for the indexes.
        log: told of each step before it is taken; see PartLog.
        total: the job's raw bytes, None if unknown (sizes the segments).
        remains: what an earlier run of this job left in the store.
        on_stored: told of each complete segment, for the reference to the receivers.
        on_part: told of each part that the store took.
    """

    def __init__(
        self,
        broker: BrokerClient,
        job: str,
        codec: Codec,
        digests: Mapping[FrameId, bytes],
        log: PartLog,
        *,
        patience: Patience,
        total: int | None,
        remains: Remains = NOTHING,
        concurrency: int = CONCURRENCY,
        on_stored: Callable[[SegmentRef], Coroutine[Any, Any, None]] | None = None,
        on_part: Callable[[Part], None] = lambda _part: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker, self._job, self._codec, self._digests, self._log = broker, job, codec, digests, log
        self._total, self._clock = total, clock
        self._on_stored, self._on_part = on_stored, on_part
        self._store = _Store(patience, concurrency)
        self._remains = remains
        self._reopen = list(remains.open)
        taken = {*remains.complete, *(o.number for o in remains.open)}
        self._numbers = (n for n in itertools.count() if n not in taken)
        self._bytes = sum(ref.size for ref in remains.complete.values())
        self._complete = len(remains.complete)
        self._gate = asyncio.Semaphore(concurrency)
        self._slots = asyncio.Semaphore(OPEN_SEGMENTS)
        self._turn = asyncio.Lock()
        self._current: _Upload | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._timer: asyncio.Task[None] | None = None
        self.limits = Limits(
            MIN_PART, max_encoded(Kind.MANIFEST), concurrency, (concurrency + 1) * MIN_PART, False
        )

    @property
    def segments(self) -> int:
        """How many segments are complete."""
        return self._complete

    async def wanted(self) -> FrameSet:
        wanted = FrameSet.everything()
        for frame in self._remains.stored:
            wanted.discard(frame)
        return wanted

    async def put(self, frame: Frame) -> None:
        if len(frame.data) > self.limits.max_part:
            raise ValueError("a frame is longer than any frame can be")
        async with self._turn:
            self._check()
            if self._current is None:
                self._current = await self._open()
            current = self._current
            part = current.builder.add(frame, self._digests[frame.id])
            if part is not None:
                await self._send(current, part)
            if current.builder.full:
                await self._close_segment()

    async def delivered(self) -> AsyncIterator[Sequence[FrameId]]:
        acknowledged: list[Sequence[FrameId]] = []  # the store acknowledges nothing
        for batch in acknowledged:
            yield batch

    async def finish(self) -> None:
        async with self._turn:
            self._check()
            while self._current is not None or self._reopen:
                self._current = self._current or await self._open()
                await self._close_segment()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        self._check()

    async def close(self, reason: str = "") -> None:
        tasks = [*self._tasks, *([self._timer] if self._timer else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._store.close()

    async def _open(self) -> _Upload:
        """The next segment: one that an earlier run left open, or a new one. At most two are open at once."""
        await self._slots.acquire()
        now = self._clock()
        if self._reopen:
            left = self._reopen.pop(0)
            builder = SegmentBuilder(
                left.number,
                segment_size(left.number, self._bytes, self._total),
                now,
                [p for p, _ in left.parts],
            )
            builder.skip_numbers(left.used_numbers)
            current = _Upload(left.upload, builder)
            current.stored = [stored for _, stored in left.parts]
        else:
            number = next(self._numbers)
            upload = await self._broker.begin(self._job, number)
            self._log.segment_begun(number, upload)
            current = _Upload(
                upload, SegmentBuilder(number, segment_size(number, self._bytes, self._total), now)
            )
        self._timer = asyncio.create_task(self._close_when_due(current))
        return current

    async def _close_when_due(self, current: _Upload) -> None:
        """A receiver follows one or two segments behind, so a slow source must not hold one open."""
        await asyncio.sleep(max(0.0, current.builder.due() - self._clock()))
        async with self._turn:
            if self._current is current and self._failure is None:
                try:
                    await self._close_segment()
                except Exception as error:
                    self._failure = self._failure or error

    async def _send(self, current: _Upload, part: Part) -> None:
        """Log it, then store it while the caller makes the next; waits for a place among those under way."""
        crc = crc32c(part.data)
        self._log.part_made(current.builder.number, part, crc)
        await self._gate.acquire()
        put = asyncio.create_task(self._put(current, part, crc))
        current.puts.append(put)
        self._watch(put)

    async def _put(self, current: _Upload, part: Part, crc: str) -> None:
        number, length = part.number, len(part.data)
        try:

            async def sign(_renew: bool) -> api.SignedUrl:
                return await self._broker.sign_part(
                    self._job, current.builder.number, current.upload, api.PartToSign(number, length, crc)
                )

            etag = await self._store.put(sign, part.data)
        finally:
            self._gate.release()
        current.stored.append(api.StoredPart(number, etag, length, crc))
        self._on_part(part)

    async def _close_segment(self) -> None:
        current, self._current = self._current, None
        assert current is not None
        if self._timer is not None and self._timer is not asyncio.current_task():
            self._timer.cancel()
        number = current.builder.number

        def seal(frames: list[IndexedFrame]) -> bytes:
            raw = msgspec.msgpack.encode(SegmentIndex(FORMAT, number, frames))
            return self._codec.encode(FrameId(Kind.INDEX, number), raw).frame.data

        part, index = current.builder.close(seal)
        self._bytes += current.builder.bytes + index
        await self._send(current, part)
        self._watch(asyncio.create_task(self._join(current, index)))

    async def _join(self, current: _Upload, index: int) -> None:
        try:
            await asyncio.gather(*current.puts)
            parts = sorted(current.stored, key=lambda p: p.number)
            ref = await self._broker.complete(self._job, current.builder.number, current.upload, parts, index)
        finally:
            self._slots.release()
        self._log.segment_stored(ref)
        self._complete += 1
        if self._on_stored is not None:
            await self._on_stored(ref)

    def _watch(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


class _Run(NamedTuple):
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
        self._store = _Store(patience, concurrency)
        self._concurrency = concurrency
        self._on_wire = on_wire
        self._refs: dict[int, SegmentRef] = {}
        self._urls: dict[int, api.SignedUrl] = {}
        self._news = asyncio.Event()
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
                    for run in _runs(await self._index(ref), wanted):
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
                return None
            if page.state is api.JobState.VOID:
                raise CutShort("the sender ended this transfer before it was complete")
            if page.state is api.JobState.DELIVERED:
                raise JobGone("this transfer has been delivered and is no longer stored")
            try:
                await asyncio.wait_for(self._news.wait(), POLL_SECONDS)
            except TimeoutError:
                continue
        return self._refs.pop(number)

    async def _index(self, ref: SegmentRef) -> list[IndexedFrame]:
        """Read and open a segment's index; once more if it was damaged on its way."""
        if not 0 < ref.index <= min(ref.size, max_encoded(Kind.INDEX)):
            raise DamagedData(f"segment {ref.number} states an impossible index")
        start = ref.size - ref.index
        try:
            return _read_index(self._codec, ref, await self._get(ref, start, ref.index))
        except DamagedData:
            return _read_index(self._codec, ref, await self._get(ref, start, ref.index))

    async def _read(self, ref: SegmentRef, run: _Run) -> list[Frame]:
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


def _read_index(codec: Codec, ref: SegmentRef, sealed: bytes) -> list[IndexedFrame]:
    """Raises DamagedData for an index that does not open or does not fit its object."""
    raw = codec.decode(Frame(FrameId(Kind.INDEX, ref.number), sealed)).raw
    try:
        index = msgspec.msgpack.decode(raw, type=SegmentIndex)
    except (msgspec.DecodeError, msgspec.ValidationError):
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


def _runs(rows: list[IndexedFrame], wanted: FrameSet) -> list[_Run]:
    """The wanted frames, neighbours together up to READ_AT_ONCE bytes."""
    runs: list[_Run] = []
    at, end_of_last = 0, -1
    for row in rows:
        if FrameId(row.kind, row.index) in wanted:
            if at == end_of_last and runs[-1].length + row.length <= READ_AT_ONCE:
                runs[-1].frames.append(row)
            else:
                runs.append(_Run(at, [row]))
            end_of_last = at + row.length
        at += row.length
    return runs
