"""One run of a scope at a time on this host. A scope is a room, and the folder whose files go there."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from blake3 import blake3

from transfer.errors import Locked
from transfer.lock import FileLock

LOOK_AGAIN = 0.5
"""Seconds between looks at a lock that another run holds."""


def lock_path(locks: Path, room: str, root: str) -> Path:
    """What the run of a scope holds."""
    scope = blake3(os.fsencode(room) + b"\0" + os.fsencode(root)).hexdigest()
    return locks / f"batch-{scope[:32]}.lock"


@contextlib.asynccontextmanager
async def alone(
    path: Path, what: str, *, wait: bool, on_wait: Callable[[str], object] = lambda _what: None
) -> AsyncIterator[None]:
    """Hold the lock of a scope. Raises Locked if another run does, unless it is to be waited for; then `on_wait` is told."""
    told = False
    while True:
        try:
            lock = FileLock(path, what)
            break
        except Locked as locked:
            if not wait:
                raise
            if not told:
                on_wait(f"{locked.what}; waiting for its end")
            told = True
        await asyncio.sleep(LOOK_AGAIN)
    with lock:
        yield
