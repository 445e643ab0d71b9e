"""The sink for `-o -`: one file's bytes to a stream, strictly in order."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from transfer.chunks import Extent, Manifest
from transfer.errors import NO_ROOM, CutShort, DiskFull, Interrupted, ProtocolError, UsageError, XferError
from transfer.model import EntryKind
from transfer.sink import Raw

MAX_AHEAD = 64 << 20
"""Bytes kept for chunks that came before their turn."""
_SIGPIPE = 13


class PipeSink:
    """Writes to a stream. Nothing can be resumed: what has left cannot be looked at again.

    A `write` blocks while the stream does, and so do the others then: that is the backpressure.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._early: dict[int, bytes] = {}
        self._held = 0
        self._at = 0
        self._size: int | None = None
        self.notices: list[str] = []

    @property
    def publishing(self) -> bool:
        return False

    def begin(self, manifest: Manifest) -> None:
        entries = manifest.entries
        if len(entries) != 1 or entries[0].kind is not EntryKind.FILE:
            raise UsageError(
                f"-o - takes exactly one file, and this transfer has {len(entries)} entries",
                hint="name a folder with -o",
            )
        self._size = entries[0].size

    def write(self, extents: Sequence[Extent], raw: Raw) -> None:
        """Raises ProtocolError for chunks too far ahead, Interrupted once nobody reads the stream."""
        with self._lock, memoryview(raw) as view:
            at = 0
            for extent in extents:
                self._take(extent.start, view[at : at + extent.length])
                at += extent.length
            while self._at in self._early:
                data = self._early.pop(self._at)
                self._held -= len(data)
                self._emit(data)

    def read(self, extents: Sequence[Extent]) -> bytes:
        return b""

    def set_length(self, entry: int, size: int) -> None:
        self._size = size

    def publish(self) -> list[Path]:
        """Raises CutShort if not all of it was written."""
        if self._early or self._at != self._size:
            raise CutShort(f"only {self._at} bytes came in order, of {self._size}")
        self._flush()
        return []

    def state(self) -> bytes:
        return b""

    def abandon(self) -> None:
        self._early.clear()
        self._held = 0

    def close(self) -> None:
        self.abandon()

    def _take(self, start: int, data: memoryview) -> None:
        if start == self._at:
            self._emit(data)
        elif start > self._at and start not in self._early:
            if self._held + len(data) > MAX_AHEAD:
                raise ProtocolError("the chunks come too far out of order to be written to a pipe")
            self._early[start] = bytes(data)
            self._held += len(data)

    def _emit(self, data: bytes | memoryview) -> None:
        try:
            done = 0
            while done < len(data):
                done += self._stream.write(data[done:]) or 0  # a raw stream may take a part of it
        except OSError as error:
            raise _stream_trouble(error) from error
        self._at += len(data)

    def _flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise _stream_trouble(error) from error


def _stream_trouble(error: OSError) -> Exception:
    if isinstance(error, BrokenPipeError) or error.errno == errno.EINVAL:  # Windows says EINVAL
        return Interrupted(_SIGPIPE, hint="whatever read the output has closed it; fetch again, or to a file")
    reason = (error.strerror or type(error).__name__).lower()
    if error.errno in NO_ROOM:
        return DiskFull(
            f"there is no room left where the output goes: {reason}",
            hint="free some space and run it again; a stream is fetched from its beginning",
        )
    return XferError(f"the output cannot be written: {reason}", hint="check where it goes, and fetch again")
