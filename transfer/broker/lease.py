"""A lease: what only one broker does at a time, and another one soon when that one is gone.

One key in a JetStream KV bucket. Whoever makes it has the lease, and renews it by compare-and-set; the server forgets
the key when it was not renewed for its life, by the server's clock, so that no broker's clock counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import Header
from nats.js.kv import KV_DEL, KV_OP

from transfer.broker.kv import Bucket
from transfer.errors import XferError
from transfer.tasks import AGAIN_SOON, ended

log = logging.getLogger(__name__)

BUCKET = "xfer_lease"
LIFE = 10.0
"""Seconds after which a lease that was not renewed is anybody's."""


class Lease:
    """name: the key, what is leased. life: seconds; all leases of a bucket have the same."""

    def __init__(self, client: Client, name: str, *, replicas: int = 1, life: float = LIFE) -> None:
        self._client, self._name, self._replicas, self._life = client, name, replicas, life
        self._me = secrets.token_hex(8)
        self._said = ""

    async def keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` whenever we have the lease, for as long as we have it; until cancelled.

        work: runs until it is cancelled, which happens in time: before another broker can have the lease.
        """
        while True:
            try:
                about = "who does what only one broker does at a time"
                kv = await Bucket.attach(self._client, BUCKET, about, self._replicas, life=self._life)
                await self._hold(kv, work)
            except (XferError, NatsError, OSError) as error:
                self._say(error)
            await asyncio.sleep(self._life / 3)

    async def _hold(self, kv: Bucket, work: Callable[[], Awaitable[None]]) -> None:
        asked = time.monotonic()
        made = await kv.create(self._name, self._me.encode())
        if made is None:
            return  # another broker's
        revision = made
        log.info("has the lease %s", self._name)
        self._said = ""
        working = asyncio.ensure_future(work())
        try:
            while not working.done():
                await asyncio.wait({working}, timeout=self._life / 3)
                # Counted from before the request: the server's count began later.
                left = asked + self._life * 0.9 - time.monotonic()
                asked_again = time.monotonic()
                try:
                    async with asyncio.timeout(max(0.0, left)):
                        renewed = await self._renew(kv, revision)
                except TimeoutError:
                    renewed = None
                if renewed is None:
                    log.warning("lost the lease %s", self._name)
                    return
                revision, asked = renewed, asked_again
            working.result()
        finally:
            await ended(working, again=AGAIN_SOON)
            await self._release(kv, revision)

    async def _renew(self, kv: Bucket, revision: int) -> int | None:
        """The new revision, however often it must be tried; None if it is another's."""
        while True:
            try:
                renewed = await kv.update(self._name, self._me.encode(), revision)
                if renewed is not None:
                    return renewed
                # Perhaps a renewal of ours whose answer was lost.
                entry = await kv.get(self._name)
                if entry is None or entry.value != self._me.encode() or entry.revision == revision:
                    return None
                revision = entry.revision
            except (NatsError, OSError):
                await asyncio.sleep(self._life / 20)

    async def _release(self, kv: Bucket, revision: int) -> None:
        """So that another broker need not wait; if that fails, it waits."""
        latest = {KV_OP: KV_DEL, Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revision)}
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await kv.put(self._name, b"", latest)

    def _say(self, error: Exception) -> None:
        """Each new reason once."""
        said = error.what if isinstance(error, XferError) else type(error).__name__
        if said != self._said:
            log.warning("the lease %s cannot be had: %s", self._name, said)
        self._said = said
