"""Memory for sealed frames that is used again: fresh memory is cleared by the kernel, and by Python once more.

That is a tenth of all that a sender of incompressible files computes.
"""

from __future__ import annotations

import threading

KEPT = 64 << 20
"""Bytes that are kept, at most."""
SMALL = 1 << 16
"""Bytes below which memory is cheap."""
FITS = 1.125
"""A buffer is used for what is shorter, but not if it would be so many times too long."""


class Buffers:
    """Buffers for whoever asks, in threads; what nobody has a view of any more is handed out again."""

    def __init__(self) -> None:
        self._kept: list[bytearray] = []
        self._bytes = 0
        self._lock = threading.Lock()

    def take(self, length: int) -> memoryview:
        """That many bytes, with anything in them. They are the caller's as long as a view of them is there."""
        if length < SMALL:
            return memoryview(bytearray(length))
        with self._lock:
            for buffer in self._kept:
                if length <= len(buffer) <= FITS * length and _is_free(buffer):
                    return memoryview(buffer)[:length]
            self._make_room(length)
            buffer = bytearray(length)
            if self._bytes + length <= KEPT:
                self._kept.append(buffer)
                self._bytes += length
            return memoryview(buffer)

    def _make_room(self, length: int) -> None:
        """Of lengths that are not asked for any more."""
        for buffer in [b for b in self._kept if self._bytes + length > KEPT and _is_free(b)]:
            if self._bytes + length <= KEPT:
                return
            self._kept.remove(buffer)
            self._bytes -= len(buffer)


def _is_free(buffer: bytearray) -> bool:
    """A bytearray that somebody views cannot be resized."""
    try:
        last = buffer.pop()
    except BufferError:
        return False
    buffer.append(last)
    return True
