"""Requests to the store: signed by the broker just before they are sent, made in threads, retried with patience."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from transfer import api
from transfer.broker_client import Patience
from transfer.errors import StoreUnreachable
from transfer.transports.s3.http import SignatureRefused, StoreHttp

CONCURRENCY = 4
Result = TypeVar("Result")
Sign = Callable[[bool], Coroutine[Any, Any, api.SignedUrl]]
"""Gets a URL; the argument says that the last one was refused and must not come from a cache."""


class Store:
    """HTTP to the store from threads, each request signed just before it is sent."""

    def __init__(self, patience: Patience, concurrency: int) -> None:
        self._patience = patience
        self._http = StoreHttp(concurrency)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="store")

    async def put(self, sign: Sign, body: bytes) -> str:
        return await self._signed(sign, lambda url: self._http.put(url, body))

    async def get(self, sign: Sign, start: int, length: int) -> bytes:
        return await self._signed(sign, lambda url: self._http.get(url, start, length))

    async def _signed(self, sign: Sign, request: Callable[[api.SignedUrl], Result]) -> Result:
        """A refused signature is renewed and tried once more; an outage is ridden out."""
        loop = asyncio.get_running_loop()
        async for attempt in self._patience.retrying(StoreUnreachable):
            with attempt:
                try:
                    return await loop.run_in_executor(self._threads, request, await sign(False))
                except SignatureRefused:
                    return await loop.run_in_executor(self._threads, request, await sign(True))
        raise AssertionError("retrying ends with a result or an error")

    def close(self) -> None:
        self._http.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
