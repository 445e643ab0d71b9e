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
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import BadRequestError, BucketNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from transfer.broker.streams import NAME_IN_USE, keep_right, needs_cluster, raise_replicas
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
                kv = await self._bucket()
                await self._hold(kv, work)
            except (XferError, NatsError, OSError) as error:
                self._say(error)
            await asyncio.sleep(self._life / 3)

    async def _hold(self, kv: KeyValue, work: Callable[[], Awaitable[None]]) -> None:
        asked = time.monotonic()
        try:
            revision = await kv.create(self._name, self._me.encode())
        except KeyWrongLastSequenceError:
            return  # another broker's
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
                        revision = await self._renew(kv, revision)
                except (TimeoutError, KeyWrongLastSequenceError):
                    log.warning("lost the lease %s", self._name)
                    return
                asked = asked_again
            working.result()
        finally:
            await ended(working, again=AGAIN_SOON)
            await self._release(kv, revision)

    async def _renew(self, kv: KeyValue, revision: int) -> int:
        """The new revision, however often it must be tried. Raises KeyWrongLastSequenceError if it is another's."""
        while True:
            try:
                return await kv.update(self._name, self._me.encode(), last=revision)
            except KeyWrongLastSequenceError:
                # Perhaps a renewal of ours whose answer was lost.
                entry = await kv.get(self._name)
                if entry.value != self._me.encode() or entry.revision == revision:
                    raise
                revision = entry.revision or 0
            except (NatsError, OSError):
                await asyncio.sleep(self._life / 20)

    async def _release(self, kv: KeyValue, revision: int) -> None:
        """So that another broker need not wait; if that fails, it waits."""
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await kv.delete(self._name, last=revision)

    async def _bucket(self) -> KeyValue:
        jetstream = self._client.jetstream()
        try:
            kv = await jetstream.key_value(BUCKET)
        except BucketNotFoundError:
            config = KeyValueConfig(
                bucket=BUCKET,
                description="who does what only one broker does at a time",
                history=1,
                ttl=self._life,
                storage=StorageType.FILE,
                replicas=self._replicas,
            )
            try:
                with needs_cluster(self._replicas):
                    kv = await jetstream.create_key_value(config)
            except BadRequestError as error:
                if error.err_code != NAME_IN_USE:
                    raise
                kv = await jetstream.key_value(BUCKET)
        await keep_right(jetstream, f"KV_{BUCKET}", max_age=self._life)
        await raise_replicas(jetstream, f"KV_{BUCKET}", self._replicas)
        return kv

    def _say(self, error: Exception) -> None:
        """Each new reason once."""
        said = error.what if isinstance(error, XferError) else type(error).__name__
        if said != self._said:
            log.warning("the lease %s cannot be had: %s", self._name, said)
        self._said = said
