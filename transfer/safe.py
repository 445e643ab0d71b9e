"""Which frames of a job are safe at a far end: with a peer, or in the store."""

from __future__ import annotations

from collections.abc import Callable

from transfer.meter import Meter
from transfer.model import FrameId, FrameSet


class Safe:
    """frames: those that are safe, counted once however many have them.

    raw_length: bytes of the source that a frame stands for.
    """

    def __init__(self, raw_length: Callable[[FrameId], int], meter: Meter) -> None:
        self.frames = FrameSet()
        self._raw_length, self._meter = raw_length, meter

    def add(self, frame: FrameId) -> None:
        """It is safe now."""
        if frame not in self.frames:
            self.frames.add(frame.kind, frame.index, frame.index + 1)
            self._meter.moved(frame, self._raw_length(frame))

    def found(self, frame: FrameId) -> None:
        """It was safe before this run."""
        if frame not in self.frames:
            self.frames.add(frame.kind, frame.index, frame.index + 1)
            self._meter.found(frame, self._raw_length(frame))
