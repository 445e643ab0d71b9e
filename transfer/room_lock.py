"""A lock among all hosts of a room's members, which the broker keeps and its holder renews."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from transfer.errors import Locked, Temporary, XferError
from transfer.tasks import ended

LIFE = 60.0
"""Seconds that it is kept for a host that says nothing any more."""
OURS = 0.7
"""The part of it that we count on after having asked: the rest is for a checkpoint, before it is anybody's."""
LETTING_GO = 2.0
"""Seconds that giving it back may take."""


@contextlib.asynccontextmanager
async def held(
    ask: Callable[[float], Awaitable[bool]],
    name: str,
    *,
    wait: bool,
    on_wait: Callable[[str], object] = lambda _what: None,
) -> AsyncIterator[None]:
    """Be the only one that does `name`, while the block runs.

    It is cancelled, and ends as Locked, if the lock was lost: nobody could be asked for LIFE seconds. Of a host
    that died it is anybody's as late.

    Args:
        ask: whether it is ours for so many seconds from now on; 0 gives it back. Raises XferError.
        wait: for whoever has it. Raises Locked if it is not to be waited for.
        on_wait: told once if it is.
    """
    told = False
    while not await ask(LIFE):
        locked = f"another host does {name} in this room"
        if not wait:
            raise Locked(locked)
        if not told:
            on_wait(f"{locked}; waiting for its end")
        told = True
        await asyncio.sleep(LIFE / 20)
    lost = False
    doing = asyncio.current_task()
    assert doing is not None

    async def keep() -> None:
        nonlocal lost
        until = time.monotonic() + LIFE * OURS
        while not lost:
            await asyncio.sleep(LIFE / 4)
            asking = time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, until - asking)):
                    lost = not await ask(LIFE)
                    until = asking + LIFE * OURS
            except Temporary:
                lost = time.monotonic() >= until
            except (TimeoutError, XferError):
                lost = True
        doing.cancel()

    keeping = asyncio.create_task(keep())
    try:
        yield
    except asyncio.CancelledError:
        if lost and doing.uncancel() == 0:
            raise Locked(
                f"the lock on {name} was lost, as the broker could not be reached", hint="run it again"
            ) from None
        raise
    finally:
        await ended(keeping)
        with contextlib.suppress(XferError, TimeoutError):
            async with asyncio.timeout(LETTING_GO):
                await ask(0.0)
