"""How this process keeps memory: it moves buffers of megabytes, over and over, for as long as it lives."""

from __future__ import annotations

import gc
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_MIB = 1 << 20
_MMAP_THRESHOLD = 32 * _MIB
"""More is refused before glibc 2.35, and no buffer of ours is larger. Source: mallopt(3), malloc.h."""


def settle() -> None:
    """Keep freed buffers for the next ones, and what is imported by now out of the collector's sight.

    As it comes, glibc gives a freed buffer of megabytes back to the kernel, which then clears every page of the
    next one: a third of all processor time of a transfer. One arena, because threads would each keep their own.
    """
    gc.freeze()
    if sys.platform != "linux":
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 256 * _MIB)
        mallopt(_M_TOP_PAD, 16 * _MIB)
