"""Ending tasks."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN = 10.0
"""Seconds that a task may take to clean up before it is cancelled once more."""


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel them, and wait until each has ended, in whatever way.

    A cancellation gets lost where a library waits with asyncio.wait_for and what it waits for comes in that very
    moment (Python 3.11): such a task goes on as if nothing had been said, so it is said again.
    """
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=AGAIN)
    await asyncio.gather(*tasks, return_exceptions=True)  # whoever wants their errors has looked by now
