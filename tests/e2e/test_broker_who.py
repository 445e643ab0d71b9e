"""Who may ask the broker for what, and where the answers go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import nats.errors
import pytest
from broker_asked import NOT_FOUND
from brokers import Job, ask  # fmt: skip
from nats.aio.client import Client

from transfer import api, bus
from transfer.api import JobState
from transfer.broker.records import Records

TO_SIGN = api.PartToSign(1, 1, "AAAAAA==")
THERE = api.StoredPart(1, "e", 1, "")


async def test_wrong_token_foreign_job_unknown_job_and_expired_job_are_told_the_same(
    job: Job, client: Client, records: Records
) -> None:
    unknown = Job(client)
    expired = Job(client)
    await expired.create()
    await records.change(expired.id, lambda r: msgspec.structs.replace(r, expires=time.time() - 1))
    answers = [
        await job.open(token="0" * 64),
        await unknown.open(),
        await expired.open(),
        await job.status(user="bob"),
        await unknown.status(),
        await expired.status(),
        await job.begin(user="bob"),
        await expired.segments(),
        await expired.gets(0),
        await expired.receipt("me"),
        await expired.begin(),
    ]
    assert answers == [NOT_FOUND] * len(answers)


@pytest.mark.parametrize(
    ("verb", "request_of"),
    [
        ("begin", lambda job: api.Begin(job=job, segment=0)),
        ("sign_parts", lambda job: api.SignParts(job=job, segment=0, upload="u", parts=[TO_SIGN])),
        ("list_parts", lambda job: api.ListParts(job=job, segment=0, upload="u")),
        ("complete", lambda job: api.Complete(job=job, segment=0, upload="u", parts=[THERE], index=1)),
        ("finish", lambda job: api.Finish(job=job, outcome=JobState.VOID)),
        ("status", lambda job: api.Status(job=job)),
    ],
)  # fmt: skip
async def test_only_the_owner_may(
    job: Job, client: Client, verb: str, request_of: Callable[[str], api.Request]
) -> None:
    assert await ask(client, verb, request_of(job.id), api.Done, user="bob") == NOT_FOUND


async def test_anyone_with_the_ticket_may_open(job: Job) -> None:
    opened = await job.open(user="bob")
    assert (opened.owner, opened.state, opened.size) == ("alice", JobState.OPEN, 1)


@pytest.mark.parametrize("reply", ["elsewhere.1", "_INBOX_bob.1", "_INBOX_alice2.1", "xfer.events.bob.x"])
async def test_an_answer_goes_to_the_users_own_inbox_or_nowhere(job: Job, client: Client, reply: str) -> None:
    heard = await client.subscribe(reply)
    await client.publish(bus.api_subject("alice", "info"), b'{"v":1}', reply=reply)
    with pytest.raises(nats.errors.TimeoutError):
        await heard.next_msg(timeout=0.3)


async def test_a_reply_subject_cannot_make_the_broker_purge_its_records(job: Job, client: Client) -> None:
    reply = "$JS.API.STREAM.PURGE.KV_xfer_jobs"
    await client.publish(bus.api_subject("alice", "info"), b'{"v":1}', reply=reply)
    await asyncio.sleep(0.2)
    assert isinstance(await job.status(), api.JobStatus)
