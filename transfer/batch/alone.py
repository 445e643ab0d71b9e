"""One run of a scope at a time on this host. A scope is a room, and the folder whose files go there."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
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
async def alone(path: Path, what: str, *, wait: bool) -> AsyncIterator[None]:
    """Hold the lock of a scope. Raises Locked if another run does, unless it is to be waited for."""
    while True:
        try:
            lock = FileLock(path, what)
            break
        except Locked:
            if not wait:
                raise
        await asyncio.sleep(LOOK_AGAIN)
    with lock:
        yield
