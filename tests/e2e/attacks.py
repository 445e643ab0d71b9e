"""What a user of the bus tries with a raw NATS client against another one; each try must be refused by the server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from transfer import api, bus
from transfer.permissions import BUCKETS

SOON = 30.0
JOB = "q" * 16


def published(me: str, victim: str) -> list[str]:
    """Subjects on which `me` must not be able to say anything."""
    return [
        *(f"xfer.api.{victim}.{verb}" for verb in ("info", "create", "status", "finish")),
        f"xfer.events.{victim}.{JOB}",
        *(f"xfer.control.{whose}.{JOB}" for whose in (victim, me)),
        *(f"{bus.inbox_prefix(whose)}.answer" for whose in (victim, "broker")),
        "$JS.API.INFO",
        "$JS.API.STREAM.LIST",
        *(f"$JS.API.STREAM.{what}.KV_xfer_jobs" for what in ("INFO", "MSG.GET", "PURGE", "DELETE")),
        f"$JS.API.DIRECT.GET.KV_xfer_jobs.$KV.xfer_jobs.{JOB}",
        *(f"$JS.API.STREAM.{what}.KV_xfer_rooms" for what in ("INFO", "MSG.GET", "PURGE", "DELETE")),
        f"$JS.API.DIRECT.GET.KV_xfer_rooms.$KV.xfer_rooms.r.{JOB}",
        f"$JS.API.CONSUMER.CREATE.KV_xfer_rooms.mine.$KV.xfer_rooms.r.{JOB}",
        "$JS.API.CONSUMER.CREATE.xfer_events",
        f"$JS.API.CONSUMER.CREATE.KV_xfer_jobs.mine.$KV.xfer_jobs.{JOB}",
        "$JS.ACK.KV_xfer_jobs.mine.1.1.1.1.1",
        *(f"$KV.{bucket}.{JOB}" for bucket in BUCKETS),
        "xfer.work.abort",
        "xfer.dead.abort",
        "xfer.pages.x.ann.1",
        "$SRV.PING",
        "$SRV.INFO.xfer",
        "$SYS.REQ.SERVER.PING",
        "anything",
    ]


def heard(victim: str) -> list[tuple[str, str]]:
    """Subjects, with a queue group or none, at which nobody but the owner may listen."""
    plain = [
        ">",
        "*",
        "xfer.>",
        "xfer.api.>",
        "xfer.api.*.*",
        f"xfer.api.{victim}.*",
        "_INBOX.>",
        f"{bus.inbox_prefix(victim)}.>",
        f"{bus.inbox_prefix('broker')}.>",
        *(f"xfer.{what}.{whose}.>" for what in ("peer", "events", "control") for whose in (victim, "*")),
        f"xfer.peer.*.{JOB}",
        "$JS.>",
        "$KV.>",
        "$KV.xfer_rooms.>",
        "$SRV.>",
        "$SYS.>",
        "xfer.work.>",
        "xfer.dead.>",
        "xfer.pages.>",
    ]
    return [*((subject, "") for subject in plain), ("xfer.api.>", "xfer"), (f"xfer.api.{victim}.*", "xfer")]


@dataclass
class Raw:
    """A raw NATS client that notes what it is refused."""

    user: str
    client: Client
    refused: list[str] = field(default_factory=list)

    async def say(self, subject: str) -> bool:
        """Publish; whether the server refused it."""
        await self.client.publish(subject, b"{}")
        return await self._is_refused(f'permissions violation for publish to "{subject}"')

    async def listen(self, subject: str, queue: str) -> bool:
        """Subscribe; whether the server refused it."""
        await self.client.subscribe(subject, queue=queue)
        using = f' using queue "{queue}"' if queue else ""
        return await self._is_refused(f'permissions violation for subscription to "{subject}"{using}')

    async def ask(self, verb: str, request: api.Request) -> Msg:
        return await self.client.request(
            bus.api_subject(self.user, verb), msgspec.json.encode(request), timeout=SOON
        )

    async def _is_refused(self, how: str) -> bool:
        await self.client.flush(timeout=int(SOON))  # a refusal comes before the answer to this
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if any(said.endswith(how.lower()) for said in self.refused):
                return True
            await asyncio.sleep(0.01)
        return False


@contextlib.asynccontextmanager
async def raw(url: str, user: str, creds: Path) -> AsyncIterator[Raw]:
    """Once the server answers. creds: a .creds file, or one with a seed."""
    known = {"user_credentials": creds} if creds.suffix == ".creds" else {"nkeys_seed": creds}
    refused: list[str] = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error).lower())

    client = await nats.connect(
        url,
        **known,
        inbox_prefix=bus.inbox_prefix(user).encode(),
        error_cb=on_error,
        connect_timeout=10,
        reconnect_time_wait=0.2,  # also between tries to connect at all
        max_reconnect_attempts=300,
    )
    try:
        yield Raw(user, client, refused)
    finally:
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await client.close()


async def everything_is_refused(me: Raw, victim: Raw) -> None:
    """Try all of it while the victim listens where it may, and has a job; nothing reaches it and nothing changes."""
    got: list[str] = []

    async def take(message: Msg) -> None:
        got.append(message.subject)

    for subject in (
        f"xfer.events.{victim.user}.>",
        f"xfer.control.{victim.user}.>",
        f"_INBOX_{victim.user}.>",
    ):
        await victim.client.subscribe(subject, cb=take)
    await victim.client.flush()
    said = [subject for subject in published(me.user, victim.user) if not await me.say(subject)]
    listened = [place for place in heard(victim.user) if not await me.listen(*place)]
    assert (said, listened) == ([], [])
    # What it may do works all the while, so that the refusals above are no broken connection.
    answer = await me.ask("info", api.Info())
    assert msgspec.json.decode(answer.data, type=api.BrokerInfo).bucket
    await victim.client.flush()
    assert got == []
