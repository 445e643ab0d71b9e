"""The nouns both ends share: frames, sets of frames, entries, the manifest, the trailer."""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

import msgspec

from transfer.errors import ProtocolError

Bytes = bytes | bytearray | memoryview

FORMAT = 1
"""Version of tickets, seals, manifest and segments. It is part of every seal's associated data."""

INDEX_LIMIT = 1 << 32
"""Frame indices are unsigned 32-bit; as the end of a range it means «and all that follow»."""

MAX_ENTRIES = 5_000_000
MAX_PATH = 4096
"""Bytes. Source: PATH_MAX of Linux."""
MAX_MANIFEST = 1 << 28
"""Raw bytes of a whole manifest: 5 million entries of 50 bytes. More is a hostile peer's claim."""
MAX_FILE = 1 << 60
"""Bytes of one entry; leaves room for sums in 63 bits."""
MAX_ENTRIES_IN_BLOCK = 4096
MAX_BLOCKS = -(-MAX_ENTRIES // MAX_ENTRIES_IN_BLOCK)


class Kind(enum.IntEnum):
    """What a frame carries. Part of the associated data, so that no frame passes for another."""

    MANIFEST = 0
    CHUNK = 1
    TRAILER = 2
    INDEX = 3  # a segment's table of contents: sealed like a frame, never sent to a peer


class FrameId(NamedTuple):
    """A frame's name within its job; sorts manifest first, trailer last."""

    kind: Kind
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a frame id


class Frame(NamedTuple):
    """An encoded (compressed, sealed) frame: what a route carries."""

    id: FrameId
    data: Bytes


TRAILER = FrameId(Kind.TRAILER, 0)


class FrameSet:
    """A set of frame ids kept as sorted, disjoint, half-open ranges for each kind.

    A range may be open (its end is INDEX_LIMIT): before the manifest is known a receiver wants
    «all manifest blocks, all chunks». Cheap for a million chunks; iteration needs closed ranges.
    """

    def __init__(self, ranges: Iterable[tuple[int, int, int]] = ()) -> None:
        """ranges: (kind, start, end) triples, end exclusive; may overlap. Raises ProtocolError."""
        self._ranges: dict[Kind, list[tuple[int, int]]] = {}
        for kind, start, end in sorted(ranges):  # then each `add` is cheap, whatever order a peer chose
            self.add(kind, start, end)

    @classmethod
    def everything(cls) -> FrameSet:
        """What a receiver that has nothing asks for."""
        return cls([(Kind.MANIFEST, 0, INDEX_LIMIT), (Kind.CHUNK, 0, INDEX_LIMIT), (Kind.TRAILER, 0, 1)])

    def add(self, kind: int, start: int, end: int) -> None:
        if kind not in (Kind.MANIFEST, Kind.CHUNK, Kind.TRAILER) or not 0 <= start < end <= INDEX_LIMIT:
            raise ProtocolError(f"a range of frames makes no sense: kind {kind}, {start} to {end}")
        ranges = self._ranges.setdefault(Kind(kind), [])
        if not ranges or ranges[-1][1] < start:
            ranges.append((start, end))
            return
        if ranges[-1][0] <= start:  # most often: one more behind the last
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], end))
            return
        merged: list[tuple[int, int]] = []
        for s, e in ranges:
            if e < start or s > end:
                merged.append((s, e))
            else:
                start, end = min(s, start), max(e, end)
        merged.append((start, end))
        merged.sort()
        self._ranges[Kind(kind)] = merged

    def discard(self, frame: FrameId) -> None:
        ranges = self._ranges.get(frame.kind, [])
        at = bisect_right(ranges, (frame.index, INDEX_LIMIT)) - 1
        if at < 0 or frame.index >= ranges[at][1]:
            return
        start, end = ranges[at]
        left, right = (start, frame.index), (frame.index + 1, end)
        ranges[at : at + 1] = [r for r in (left, right) if r[0] < r[1]]

    def clip(self, kind: Kind, count: int) -> None:
        """Forget what lies at or beyond `count`: the kind turned out to have that many frames."""
        self._ranges[kind] = [(s, min(e, count)) for s, e in self._ranges.get(kind, []) if s < count]

    def __contains__(self, frame: object) -> bool:
        if not isinstance(frame, tuple):
            return False
        kind, index = frame
        ranges = self._ranges.get(kind, [])
        at = bisect_right(ranges, (index, INDEX_LIMIT)) - 1
        return at >= 0 and index < ranges[at][1]

    def __iter__(self) -> Iterator[FrameId]:
        """In sending order: manifest, chunks, trailer. Only of a set without open ranges."""
        for kind in (Kind.MANIFEST, Kind.CHUNK, Kind.TRAILER):
            for start, end in list(self._ranges.get(kind, [])):
                for index in range(start, end):
                    yield FrameId(kind, index)

    def __bool__(self) -> bool:
        return any(self._ranges.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrameSet) and self.ranges() == other.ranges()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"FrameSet({self.ranges()})"

    def ranges(self) -> list[tuple[int, int, int]]:
        """(kind, start, end) triples, sorted: the form that crosses the wire."""
        return [(int(k), s, e) for k in sorted(self._ranges) for s, e in self._ranges[k]]

    def count(self, kind: Kind) -> int:
        return sum(e - s for s, e in self._ranges.get(kind, []))

    def common(self, other: FrameSet) -> FrameSet:
        """What is in both; either may have open ranges."""
        both = FrameSet()
        for kind, start, end in self.ranges():
            for k, s, e in other.ranges():
                if kind == k and max(start, s) < min(end, e):
                    both.add(kind, max(start, s), min(end, e))
        return both

    def copy(self) -> FrameSet:
        twin = FrameSet()
        twin._ranges = {k: list(r) for k, r in self._ranges.items()}
        return twin


class EntryKind(enum.IntEnum):
    FILE = 0
    DIRECTORY = 1
    LINK = 2


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One thing in the manifest.

    path: relative, "/"-separated bytes (POSIX names need not be text). size: bytes, None only for
    a stream of unknown length. mode: permission bits. mtime: nanoseconds since 1970.
    target: a link's target bytes, else empty.
    """

    path: bytes
    kind: EntryKind
    size: int | None
    mode: int
    mtime: int
    target: bytes = b""


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The facts a receiver needs before the first entry. total is None for unknown length."""

    version: int
    chunk_size: int
    total: int | None
    entries: int
    blocks: int


class ManifestBlock(msgspec.Struct, frozen=True, array_like=True):
    """The raw form of a manifest frame. Only block 0 has the head."""

    head: Head | None
    entries: Annotated[list[Entry], msgspec.Meta(max_length=MAX_ENTRIES_IN_BLOCK)]  # before any is decoded


class Trailer(msgspec.Struct, frozen=True, array_like=True):
    """The raw form of the trailer: totals, and the digest over everything (`chunks.root_digest`)."""

    version: int
    total: int
    chunks: int
    digest: bytes


class IndexedFrame(msgspec.Struct, frozen=True, array_like=True):
    """One row of a segment's index: encoded length in bytes, digest of the raw bytes."""

    kind: Kind
    index: int
    length: int
    digest: bytes


class SegmentIndex(msgspec.Struct, frozen=True, array_like=True):
    """The raw form of a segment's index. The frames lie end to end from offset 0, in this order."""

    version: int
    segment: int
    frames: list[IndexedFrame]


class SegmentRef(msgspec.Struct, frozen=True):
    """What tells a receiver about a stored segment: never payload.

    number: 0-based. size: bytes of the object. index: bytes of the sealed index at its tail.
    """

    number: int
    size: int
    index: int


class ReceiptBody(msgspec.Struct, frozen=True, array_like=True):
    """The raw form of a receipt: every byte is verified and synced under its final name."""

    version: int
    receiver: str
    total: int
    chunks: int
    digest: bytes
