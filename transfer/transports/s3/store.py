"""Requests to the store: signed by the broker just before they are sent, made in threads, retried with patience."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from transfer import api
from transfer.broker_client import Patience
from transfer.bwlimit import BwLimit
from transfer.errors import StoreUnreachable
from transfer.hold import Hold
from transfer.model import Bytes
from transfer.transports.s3.gate import Gate
from transfer.transports.s3.http import Moved, SignatureRefused, SlowDown, StoreHttp
from transfer.transports.s3.pace import Pace

TICK = 0.25
"""Seconds between two looks at how fast it goes."""
Result = TypeVar("Result")
Sign = Callable[[api.SignedUrl | None], Coroutine[Any, Any, api.SignedUrl]]
"""Gets a URL, other than the one that was refused, if one was."""


class Store:
    """HTTP to the store from threads, as many at once as the pace allows.

    A URL is asked for before a request's turn has come, so that nobody waits for the broker with a free connection.
    """

    def __init__(
        self,
        patience: Patience,
        pace: Pace,
        limit: BwLimit | None = None,
        hold: Hold | None = None,
        *,
        ca: Path | None = None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """on_tick: called several times a second from the first request on.

        hold: during its pauses nothing is sent; what was half sent raises JobPaused then. ca: as of `StoreHttp`.
        """
        self.pace = pace
        self._patience = patience
        self._http = StoreHttp(pace.most, limit, hold, ca)
        self._threads = ThreadPoolExecutor(pace.most, thread_name_prefix="store")
        self._gate = Gate(lambda inside: inside <= pace.limit)
        self._on_tick = on_tick
        self._ticking: asyncio.Task[None] | None = None

    def expect(self, origin: str, requests: int) -> None:
        """Have connections there for so many requests to come, or for as many as may run at once.

        origin: scheme, host and port; empty: unknown, nothing is done.
        """
        if origin:
            for _ in range(min(requests, self.pace.limit)):
                self._threads.submit(self._http.connect, origin)

    async def put(self, sign: Sign, body: Sequence[Bytes], moved: Moved | None = None) -> str:
        return await self._signed(sign, sum(map(len, body)), lambda url: self._http.put(url, body, moved))

    async def get(self, sign: Sign, start: int, length: int, moved: Moved | None = None) -> bytes:
        """`sign` remembers URLs that many requests share: one of them has it renewed for all that wait."""
        request = functools.partial(self._http.get, start=start, length=length, moved=moved)
        return await self._signed(sign, length, request, shared=True)

    async def _signed(
        self, sign: Sign, length: int, request: Callable[[api.SignedUrl], Result], *, shared: bool = False
    ) -> Result:
        """A refused signature is renewed and tried once more; an outage is ridden out."""
        self._ticking = self._ticking or asyncio.create_task(self._tick())
        async for attempt in self._patience.retrying(StoreUnreachable):
            with attempt:
                url = await sign(None)
                async with self._gate.entered():
                    url = await sign(None) if shared else url
                    try:
                        return await self._timed(url, length, request)
                    except SignatureRefused:  # it may have expired while it waited for its turn
                        return await self._timed(await sign(url), length, request)
        raise AssertionError("retrying ends with a result or an error")

    async def _timed(
        self, url: api.SignedUrl, length: int, request: Callable[[api.SignedUrl], Result]
    ) -> Result:
        began = time.monotonic()
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._threads, request, url)
        except SlowDown:
            self.pace.slow_down(began, time.monotonic())
            raise
        self.pace.done(length, time.monotonic() - began)
        return result

    def hurry(self, *, anew: bool = False) -> None:
        """What is under way is waited for. anew: as of `NetworkPath.hurry`."""
        self._http.path.hurry(anew=anew)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            http, waiting = self._http, self._gate.waiting
            self.pace.tick(http.moved, time.monotonic(), waiting=waiting, full=http.path.full())
            self._on_tick()

    def close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        self._http.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
