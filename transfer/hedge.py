"""Asking again before the first answer is given up: a broker that died with our request in hand says nothing.

Brokers acknowledge no request before they answer it, so a silent one may be dead, or wait for a slow store. Asked again,
any of them may take the copy; every request is idempotent, and the first answer counts. So as not to make a slow broker
slower still:

- at most `COPIES` of a request are under way, and each waits twice as long as the one before;
- if the first copy answers after all, asking again was in vain, and for the next requests we wait twice as long, up to
  the whole time: a slow store soon gets each request once. What is answered without a copy brings the wait down again;
- a broker that has the same request in hand twice asks the store once (`transfer.broker.joined`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from transfer.errors import BrokerAbsent

Answer = TypeVar("Answer")

FIRST_WAIT = 2.0
"""Seconds; brokers answer in milliseconds, and a busy machine in less than this."""
COPIES = 3
AGAIN_AFTER_ABSENCE = 0.5
"""Seconds before a copy that met no broker is sent once more; the first may be in the hands of one that is leaving."""


class Hedge:
    """What one client has learned about how long its brokers take. within: seconds for a whole request."""

    def __init__(self, within: float) -> None:
        self._within, self.wait = within, FIRST_WAIT

    async def ask(self, ask: Callable[[float], Awaitable[Answer]]) -> Answer:
        """The first answer or failure of any copy; that no broker is there (BrokerAbsent) counts only of the first.

        ask: sends one copy, and waits for its answer so many seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._within

        async def send() -> Answer:
            return await ask(max(0.1, deadline - loop.time()))

        async def send_copy() -> Answer:
            while True:
                try:
                    return await send()
                except BrokerAbsent:
                    if loop.time() + AGAIN_AFTER_ABSENCE >= deadline:
                        raise
                await asyncio.sleep(AGAIN_AFTER_ABSENCE)

        first = asyncio.ensure_future(send())
        under_way = {first}
        wait = self.wait
        try:
            while True:
                due = wait if len(under_way) < COPIES else None
                done, _ = await asyncio.wait(under_way, timeout=due, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    self._learn(in_vain=first in done and len(under_way) > 1, alone=len(under_way) == 1)
                    return (first if first in done else done.pop()).result()
                under_way.add(asyncio.ensure_future(send_copy()))
                wait *= 2
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _learn(self, *, in_vain: bool, alone: bool) -> None:
        if in_vain:
            self.wait = min(self._within, 2 * self.wait)
        elif alone:
            self.wait = max(FIRST_WAIT, self.wait * 0.9)
