"""How encoded frames become parts and segments: sizes and moments, no I/O, time an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from transfer.model import Bytes, Frame, IndexedFrame

MIB = 1 << 20
MIN_PART = 8 * MIB
"""Bytes. S3 refuses parts under 5 MiB but for the last (AWS, «Amazon S3 multipart upload limits»)."""
FIRST_SEGMENT, FULL_SEGMENT = 8 * MIB, 64 * MIB
SEGMENT_FRAMES = 256
SEGMENT_SECONDS = 5.0
RIPE, RIPE_SECONDS = 2 * MIN_PART, 0.5
"""Bytes, and seconds: who follows sees nothing of a segment before it closes, so on a slow link it closes half full."""
SEGMENTS_A_JOB = 2000


def segment_size(number: int, stored: int, total: int | None) -> int:
    """Bytes at which segment `number` closes: 8, 16, 32, 64 MiB, then as large as keeps a job near 2,000 segments.

    stored: bytes in the segments before it. total: the job's raw bytes, None if unknown; then a segment
    grows to 1/250 of what went before. SEGMENT_FRAMES may close it sooner: a stream's chunks are 4 MiB, so
    an incompressible one reaches 2,000 segments at about 1.3 TB.
    """
    ramp = min(FIRST_SEGMENT << min(number, 8), FULL_SEGMENT)
    if ramp < FULL_SEGMENT:
        return ramp
    return max(FULL_SEGMENT, total // SEGMENTS_A_JOB if total is not None else stored // 250)


def ripe_size(stored: int, total: int | None) -> int:
    """Bytes from which on a segment closes once it was open for RIPE_SECONDS; bounds their number as segment_size does."""
    return max(RIPE, total // SEGMENTS_A_JOB if total is not None else stored // 250)


class Part(NamedTuple):
    """number: 1-based within its segment. frames: what it holds, in order; a last part's tail is the index.

    pieces: its bytes, frame by frame: they are not joined, since that would copy all that is ever sent.
    """

    number: int
    pieces: tuple[Bytes, ...]
    frames: tuple[IndexedFrame, ...]

    @property
    def length(self) -> int:
        return sum(len(piece) for piece in self.pieces)


class SegmentBuilder:
    """Collects the frames of one segment into parts.

    Give it frames in order; each `add` may hand back a part to store. When `full` or `due`, `close`
    hands back the last part, which ends with the sealed index.

    size, ripe: bytes at which it closes at once, and after RIPE_SECONDS. now: when it was opened.
    stored: parts of an interrupted run that the store still has; their data is not needed again.
    """

    def __init__(
        self, number: int, size: int, ripe: int, now: float, stored: list[Part] | None = None
    ) -> None:
        self.number, self.size = number, size
        self.opened = now
        self._ripe = ripe
        self.bytes = 0
        self._parts = 0
        self._frames: list[IndexedFrame] = []
        self._pending: list[Bytes] = []
        self._pending_frames: list[IndexedFrame] = []
        self._pending_bytes = 0
        for part in stored or []:
            self._parts = max(self._parts, part.number)
            self._frames += part.frames
            self.bytes += sum(f.length for f in part.frames)
        self.full = self._has_all

    @property
    def empty(self) -> bool:
        return not self._frames and not self._pending

    def due(self) -> float:
        """When it must close even if not full: a receiver waits for it."""
        return self.opened + SEGMENT_SECONDS

    def skip_numbers(self, used: int) -> None:
        """Part numbers up to `used` are taken by parts of an earlier run that are not counted on."""
        self._parts = max(self._parts, used)

    def add(self, frame: Frame, digest: bytes, now: float) -> Part | None:
        """digest: of the frame's raw bytes, for the index. What makes it full is left for the last part."""
        self._pending.append(frame.data)
        self._pending_frames.append(IndexedFrame(frame.id.kind, frame.id.index, len(frame.data), digest))
        self._pending_bytes += len(frame.data)
        self.bytes += len(frame.data)
        whole = self._pending_bytes >= MIN_PART
        ripe = whole and self.bytes >= self._ripe and now >= self.opened + RIPE_SECONDS
        self.full = ripe or self._has_all
        return self._part() if whole and not self.full else None

    def close(self, seal_index: Callable[[list[IndexedFrame]], bytes]) -> tuple[Part, int]:
        """The last part, and how many bytes at its end are the sealed index."""
        sealed = seal_index(self._frames + self._pending_frames)
        self._pending.append(sealed)
        return self._part(), len(sealed)

    @property
    def _has_all(self) -> bool:
        return self.bytes >= self.size or len(self._frames) + len(self._pending_frames) >= SEGMENT_FRAMES

    def _part(self) -> Part:
        self._parts += 1
        part = Part(self._parts, tuple(self._pending), tuple(self._pending_frames))
        self._frames += self._pending_frames
        self._pending, self._pending_frames, self._pending_bytes = [], [], 0
        return part
