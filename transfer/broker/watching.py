"""A broker that is observed: its metrics on a port, and now and then a look at what waits in the streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from transfer.broker.observer import SILENT, Observer, QuotaUse
from transfer.errors import XferError

LOOK_EVERY = 10.0
"""Seconds between two looks at the streams."""
Used = Callable[[], Awaitable[Iterable[QuotaUse]]]
QUEUES = ("xfer_work", "xfer_dead")


@contextlib.asynccontextmanager
async def observed(port: int, version: str) -> AsyncIterator[Observer]:
    """Who counts, and shows what it counted at a loopback port for as long as the block lasts; 0: nobody does.

    Raises UsageError if the port cannot be had.
    """
    if not port:
        yield SILENT
        return
    from transfer.broker.metrics import CONTENT_TYPE, Metrics  # 90 ms, for those who want it
    from transfer.broker.metrics_http import serving

    metrics = Metrics(version)

    def health() -> tuple[int, str, bytes]:
        trouble = metrics.trouble
        return 503 if trouble else 200, "text/plain", f"{trouble or 'ok'}\n".encode()

    pages = {"/metrics": lambda: (200, CONTENT_TYPE, metrics.text()), "/healthz": health}
    async with serving(port, pages):
        yield metrics


async def keep_looking(client: Client, observer: Observer, used: Used | None = None) -> None:
    """Tell what waits in the streams, what is used of quotas, and whether NATS is there, until cancelled.

    used: asks for the latter; what it raises of our own errors only delays the next look.
    """
    if observer is SILENT:
        return
    observer.reach(lambda: client.is_connected)
    jetstream = client.jetstream()
    while True:
        for stream in QUEUES:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                observer.stream(stream, await _waiting(jetstream, stream))
        if used is not None:
            with contextlib.suppress(XferError, msgspec.MsgspecError):
                observer.quotas(list(await used()).copy)
        await asyncio.sleep(LOOK_EVERY)


async def _waiting(jetstream: JetStreamContext, stream: str) -> int | None:
    try:
        return int((await jetstream.stream_info(stream)).state.messages)
    except NotFoundError:
        return None
