"""The sender's side of the store's route: frames become parts there, and whoever has the ticket may fetch them."""

from __future__ import annotations

import asyncio
import contextlib
import time

from transfer import wire
from transfer.broker_client import BrokerClient
from transfer.bwlimit import BwLimit
from transfer.codec import Codec
from transfer.effort import Effort
from transfer.hold import Hold
from transfer.meter import Meter
from transfer.model import FrameId, FrameSet, Kind, SegmentRef
from transfer.outgoing import Outgoing, OutgoingStream
from transfer.plan import Part
from transfer.receivers import Receivers
from transfer.safe import Safe
from transfer.sent import SentJob
from transfer.tasks import ended
from transfer.transports.s3 import Pace, S3Outbound


class ThroughStore:
    """Stores what no receiver has, and if then no receipt comes, the rest: stored means that S3 alone serves it all."""

    def __init__(
        self,
        out: Outgoing | OutgoingStream,
        receivers: Receivers,
        safe: Safe,
        meter: Meter,
        broker: BrokerClient,
        job: SentJob,
        codec: Codec,
        pace: Pace,
        limit: BwLimit | None,
        hold: Hold,
    ) -> None:
        """pace: requests at once. hold: during a pause nothing is stored."""
        self._out, self._receivers, self._safe, self._meter = out, receivers, safe, meter
        self._codec, self._job, self._pace, self._hold = codec, job, pace, hold
        self._served = asyncio.Event()
        self._begun: asyncio.Task[None] | None = None
        self._store = S3Outbound(
            broker,
            job.ticket.job,
            codec,
            out.digests,
            job,
            patience=broker.patience,
            total=out.manifest.total,
            remains=job.remains,
            pace=pace,
            limit=limit,
            hold=hold,
            on_stored=self._tell_stored,
            on_part=self._part_stored,
            on_tick=meter.look,
            may_store=self._served,
        )
        meter.under_way = self._under_way

    def begin(self) -> None:
        """Connect already, and read and seal, for a new job; nothing is stored before `serve`. Ends with `close`, or with that.

        A stream is not read, nor a command started, before the ticket is told.
        """
        self._store.expect()
        if self._out.manifest.total is not None:
            self._begun = asyncio.create_task(self._put_all(self._out.everything))

    async def close(self) -> None:
        if self._begun is not None:
            await ended(self._begun)
        await self._store.close()

    async def serve(self, wait: float | None, receipts: int) -> int | None:
        """Until the store has everything: how many segments that is. None if so many receipts came before.

        wait: seconds for the receipts of those who have a part of it from us; None for ever.
        """
        store = self._store
        try:
            await self._receivers.use_store(lambda: store.segments)
            missing = self._out.everything.common(await store.wanted())
            for frame in self._job.remains.stored:
                self._safe.found(frame)
            self._meter.tell()
            with_peer = self._safe.frames.common(missing)
            self._served.set()
            if with_peer:
                for frame in with_peer:
                    missing.discard(frame)
                await self._put_all(missing)
                await store.flush()
                if await self._receipts_come(wait, receipts):
                    return None
                missing = with_peer
            await (self._begun or self._put_all(missing))
            await store.finish()
        finally:
            await self.close()
        return store.segments

    async def _receipts_come(self, wait: float | None, receipts: int) -> bool:
        deadline = None if wait is None else time.monotonic() + wait
        while len(self._receivers.receipts) < receipts:
            if not await self._receivers.receipt_before(deadline, "waiting for the receipt"):
                return False
        return True

    async def _put_all(self, frames: FrameSet) -> None:
        """From `Outgoing.frames`, which reads and seals them, to `S3Outbound.put`, which makes parts of them.

        Harder compression while the store is what is waited for, lighter while it is us.
        """
        effort = Effort(self._codec.level) if self._codec.adapts else None
        async with contextlib.aclosing(self._out.frames(frames)) as encoded:
            asked, spent, pauses = time.monotonic(), self._out.encoding.seconds, self._hold.number
            async for made in encoded:
                await self._hold.clear()
                there = time.monotonic()
                waited = min(there - asked, self._out.encoding.seconds - spent)
                await self._store.put(made.frame)
                taken = time.monotonic()
                if effort is not None and pauses == self._hold.number:
                    alone = self._pace.alone
                    effort.moved(made.raw_length, waited, there - asked - waited, taken - there, alone)
                    self._codec.level = effort.level
                self._meter.level, self._meter.concurrency = self._codec.level, self._pace.limit
                asked, spent, pauses = taken, self._out.encoding.seconds, self._hold.number

    async def _tell_stored(self, ref: SegmentRef) -> None:
        """The reference: a hint that saves the receivers waiting; the broker's record alone would do."""
        if self._receivers.talks:
            self._store.followed()
        await self._receivers.tell(wire.SegmentStored, ref=ref)

    def _part_stored(self, part: Part) -> None:
        self._meter.wire += part.length - sum(row.length for row in part.frames)
        with self._meter.together():
            for row in part.frames:
                frame = FrameId(Kind(row.kind), row.index)
                self._meter.crossed(frame, row.length)
                self._safe.add(frame)

    def _under_way(self) -> tuple[int, int]:
        """Of parts on their way, by how much of each has left: raw bytes that are safe nowhere yet, and encoded ones."""
        raw, parts = 0.0, self._store.under_way
        for part, left in parts:
            frames = (FrameId(Kind(row.kind), row.index) for row in part.frames)
            fresh = sum(self._out.raw_length(frame) for frame in frames if frame not in self._safe.frames)
            raw += fresh * left / part.length
        return int(raw), sum(left for _, left in parts)
