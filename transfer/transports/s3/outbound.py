"""The sending end of the S3 route: frames to parts, parts to segments, a few of them open at once."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from transfer import api
from transfer.broker_client import BrokerClient, Patience
from transfer.bwlimit import BwLimit
from transfer.codec import Codec, max_encoded
from transfer.hold import Hold
from transfer.model import FORMAT, Frame, FrameId, FrameSet, IndexedFrame, Kind, SegmentIndex, SegmentRef
from transfer.plan import FULL_SEGMENT, MIN_PART, Part, SegmentBuilder, ripe_size, segment_size
from transfer.transport import Limits
from transfer.transports.s3.gate import Gate
from transfer.transports.s3.http import Moved, crc32c, lives
from transfer.transports.s3.pace import Pace
from transfer.transports.s3.store import Store

OPEN_SEGMENTS = 4
"""Full ones that are open at most; of the first, which are short, as many as come to the same bytes. With two, one slow
connection of several kept all the others waiting for its segment to be complete."""
IN_MEMORY = 65 << 20
"""Bytes of parts that are on their way or wait for their turn: what bounds memory, whatever the pace."""


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


class _Upload:
    """A segment on its way: its builder, and the parts that are being or have been stored.

    begun: gives the upload's id, which the first part is the first to need.
    """

    def __init__(self, begun: asyncio.Future[str], builder: SegmentBuilder) -> None:
        self.begun, self.builder = begun, builder
        self.stored: list[api.StoredPart] = []
        self.puts: list[asyncio.Task[None]] = []


class S3Outbound:
    """The sending end.

    Args:
        digests: of the raw bytes of every frame that will be put, for the indexes.
        log: told of each step before it is taken; see PartLog.
        total: the job's raw bytes, None if unknown (sizes the segments).
        remains: what an earlier run of this job left in the store.
        pace, limit: how many requests at once, and how many bytes a second.
        hold: during a pause nothing is begun; what is under way is stored, and its segment completed.
        on_stored: told of each complete segment, for the reference to the receivers.
        on_part: told of each part that the store took.
        on_tick: called several times a second; `under_way` may say something else then.
        may_store: parts are made before it is set, and stored from then on; None: at once.
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
        pace: Pace | None = None,
        limit: BwLimit | None = None,
        hold: Hold | None = None,
        on_stored: Callable[[SegmentRef], Coroutine[Any, Any, None]] | None = None,
        on_part: Callable[[Part], None] = lambda _part: None,
        on_tick: Callable[[], None] = lambda: None,
        may_store: asyncio.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker, self._job, self._codec, self._digests, self._log = broker, job, codec, digests, log
        self._total, self._clock, self._hold = total, clock, hold or Hold()
        self._on_stored, self._on_part = on_stored, on_part
        self._may_store = may_store
        self._pace = pace = pace or Pace()
        self._store = Store(patience, pace, limit, self._hold, ca=broker.ca, on_tick=on_tick)
        self._moving: list[tuple[Part, Moved]] = []
        self._remains = remains
        self._reopen = list(remains.open)
        taken = {*remains.complete, *(o.number for o in remains.open)}
        beyond = max(taken, default=-1) + 1
        # Of segments that are nowhere: an earlier run joined them at the store, too late for the record to count them.
        self._gaps = [n for n in range(beyond) if n not in taken]
        self._numbers = itertools.count(beyond)
        self._bytes = sum(ref.size for ref in remains.complete.values())
        self._complete = len(remains.complete)
        in_memory = max(IN_MEMORY, MIN_PART * pace.limit)
        self._memory = Gate(lambda held: held <= in_memory)
        self._ahead = Gate(lambda parts: parts <= pace.limit + 1)
        self._slots = Gate(lambda sizes: sizes <= OPEN_SEGMENTS * FULL_SEGMENT)
        self._turn = asyncio.Lock()
        self._current: _Upload | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._finished = False
        self._failure: BaseException | None = None
        self._timer: asyncio.Task[None] | None = None
        self.limits = Limits(MIN_PART, max_encoded(Kind.MANIFEST), pace.most, in_memory + MIN_PART, False)

    @property
    def segments(self) -> int:
        """How many segments are complete."""
        return self._complete

    @property
    def under_way(self) -> list[tuple[Part, int]]:
        """Parts that the store has not taken yet, and how many bytes of each have left."""
        return [(part, min(moved.bytes, part.length)) for part, moved in self._moving]

    def expect(self) -> None:
        """Connect to the store, before there is a part for it."""
        total = self._pace.limit * MIN_PART if self._total is None else self._total
        self._store.expect(self._broker.store, total // MIN_PART + 1)

    def followed(self) -> None:
        """Somebody reads what we write, and waits for the slowest part of each segment."""
        self._pace.follow()
        self._store.hurry()

    async def wanted(self) -> FrameSet:
        wanted = FrameSet.everything()
        for frame in self._remains.stored:
            wanted.discard(frame)
        return wanted

    async def put(self, frame: Frame) -> None:
        if len(frame.data) > self.limits.max_part:
            raise ValueError("a frame that long does not fit in a part")
        if self._finished:
            raise ValueError("nothing is put after the finish")
        await self._whole(self._take(frame))

    async def delivered(self) -> AsyncIterator[Sequence[FrameId]]:
        acknowledged: list[Sequence[FrameId]] = []  # the store acknowledges nothing
        for batch in acknowledged:
            yield batch

    async def flush(self) -> None:
        """Returns when everything put so far is stored; more may follow."""
        await self._whole(self._close_all())
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        self._check()

    async def finish(self) -> None:
        self._finished = True
        await self.flush()

    async def close(self, reason: str = "") -> None:
        tasks = [*self._tasks, *([self._timer] if self._timer else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._store.close()

    async def _whole(self, step: Coroutine[Any, Any, None]) -> None:
        """Done to its end even if the caller is cancelled: half a step would leave a part that no index knows."""
        task = asyncio.create_task(step)
        self._watch(task)
        await asyncio.shield(task)

    async def _take(self, frame: Frame) -> None:
        async with self._turn:
            self._check()
            if self._current is None:
                self._current = await self._open()
            current = self._current
            part = current.builder.add(frame, self._digests[frame.id], self._clock())
            if part is not None:
                await self._send(current, part)
            if current.builder.full:
                await self._close_segment()

    async def _close_all(self) -> None:
        async with self._turn:
            self._check()
            while self._current is not None or self._reopen or self._gaps:
                self._current = self._current or await self._open()
                await self._close_segment()

    async def _open(self) -> _Upload:
        """The next segment: one that an earlier run left open, or a new one; first where one lacks."""
        left = self._reopen.pop(0) if self._reopen else None
        number = left.number if left is not None else self._number()
        size = segment_size(number, self._bytes, self._total)
        ripe = ripe_size(self._bytes, self._total)
        await self._slots.enter(min(size, FULL_SEGMENT))
        now = self._clock()
        if left is not None:
            builder = SegmentBuilder(number, size, ripe, now, [p for p, _ in left.parts])
            builder.skip_numbers(left.used_numbers)
            begun = asyncio.get_running_loop().create_future()
            begun.set_result(left.upload)
            current = _Upload(begun, builder)
            current.stored = [stored for _, stored in left.parts]
        else:
            begin = asyncio.create_task(self._begin(number))
            self._watch(begin)
            if (
                self._total is None
            ):  # a stream may be silent after its first frame: a refusal must not wait for the next
                await asyncio.shield(begin)
            current = _Upload(begin, SegmentBuilder(number, size, ripe, now))
        self._timer = asyncio.create_task(self._close_when_due(current))
        return current

    async def _begin(self, number: int) -> str:
        """The upload's id. Meanwhile frames are made for it."""
        upload = await self._hold.through(lambda: self._broker.begin(self._job, number))
        self._log.segment_begun(number, upload)
        return upload

    def _number(self) -> int:
        return self._gaps.pop(0) if self._gaps else next(self._numbers)

    async def _close_when_due(self, current: _Upload) -> None:
        """A receiver follows a few segments behind, so a slow source must not hold one open."""
        await asyncio.sleep(max(0.0, current.builder.due() - self._clock()))
        async with self._turn:
            if self._current is current and self._failure is None:
                try:
                    await self._close_segment()
                except Exception as error:
                    self._failure = self._failure or error

    async def _send(self, current: _Upload, part: Part) -> None:
        """Log it, then store it while the caller makes the next; waits for a place among those under way."""
        upload = await asyncio.shield(current.begun)
        crc = crc32c(part.pieces)
        self._log.part_made(current.builder.number, part, crc)
        await self._ahead.enter()
        try:
            await self._memory.enter(part.length)
        except BaseException:
            self._ahead.leave()
            raise
        put = asyncio.create_task(self._put(current, upload, part, crc))
        current.puts.append(put)
        self._watch(put)

    async def _put(self, current: _Upload, upload: str, part: Part, crc: str) -> None:
        number, length = part.number, part.length
        moving = part, Moved()
        self._moving.append(moving)
        kept: api.SignedUrl | None = None
        fresh_until = 0.0
        try:

            async def sign(refused: api.SignedUrl | None) -> api.SignedUrl:
                """The last one again while it is good: the broker counts what it signs."""
                nonlocal kept, fresh_until
                if kept is None or kept is refused or self._clock() >= fresh_until:
                    asked, to_sign = self._clock(), api.PartToSign(number, length, crc)
                    kept = await self._broker.sign_part(self._job, current.builder.number, upload, to_sign)
                    fresh_until = asked + lives(kept) / 2
                return kept

            if self._may_store is not None:
                await self._may_store.wait()
            etag = await self._hold.through(lambda: self._store.put(sign, part.pieces, moving[1]))
        finally:
            self._moving = [each for each in self._moving if each is not moving]
            self._memory.leave(length)
            self._ahead.leave()
            if self._finished and self._ahead.inside < self._pace.limit:
                self._store.hurry(anew=True)
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
            return bytes(self._codec.encode(FrameId(Kind.INDEX, number), raw).frame.data)

        part, index = current.builder.close(seal)
        self._bytes += current.builder.bytes + index
        await self._send(current, part)
        self._watch(asyncio.create_task(self._join(current, index)))

    async def _join(self, current: _Upload, index: int) -> None:
        try:
            await asyncio.gather(*current.puts)
            parts, upload = sorted(current.stored, key=lambda p: p.number), await current.begun
            ref = await self._broker.complete(self._job, current.builder.number, upload, parts, index)
        finally:
            self._slots.leave(min(current.builder.size, FULL_SEGMENT))
        self._log.segment_stored(ref)
        self._complete += 1
        if self._on_stored is not None:
            await self._on_stored(ref)

    def _watch(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
