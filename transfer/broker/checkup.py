"""For `xfer doctor`: what the broker sees of its streams, store and clock, and a round trip for a few bytes.

A probe lies at `<prefix>probe/<who>/<slot>`, outside of all jobs: one user has PROBE_SLOTS of them at most. It goes
with `probe_end`, or a day later by the bucket's rules.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
import time
from collections.abc import Callable

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from transfer import api
from transfer.api import ErrorCode
from transfer.broker.job import Refusal
from transfer.broker.keys import PROBES
from transfer.broker.rights import Rights
from transfer.broker.store import Store
from transfer.broker.table import Table, verb
from transfer.errors import XferError

STREAMS = ("KV_xfer_jobs", "KV_xfer_rooms", "xfer_events")
"""Without the first there is no job, without the second no room, without the third nobody can watch a job."""
STREAM_WITHIN, STORE_WITHIN = 2.0, 4.0
"""Seconds; the whole checkup takes no longer than the longer one."""
_CRC32C = re.compile(r"[A-Za-z0-9+/]{6}==")


class Checkup:
    """One method a verb, as in `Verbs`."""

    def __init__(
        self,
        client: Client,
        store: Store,
        rights: Rights,
        *,
        version: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: seconds since 1970."""
        self._client, self._store, self._rights = client, store, rights
        self._version, self._clock = version, clock
        self._name = f"{socket.gethostname()}, process {os.getpid()}"

    def table(self) -> Table:
        return {
            "checkup": verb(api.Checkup, self.checkup),
            "probe": verb(api.Probe, self.probe),
            "probe_end": verb(api.ProbeEnd, self.probe_end),
        }

    async def checkup(self, _user: str, _request: api.Checkup) -> api.CheckupReport:
        store, *streams = await asyncio.gather(self._ask_store(), *map(self._ask_stream, STREAMS))
        return api.CheckupReport(
            version=self._version,
            clock=self._clock(),
            skew=self._store.measured_skew,
            bucket=self._store.bucket,
            store=store,
            streams=dict(zip(STREAMS, streams, strict=True)),
            broker=self._name,
            rights=self._rights.missing,
        )

    async def probe(self, user: str, request: api.Probe) -> api.ProbeUrls:
        fits = 1 <= request.length <= api.MAX_PROBE and _CRC32C.fullmatch(request.crc32c)
        if not fits:
            raise Refusal(ErrorCode.BAD_REQUEST, f"a probe has 1 to {api.MAX_PROBE} bytes and their CRC32C")
        put, get = await self._store.sign_probe(_key(user, request.slot), request.length, request.crc32c)
        return api.ProbeUrls(put, get, self._name)

    async def probe_end(self, user: str, request: api.ProbeEnd) -> api.ProbeEnded:
        await self._store.delete_probe(_key(user, request.slot))
        return api.ProbeEnded()

    async def _ask_store(self) -> str:
        try:
            async with asyncio.timeout(STORE_WITHIN):
                await self._store.check()
        except TimeoutError:
            return "the store does not answer the broker"
        except XferError as error:
            return error.what
        return ""

    async def _ask_stream(self, name: str) -> str:
        try:
            async with asyncio.timeout(STREAM_WITHIN):
                await self._client.jetstream().stream_info(name)
        except NotFoundError:
            return "there is no such stream"
        except (NatsError, OSError, TimeoutError) as error:
            return f"no answer ({type(error).__name__})"
        return ""


def _key(user: str, slot: int) -> str:
    """Without the prefix. A user's name may hold what a key must not."""
    if not 0 <= slot < api.PROBE_SLOTS:
        raise Refusal(ErrorCode.BAD_REQUEST, "there is no such slot")
    return f"{PROBES}{hashlib.sha256(user.encode()).hexdigest()[:16]}/{slot:02d}"
