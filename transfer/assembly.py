"""The receiving side's centre: encoded frames come in from any route; verified bytes go to the sink.

What is wanted shrinks as frames are written; what is written is in the ledger before it is
acknowledged. Manifest first (it says where bytes go), chunks in any order, the trailer proves the end.
A chunk passes `consume` → `_take` → `_decode_and_write` (in a thread: `codec`, `sink`) → `commits` (`ledger`, then the
route's acknowledgement).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from transfer import chunks
from transfer.chunks import Manifest
from transfer.codec import Codec, Rooms, digest_of
from transfer.commits import Ack, Batch
from transfer.digests import Digests
from transfer.errors import CutShort, DamagedData, ProtocolError
from transfer.ledger import JobRow, Ledger
from transfer.meter import Meter
from transfer.model import (
    INDEX_LIMIT,
    MAX_MANIFEST,
    Entry,
    Frame,
    FrameId,
    FrameSet,
    Head,
    Kind,
    ManifestBlock,
    Trailer,
)
from transfer.sink import Sink
from transfer.tasks import ended

WORKERS = 3
LARGE = 4 << 20
"""Bytes. Of larger chunks fewer are decoded at once: each takes rooms of its size."""
CHECK_AT_ONCE = 64
"""Chunks of an earlier run that are checked together; only as many as there are threads are in memory."""

P = ParamSpec("P")
R = TypeVar("R")


class Assembly:
    """One job on its way to a sink.

    wanted: shrinks in place; routes look at it as they go. begun: called once the sink knows the manifest.
    damaged: frames that came damaged once. ledger and row: None for a sink that cannot be resumed (a pipe).
    """

    def __init__(
        self,
        codec: Codec,
        sink: Sink,
        meter: Meter,
        ledger: Ledger | None,
        row: JobRow | None,
        begun: Callable[[], None],
    ) -> None:
        self.wanted = FrameSet.everything()
        self.manifest: Manifest | None = None
        self.trailer: Trailer | None = None
        self.complete = asyncio.Event()
        self._codec, self._sink, self._meter = codec, sink, meter
        self._ledger, self._row, self._begun = ledger, row, begun
        self._digests = Digests()
        self._blocks: dict[int, ManifestBlock] = {}
        self._manifest_bytes = 0
        self._short: int | None = None  # the one chunk of a stream that is not full
        self._measuring = threading.Lock()
        self._rooms: list[Rooms] = []  # those that no thread decodes in just now
        self.damaged: set[FrameId] = set()
        self._taking: dict[FrameId, asyncio.Event] = {}
        self._writing: dict[FrameId, Future[tuple[int, bytes]]] = {}
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="decode")
        self._beginning = asyncio.Lock()

    @property
    def _at_once(self) -> int:
        """How many chunks are decoded at once. For a pipe those that overtake another are kept besides."""
        if self.manifest is None or self.manifest.head.chunk_size <= LARGE:
            return WORKERS
        return 1 if self._row is None else 2

    @property
    def held(self) -> int:
        """How many frames are here, verified."""
        return len(self._digests)

    def close(self) -> None:
        """Blocks while a thread still writes: what it writes to is closed, or removed, next. Idempotent.

        A pipe is neither, and may take for ever.
        """
        self._pool.shutdown(wait=self._row is not None, cancel_futures=True)

    async def restore(self) -> None:
        """Take up what an earlier run wrote, after checking it: a chunk whose bytes do not match their digest is dropped."""
        if self._ledger is None or self._row is None:
            return
        known = self._ledger.frames(self._row)
        for number, raw in self._ledger.blocks(self._row).items():
            frame = FrameId(Kind.MANIFEST, number)
            if frame in known and digest_of(raw) == known[frame]:
                await self._take_block(frame, raw, known[frame])
        written = [frame for frame in known if frame.kind is Kind.CHUNK]
        for at in range(0, len(written), CHECK_AT_ONCE):
            batch = written[at : at + CHECK_AT_ONCE]
            there = await asyncio.gather(*(self._still_there(frame, known[frame]) for frame in batch))
            lost = [frame for frame, is_there in zip(batch, there, strict=True) if not is_there]
            self._ledger.drop_frames(self._row, lost)
        self._meter.tell()

    async def consume(
        self, frames: AsyncGenerator[Frame, None], ack: Ack, *, window: int | None = None
    ) -> None:
        """Take frames from one route until it ends or the job is complete; closes the iterator.

        Decodes and writes several at once; commits and acknowledges in batches. Raises what the
        route raises, DamagedData for a frame that came damaged twice, ProtocolError, DiskFull.

        window: encoded bytes that the sender may have on their way unacknowledged; None if it waits for nothing.
        """
        under_way: list[asyncio.Task[FrameId | None]] = []
        batch = Batch(self._commit, ack, window)
        try:
            while (frame := await self._next(frames, under_way)) is not None:
                if frame.id not in self.wanted:
                    continue
                self._meter.crossed(frame.id, len(frame.data))
                under_way.append(asyncio.create_task(self._take(frame, batch)))
                if frame.id.kind is not Kind.CHUNK:
                    await asyncio.wait(under_way)
                elif len(under_way) >= self._at_once:
                    waited_for = under_way[:1] if self._row is None else under_way
                    await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            for task in under_way:
                await task
            await batch.flush()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            try:
                batch.close()
            finally:
                await frames.aclose()
        if not self.wanted and not self.complete.is_set():
            self._check_whole()
            self.complete.set()

    async def _next(
        self, frames: AsyncGenerator[Frame, None], under_way: list[asyncio.Task[FrameId | None]]
    ) -> Frame | None:
        """The next frame; None at the end, or once nothing is wanted: a route that has no more may stay open.

        Forgets those under way that have ended; raises what ended one meanwhile. A pipe holds what overtakes the
        oldest in memory, so for a pipe what came after it counts as under way until it has ended.
        """
        coming = asyncio.ensure_future(anext(frames, None))
        try:
            while True:
                for task in under_way:
                    if task.done():
                        task.result()
                if self._row is not None:
                    under_way[:] = [task for task in under_way if not task.done()]
                while under_way and under_way[0].done():
                    del under_way[0]
                if not self.wanted:
                    return None
                if coming.done():
                    return coming.result()
                busy = {task for task in under_way if not task.done()}
                await asyncio.wait({coming, *busy}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended(coming)

    async def _take(self, frame: Frame, batch: Batch) -> FrameId | None:
        """One copy at a time of each frame: what is on disk must be what its digest was taken of.

        A cancelled task stops no thread, so a frame is free again only when its write has really ended.
        """
        while (busy := self._taking.get(frame.id)) is not None:
            await busy.wait()
        if frame.id not in self.wanted:
            return None
        free = self._taking[frame.id] = asyncio.Event()

        def release() -> None:
            self._taking.pop(frame.id, None)
            free.set()

        try:
            return await self._take_alone(frame, batch)
        finally:
            write = self._writing.pop(frame.id, None)
            if write is None or write.done():
                release()
            else:
                loop = asyncio.get_running_loop()
                write.add_done_callback(lambda _: _tell(loop, release))

    async def _take_alone(self, frame: Frame, batch: Batch) -> FrameId | None:
        """One frame from bytes to the sink. None if it was damaged for the first time: it stays wanted."""
        kind = frame.id.kind
        if kind is not Kind.MANIFEST and self.manifest is None:
            return None  # a peer that skips the manifest: nothing can be made of this yet
        try:
            if kind is Kind.CHUNK:
                digest = await self._take_chunk(frame)
            else:
                raw, digest = await self._in_thread(self._codec.decode, frame)
                if kind is Kind.MANIFEST:
                    await self._take_block(frame.id, bytes(raw), digest)
                else:
                    self._take_trailer(bytes(raw))
                    self._have(frame.id, digest)
        except DamagedData:
            if frame.id in self.damaged:
                raise
            self.damaged.add(frame.id)
            return None
        await batch.add(frame.id, digest, len(frame.data))
        return frame.id

    async def _take_chunk(self, frame: Frame) -> bytes:
        """Its digest, once its bytes are written."""
        write = self._pool.submit(self._decode_and_write, frame)
        self._writing[frame.id] = write
        length, digest = await asyncio.wrap_future(write)
        self._have(frame.id, digest)
        self._meter.moved(frame.id, length)
        return digest

    def _decode_and_write(self, frame: Frame) -> tuple[int, bytes]:
        """In a thread, in memory that is used again once the bytes are written. Raw length and digest."""
        manifest, index = self.manifest, frame.id.index
        assert manifest is not None
        try:
            rooms = self._rooms.pop()
        except IndexError:
            rooms = Rooms(manifest.head.chunk_size)
        try:
            raw, digest = self._codec.decode_in(rooms, frame, manifest.chunk_length(index))
            if manifest.total is None and len(raw) != manifest.head.chunk_size:
                with self._measuring:
                    if not 0 < len(raw) < manifest.head.chunk_size or self._short not in (None, index):
                        raise ProtocolError(f"chunk {index} has an impossible length")
                    self._short = index
            self._sink.write(manifest.extents(index, len(raw)), raw)
            return len(raw), digest
        finally:
            self._rooms.append(rooms)

    async def _take_block(self, frame: FrameId, raw: bytes, digest: bytes) -> None:
        async with self._beginning:
            if frame not in self.wanted:
                return
            self._manifest_bytes += len(raw)
            if self._manifest_bytes > MAX_MANIFEST:
                raise ProtocolError("the manifest is longer than any real one")
            block = await self._in_thread(chunks.read_block, raw, frame.index)
            self._blocks[frame.index] = block
            if self._ledger is not None and self._row is not None:
                self._ledger.add_block(self._row, frame.index, raw)
            self._have(frame, digest)
            if block.head is not None:
                self.wanted.clip(Kind.MANIFEST, block.head.blocks)
            head = self._blocks[0].head if 0 in self._blocks else None
            if head is not None and any(number >= head.blocks for number in self._blocks):
                raise ProtocolError("the manifest has more blocks than it states")
            if head is not None and len(self._blocks) == head.blocks:
                await self._begin(head)

    async def _begin(self, head: Head) -> None:
        """The manifest is whole: the sink learns what will come, or refuses it."""
        entries: list[Entry] = [e for b in range(head.blocks) for e in self._blocks.pop(b).entries]
        manifest = await self._in_thread(Manifest, head, entries)
        await self._in_thread(self._sink.begin, manifest)
        self.manifest = manifest
        self._begun()
        if manifest.chunks is not None:
            self.wanted.clip(Kind.CHUNK, manifest.chunks)
        self._meter.learn(manifest)
        self._meter.tell()

    def _take_trailer(self, raw: bytes) -> None:
        trailer = chunks.read_trailer(raw)
        assert self.manifest is not None
        if self.manifest.total is None:
            last = -(-trailer.total // self.manifest.head.chunk_size)
            if trailer.chunks != last:
                raise ProtocolError("the trailer's totals contradict each other")
            self.wanted.clip(Kind.CHUNK, trailer.chunks)
        elif (trailer.total, trailer.chunks) != (self.manifest.total, self.manifest.chunks):
            raise ProtocolError("the trailer contradicts the manifest")
        self.trailer = trailer

    def _check_whole(self) -> None:
        """Every frame is here; the trailer's digest over all digests says whether they are the right ones."""
        assert self.manifest is not None
        if self.trailer is None:
            raise CutShort("the transfer ends without its trailer")
        whole = chunks.root_digest(
            (self._digests[FrameId(Kind.MANIFEST, b)] for b in range(self.manifest.head.blocks)),
            (self._digests[FrameId(Kind.CHUNK, c)] for c in range(self.trailer.chunks)),
        )
        written = self._digests.count(Kind.CHUNK)
        if whole != self.trailer.digest or written != self.trailer.chunks:
            raise DamagedData("the transfer does not match the digest in its trailer")
        if self.manifest.total is None:
            as_long = self._meter.done == self.trailer.total or self._sink.publishing
            if self._short not in (None, written - 1) or not as_long:
                raise ProtocolError("the transfer is not as long as its trailer states")
            self._sink.set_length(0, self.trailer.total)
        self._meter.total = self.trailer.total

    def _have(self, frame: FrameId, digest: bytes) -> None:
        self._digests[frame] = digest
        self.wanted.discard(frame)

    async def _still_there(self, frame: FrameId, digest: bytes) -> bool:
        """Whether the bytes on disk are still that chunk's; once publishing began they were all verified and synced.

        A stream's last chunk is not full, so it is never found again: that much is sent anew.
        """
        manifest = self.manifest
        if manifest is None or frame.index >= (INDEX_LIMIT if manifest.chunks is None else manifest.chunks):
            return False
        length = manifest.chunk_length(frame.index) or manifest.head.chunk_size
        if not self._sink.publishing:
            extents = manifest.extents(frame.index, length)
            if await self._in_thread(lambda: digest_of(self._sink.read(extents))) != digest:
                return False
        self._have(frame, digest)
        self._meter.found(frame, length)
        self._meter.look()  # told as it goes: to check much takes a while
        return True

    async def _in_thread(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: call(*args, **kwargs))

    def _commit(self, frames: list[tuple[FrameId, bytes]]) -> None:
        if self._ledger is not None and self._row is not None:
            self._ledger.add_frames(self._row, frames)


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """From a thread; a loop that is closed has nobody left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
