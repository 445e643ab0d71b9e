"""A job with stored segments, made through a broker as a sender makes it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import google_crc32c
import urllib3

from transfer import api
from transfer.broker_client import BrokerClient, Patience, connected
from transfer.config import Context
from transfer.seal import Sealer
from transfer.ticket import Ticket

BODY = b"a part of a segment"
HTTP = urllib3.PoolManager(retries=False, maxsize=8)


@asynccontextmanager
async def stored_job(
    url: str, seed: Path, user: str, segments: int
) -> AsyncIterator[tuple[BrokerClient, Sealer]]:
    """A job of so many segments of a part each, as its owner sees it."""
    context = Context(name="bench", nats_url=url, nats_creds=seed, user=user)
    async with connected(context, "bench", Patience(20)) as (_, broker):
        ticket = Ticket.new()
        sealer = Sealer(ticket)
        size = segments * len(BODY)
        await broker.create(
            api.Create(job=ticket.job, token_hash=sealer.token_hash(), size=size, expire=3600.0)
        )
        for segment in range(segments):
            await _store(broker, ticket.job, segment)
        await broker.finish(ticket.job, api.JobState.STORED, segments)
        yield broker, sealer


async def _store(broker: BrokerClient, job: str, segment: int) -> None:
    crc = base64.b64encode(google_crc32c.value(BODY).to_bytes(4, "big")).decode()
    upload = await broker.begin(job, segment)
    part = api.PartToSign(1, len(BODY), crc)
    signed = await broker.sign_part(job, segment, upload, part)

    def put() -> urllib3.BaseHTTPResponse:
        return HTTP.request("PUT", signed.url, body=BODY, headers=signed.headers)

    answer = await asyncio.to_thread(put)
    if answer.status != 200:
        raise OSError(f"the store answers {answer.status}")
    stored = api.StoredPart(1, answer.headers["ETag"].strip('"'), len(BODY), crc)
    await broker.complete(job, segment, upload, [stored], index=1)
