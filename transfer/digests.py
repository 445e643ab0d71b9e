"""The digests of a job's frames, 32 bytes each and little more: a job of terabytes has a hundred thousand."""

from __future__ import annotations

import threading
from collections.abc import Iterator, MutableMapping

from transfer.model import FrameId, Kind

SIZE = 32
PAGE = 64
"""Digests that lie together. More would save little, and a peer that names far frames would cost us a page each."""
_NONE = bytes(SIZE)
"""Stands for no digest: nobody has found what BLAKE3 turns into zeros."""


class Digests(MutableMapping[FrameId, bytes]):
    """Digest of the raw bytes of each frame that is known, in the order of kinds and indices.

    Threads may set them at once.
    """

    def __init__(self) -> None:
        self._pages: dict[tuple[Kind, int], bytearray] = {}
        self._counts: dict[Kind, int] = {}
        self._lock = threading.Lock()

    def count(self, kind: Kind) -> int:
        return self._counts.get(kind, 0)

    def __getitem__(self, frame: FrameId) -> bytes:
        number, row = divmod(frame.index, PAGE)
        page = self._pages.get((frame.kind, number), b"")
        digest = bytes(page[row * SIZE : (row + 1) * SIZE])
        if digest in (b"", _NONE):
            raise KeyError(frame)
        return digest

    def __setitem__(self, frame: FrameId, digest: bytes) -> None:
        if len(digest) != SIZE or digest == _NONE:
            raise ValueError("that is no digest")
        self._set(frame, digest)

    def __delitem__(self, frame: FrameId) -> None:
        if frame not in self:
            raise KeyError(frame)
        self._set(frame, _NONE)

    def __iter__(self) -> Iterator[FrameId]:
        for kind, number in sorted(self._pages):
            for index in range(number * PAGE, (number + 1) * PAGE):
                if (frame := FrameId(kind, index)) in self:
                    yield frame

    def __len__(self) -> int:
        return sum(self._counts.values())

    def _set(self, frame: FrameId, digest: bytes) -> None:
        number, row = divmod(frame.index, PAGE)
        with self._lock:
            page = self._pages.setdefault((frame.kind, number), bytearray(PAGE * SIZE))
            self._counts[frame.kind] = self.count(frame.kind) + (digest != _NONE) - (frame in self)
            page[row * SIZE : (row + 1) * SIZE] = digest
