"""Bad requests get typed refusals."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from brokers import (
    Job,
    Place,
    answers,
    broker_process,
    code,
    connected,
    free_port,
    nats_server,
    raw,
)  # fmt: skip
from nats.aio.client import Client

from transfer import api
from transfer.api import ErrorCode
from transfer.broker.records import Records

JOB = "q" * 16
GOOD = {"v": 1, "job": JOB}
PART = {"number": 1, "length": 1, "crc32c": "AAAAAA=="}
SIGN = {**GOOD, "segment": 0, "upload": "u"}
STORED = {**PART, "etag": "e"}
CREATE = {**GOOD, "token_hash": "0" * 64, "size": 1, "expire": 60.0}
HELD = {**GOOD, "token": "t"}


@pytest.mark.parametrize(
    ("verb", "request_", "code"),
    [
        ("create", b"", ErrorCode.BAD_REQUEST),
        ("create", b"\xff\xfe{", ErrorCode.BAD_REQUEST),
        ("create", b"[" * 100_000, ErrorCode.BAD_REQUEST),
        ("create", {"v": 1}, ErrorCode.BAD_REQUEST),
        ("create", {**CREATE, "v": 2, "job": []}, ErrorCode.VERSION),
        ("create", {**CREATE, "v": "1"}, ErrorCode.BAD_REQUEST),
        ("create", {**CREATE, "job": "../../etc/passwd"}, ErrorCode.BAD_REQUEST),
        ("create", {**CREATE, "job": "*"}, ErrorCode.BAD_REQUEST),
        ("create", {**CREATE, "token_hash": "short"}, ErrorCode.BAD_REQUEST),
        ("create", {**CREATE, "size": -1}, ErrorCode.BAD_REQUEST),
        ("create", {**CREATE, "size": 1 << 63}, ErrorCode.BAD_REQUEST),
        ("create", {**CREATE, "expire": 0}, ErrorCode.BAD_REQUEST),
        ("create", {**CREATE, "expire": 1e300}, ErrorCode.BAD_REQUEST),
        ("create", {**CREATE, "fetches": 0}, ErrorCode.BAD_REQUEST),
        ("create", {**CREATE, "fetches": 1001}, ErrorCode.BAD_REQUEST),
        ("open", {**HELD, "token": "t" * 257}, ErrorCode.BAD_REQUEST),
        ("begin", {**GOOD, "segment": -1}, ErrorCode.BAD_REQUEST),
        ("begin", {**GOOD, "segment": 100_000}, ErrorCode.BAD_REQUEST),
        ("sign_parts", {**SIGN, "parts": []}, ErrorCode.BAD_REQUEST),
        ("sign_parts", {**SIGN, "parts": [PART] * 65}, ErrorCode.BAD_REQUEST),
        ("sign_parts", {**SIGN, "parts": [{**PART, "number": 0}]}, ErrorCode.BAD_REQUEST),
        ("sign_parts", {**SIGN, "parts": [{**PART, "number": 10_001}]}, ErrorCode.BAD_REQUEST),
        ("sign_parts", {**SIGN, "parts": [{**PART, "length": 0}]}, ErrorCode.BAD_REQUEST),
        ("sign_parts", {**SIGN, "parts": [{**PART, "length": (5 << 30) + 1}]}, ErrorCode.BAD_REQUEST),
        ("sign_parts", {**SIGN, "parts": [{**PART, "crc32c": "x"}]}, ErrorCode.BAD_REQUEST),
        ("sign_parts", {**SIGN, "upload": "", "parts": [PART]}, ErrorCode.BAD_REQUEST),
        ("list_parts", {**SIGN, "upload": "u" * 1025}, ErrorCode.BAD_REQUEST),
        ("complete", {**SIGN, "parts": [], "index": 1}, ErrorCode.BAD_REQUEST),
        ("complete", {**SIGN, "parts": [STORED, STORED], "index": 1}, ErrorCode.BAD_REQUEST),
        ("complete", {**SIGN, "parts": [STORED], "index": 2}, ErrorCode.BAD_REQUEST),
        ("complete", {**SIGN, "parts": [{**STORED, "etag": "<xml>"}], "index": 1}, ErrorCode.BAD_REQUEST),
        ("complete", {**SIGN, "parts": [{**STORED, "crc32c": "<xml>"}], "index": 1}, ErrorCode.BAD_REQUEST),
        ("finish", {**GOOD, "outcome": "never heard of"}, ErrorCode.BAD_REQUEST),
        ("finish", {**GOOD, "outcome": "stored", "segments": -1}, ErrorCode.BAD_REQUEST),
        ("status", {"v": 1, "job": "q" * 15}, ErrorCode.BAD_REQUEST),
        ("no_such_verb", {}, ErrorCode.VERSION),
    ],
)  # fmt: skip
async def test_bad_requests_get_typed_refusals(
    client: Client, verb: str, request_: bytes | dict[str, object], code: ErrorCode
) -> None:
    body = request_ if isinstance(request_, bytes) else msgspec.json.encode(request_)
    answer, failed = await raw(client, verb, body)
    assert failed
    assert msgspec.json.decode(answer, type=api.ApiError).code is code


async def test_what_a_holder_asks_has_bounds(job: Job) -> None:
    assert code(await job.gets()) is ErrorCode.BAD_REQUEST
    assert code(await job.gets(*range(65))) is ErrorCode.BAD_REQUEST
    assert code(await job.gets(0)) is ErrorCode.CONFLICT
    assert code(await job.segments(-1)) is ErrorCode.BAD_REQUEST
    assert code(await job.receipt("me", b"x" * 4097)) is ErrorCode.BAD_REQUEST
    assert code(await job.receipt("me", b"")) is ErrorCode.BAD_REQUEST
    assert code(await job.receipt("a b")) is ErrorCode.BAD_REQUEST
    assert isinstance(await job.receipt("me", b"x" * 4096), api.Done)


async def test_a_job_opens_only_so_many_segments(job: Job) -> None:
    for segment in range(8):
        assert isinstance(await job.begin(segment), str)
    assert code(await job.begin(8)) is ErrorCode.CONFLICT
    assert code(await job.begin(64)) is ErrorCode.CONFLICT


async def test_what_is_too_long_is_refused_whatever_nats_would_carry(place: Place, tmp_path: Path) -> None:
    with nats_server(tmp_path, free_port(), "max_payload: 2097152") as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        with broker_process(alone, tmp_path / "log"):
            client = await connected(alone)
            await answers(client)
            body = b'{"v":1,"padding":"' + b"x" * (1 << 20) + b'"}'
            answer, _failed = await raw(client, "info", body)
            assert msgspec.json.decode(answer, type=api.ApiError).code is ErrorCode.BAD_REQUEST
            await client.close()


async def test_an_answer_that_nats_cannot_carry_is_a_refusal(place: Place, tmp_path: Path) -> None:
    with nats_server(tmp_path, free_port(), "max_payload: 8192") as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        with broker_process(alone, tmp_path / "log"):
            client = await connected(alone)
            await answers(client)
            job = Job(client)
            await job.create()
            records = await Records.attach(client)
            await records.change(job.id, lambda r: msgspec.structs.replace(r, segments=5000))
            assert code(await job.status()) is ErrorCode.OVER_QUOTA
            await client.close()


async def test_unknown_fields_are_ignored(client: Client) -> None:
    body, failed = await raw(client, "info", b'{"v":1,"from_the_future":true}')
    assert not failed
    assert msgspec.json.decode(body, type=api.BrokerInfo).bucket == "broker-tests"
