"""A job's frames, made on demand from its source: read, compress, digest, seal, in threads, in order.

Of a chunk: `Outgoing.frames` → `_make` (in a thread: `source` reads, `codec` encodes) → whoever asked: `direct`, `through_store`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from transfer import chunks
from transfer.chunks import Extent, Manifest
from transfer.codec import Codec, Encoded, Room, digest_of, room
from transfer.digests import Digests
from transfer.model import INDEX_LIMIT, TRAILER, FrameId, FrameSet, Kind
from transfer.stream import pieces_of

WORKERS = min(4, (os.cpu_count() or 1) + 1)
AHEAD = 24 << 20
"""Bytes of raw frames that are being made or wait for the route, but at least two frames."""


class Source(Protocol):
    """What `Outgoing` reads a known set of files from (`transfer.source.Tree`)."""

    def read_into(self, extents: Sequence[Extent], view: memoryview) -> None: ...


class Spent:
    """seconds: what threads have spent with it, all together."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self.seconds += time.monotonic() - began


class Outgoing:
    """The frames of a job whose files can be read again.

    digests: of the raw bytes of every frame made, or known from an earlier run. encoding: without the reading.
    """

    def __init__(self, source: Source, manifest: Manifest, codec: Codec) -> None:
        self.manifest = manifest
        self.digests = Digests()
        self.encoding = Spent()
        self.root = b""
        self._source, self._codec = source, codec
        self._blocks = list(chunks.manifest_blocks(manifest))
        self._ahead = _frames_ahead(manifest)
        self._pool = ThreadPoolExecutor(min(WORKERS, self._ahead), thread_name_prefix="encode")
        for number, raw in enumerate(self._blocks):
            self.digests[FrameId(Kind.MANIFEST, number)] = digest_of(raw)

    @property
    def everything(self) -> FrameSet:
        """All frames of the job."""
        every = FrameSet([(Kind.MANIFEST, 0, len(self._blocks)), (Kind.TRAILER, 0, 1)])
        if self.manifest.chunks:
            every.add(Kind.CHUNK, 0, self.manifest.chunks)
        return every

    def raw_length(self, frame: FrameId) -> int:
        """Bytes of the source that a frame stands for: 0 for what is no chunk."""
        return (self.manifest.chunk_length(frame.index) or 0) if frame.kind is Kind.CHUNK else 0

    async def frames(self, wanted: FrameSet) -> AsyncGenerator[Encoded, None]:
        """The wanted frames in order, trailer last. Raises SourceChanged, SourceTrouble.

        The trailer covers every chunk: those that are not wanted are read too, if their digest is
        not known yet, but not encoded.
        """
        loop = asyncio.get_running_loop()
        under_way: deque[asyncio.Future[Encoded | None]] = deque()
        try:
            for frame in self.everything:
                if frame.kind is Kind.TRAILER:
                    while under_way:
                        if (made := await under_way.popleft()) is not None:
                            yield made
                if frame in wanted:
                    under_way.append(loop.run_in_executor(self._pool, self._make, frame))
                elif frame not in self.digests and TRAILER in wanted and frame.kind is Kind.CHUNK:
                    under_way.append(loop.run_in_executor(self._pool, self._digest, frame))
                if len(under_way) >= self._ahead and (made := await under_way.popleft()) is not None:
                    yield made
            while under_way:
                if (made := await under_way.popleft()) is not None:
                    yield made
        finally:
            for future in under_way:
                future.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, frame: FrameId) -> Encoded:
        if frame.kind is Kind.MANIFEST:
            made = self._codec.encode(frame, self._blocks[frame.index])
        elif frame.kind is Kind.CHUNK:
            place = room(self.manifest.head.chunk_size)
            length = len(self._read(frame, place))
            with self.encoding.counted():
                made = self._codec.encode_in(place, frame, length)
        else:
            made = self._codec.encode(frame, self._trailer())
        self.digests[frame] = made.digest
        return made

    def _digest(self, frame: FrameId) -> None:
        self.digests[frame] = digest_of(self._read(frame, room(self.manifest.head.chunk_size)))

    def _read(self, frame: FrameId, place: Room) -> memoryview:
        raw = place.raw(self.manifest.chunk_length(frame.index) or 0)
        self._source.read_into(self.manifest.extents(frame.index), raw)
        return raw

    def _trailer(self) -> bytes:
        count = self.manifest.chunks or 0
        self.root = chunks.root_digest(
            (self.digests[FrameId(Kind.MANIFEST, b)] for b in range(len(self._blocks))),
            (self.digests[FrameId(Kind.CHUNK, c)] for c in range(count)),
        )
        return chunks.encode_trailer(self.manifest.total or 0, count, self.root)


class OutgoingStream:
    """The frames of a stream of unknown length: readable once, so every frame is made once.

    read: blocking, up to that many bytes, empty at the end. verdict: called at the end, before the
    trailer is made; raises if the end was no good one.
    """

    def __init__(
        self, read: Callable[[int], bytes], manifest: Manifest, codec: Codec, verdict: Callable[[], None]
    ) -> None:
        self.manifest = manifest
        self.digests = Digests()
        self.encoding = Spent()
        self.root = b""
        self._read, self._codec, self._verdict = read, codec, verdict
        self._lengths: list[int] = []
        self._ahead = _frames_ahead(manifest)
        self._pool = ThreadPoolExecutor(min(WORKERS, self._ahead), thread_name_prefix="encode")

    @property
    def everything(self) -> FrameSet:
        return FrameSet([(Kind.MANIFEST, 0, 1), (Kind.CHUNK, 0, INDEX_LIMIT), (Kind.TRAILER, 0, 1)])

    def raw_length(self, frame: FrameId) -> int:
        return self._lengths[frame.index] if frame.kind is Kind.CHUNK else 0

    async def frames(self, wanted: FrameSet) -> AsyncGenerator[Encoded, None]:
        """Everything; `wanted` must be that. Raises CommandFailed, SourceTrouble."""
        loop = asyncio.get_running_loop()
        pieces = pieces_of(self._read, self.manifest.head.chunk_size)
        under_way: deque[asyncio.Future[Encoded]] = deque()
        piece: asyncio.Future[bytes] | None = None

        def start(frame: FrameId, raw: bytes) -> None:
            under_way.append(loop.run_in_executor(self._pool, self._make, frame, raw))

        try:
            start(FrameId(Kind.MANIFEST, 0), next(chunks.manifest_blocks(self.manifest)))
            while True:
                piece = asyncio.ensure_future(anext(pieces, b""))
                while under_way and not piece.done():  # a slow producer must not hold back what is made
                    both: set[asyncio.Future[Any]] = {piece, under_way[0]}
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                    if under_way[0].done():
                        yield await under_way.popleft()
                if not (raw := await piece):
                    break
                start(FrameId(Kind.CHUNK, len(self._lengths)), raw)
                self._lengths.append(len(raw))
                if len(under_way) >= self._ahead:
                    yield await under_way.popleft()
            while under_way:
                yield await under_way.popleft()
            await loop.run_in_executor(self._pool, self._verdict)
            start(TRAILER, self._trailer())
            yield await under_way.popleft()
        finally:
            if piece is not None:
                piece.cancel()
            for future in under_way:
                future.cancel()
            await asyncio.gather(*under_way, *([piece] if piece else []), return_exceptions=True)
            await pieces.aclose()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, frame: FrameId, raw: bytes) -> Encoded:
        with self.encoding.counted():
            made = self._codec.encode(frame, raw)
        self.digests[frame] = made.digest
        return made

    def _trailer(self) -> bytes:
        self.root = chunks.root_digest(
            [self.digests[FrameId(Kind.MANIFEST, 0)]],
            (self.digests[FrameId(Kind.CHUNK, c)] for c in range(len(self._lengths))),
        )
        return chunks.encode_trailer(sum(self._lengths), len(self._lengths), self.root)

    @property
    def stream(self) -> bytes:
        """What `digest_of_pieces` says of the same bytes, once all were made."""
        return chunks.root_digest(
            (), (self.digests[FrameId(Kind.CHUNK, c)] for c in range(len(self._lengths)))
        )


async def digest_of_pieces(read: Callable[[int], bytes], manifest: Manifest) -> bytes:
    """Read a stream to its end, and send nothing. Its content alone decides, not its name or time. Raises SourceTrouble."""
    digests = [digest_of(piece) async for piece in pieces_of(read, manifest.head.chunk_size)]
    return chunks.root_digest((), digests)


def _frames_ahead(manifest: Manifest) -> int:
    return max(2, AHEAD // manifest.head.chunk_size)
