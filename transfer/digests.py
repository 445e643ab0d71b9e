"""The digests of a job's frames, 32 bytes each and little more: a job of terabytes has a hundred thousand."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

from transfer.model import FrameId, Kind

SIZE = 32
_NONE = bytes(SIZE)
"""Stands for no digest: nobody has found what BLAKE3 turns into zeros."""


class Digests(MutableMapping[FrameId, bytes]):
    """Digest of the raw bytes of each frame that is known, in the order of kinds and indices."""

    def __init__(self) -> None:
        self._rows: dict[Kind, bytearray] = {}
        self._counts: dict[Kind, int] = {}

    def count(self, kind: Kind) -> int:
        return self._counts.get(kind, 0)

    def __getitem__(self, frame: FrameId) -> bytes:
        digest = bytes(self._rows.get(frame.kind, b"")[frame.index * SIZE : (frame.index + 1) * SIZE])
        if digest in (b"", _NONE):
            raise KeyError(frame)
        return digest

    def __setitem__(self, frame: FrameId, digest: bytes) -> None:
        if len(digest) != SIZE or digest == _NONE:
            raise ValueError("that is no digest")
        rows = self._rows.setdefault(frame.kind, bytearray())
        start = frame.index * SIZE
        if len(rows) < start + SIZE:
            rows.extend(bytes(start + SIZE - len(rows)))
        self._counts[frame.kind] = self.count(frame.kind) + (frame not in self)
        rows[start : start + SIZE] = digest

    def __delitem__(self, frame: FrameId) -> None:
        if frame not in self:
            raise KeyError(frame)
        self._rows[frame.kind][frame.index * SIZE : (frame.index + 1) * SIZE] = _NONE
        self._counts[frame.kind] -= 1

    def __iter__(self) -> Iterator[FrameId]:
        for kind in sorted(self._rows):
            for index in range(len(self._rows[kind]) // SIZE):
                if (frame := FrameId(kind, index)) in self:
                    yield frame

    def __len__(self) -> int:
        return sum(self._counts.values())
