"""Ending tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

AGAIN = 10.0
"""Seconds that a task may take to clean up before it is cancelled once more."""

AGAIN_SOON = 2.0
"""The same for what runs in the background and has little to clean up."""


async def ended(*tasks: asyncio.Future[Any], again: float | None = None) -> None:
    """Cancel them, and wait until each has ended, in whatever way. again: seconds, in place of AGAIN.

    A cancellation gets lost where a library waits with asyncio.wait_for and what it waits for comes in that very
    moment (Python 3.11): such a task goes on as if nothing had been said, so it is said again. Whoever is cancelled
    while waiting here leaves none behind, either: that is raised once they have ended.
    """
    stopped: asyncio.CancelledError | None = None
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=again or AGAIN)
        except asyncio.CancelledError as cancelled:
            stopped = cancelled
    await asyncio.gather(*tasks, return_exceptions=True)  # whoever wants their errors has looked by now
    if stopped is not None:
        raise stopped


async def together(*work: Coroutine[Any, Any, object]) -> None:
    """Run all of this until one of it fails or we are cancelled; then none of it goes on.

    As asyncio.gather, but a cancellation that one of them loses (see `ended`) is said to it again.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await ended(*tasks, again=AGAIN_SOON)
