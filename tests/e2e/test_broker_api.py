"""The broker as a process, on real NATS and S3 servers: every verb, every refusal, every sweep."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import nats.errors
import pytest
from brokers import (
    HTTP,
    Job,
    Place,
    answers,
    ask,
    broker_process,
    code,
    connected,
    crc,
    free_port,
    gone,
    got,
    nats_server,
    raw,
)  # fmt: skip
from nats.aio.client import Client

from transfer import api, bus
from transfer.api import ErrorCode, JobState
from transfer.broker import records as records_module
from transfer.broker.job import Refusal
from transfer.broker.records import Records
from transfer.broker.store import Store
from transfer.broker.verbs import Verbs
from transfer.errors import ProtocolError, StoreUnreachable
from transfer.model import SegmentRef

ROOT = Path(__file__).resolve().parents[2]
MIB5 = 5 << 20
NOT_FOUND = api.ApiError(ErrorCode.NOT_FOUND, "there is no such job, or it has expired")
SKEWED = """
import datetime, sys, time
import botocore.auth, botocore.compat, botocore.signers

shift, real_time, real_now = float(sys.argv[1]), time.time, botocore.compat.get_current_datetime

def shifted(remove_tzinfo=True):
    return real_now(remove_tzinfo) + datetime.timedelta(seconds=shift)

time.time = lambda: real_time() + shift
for module in (botocore.auth, botocore.compat, botocore.signers):
    module.get_current_datetime = shifted

from transfer.broker.__main__ import main
sys.exit(main())
"""


# --- the main path


async def test_what_goes_in_by_signed_parts_comes_out_by_a_signed_get(job: Job) -> None:
    first, second = os.urandom(MIB5), os.urandom(1000)
    upload = await job.begin()
    parts = await job.put(upload, first, second)
    assert isinstance(done := await job.complete(upload, parts), api.Completed)
    assert done.ref == SegmentRef(0, MIB5 + 1000, 9)
    assert (await job.segments()).refs == [done.ref]
    [signed] = await job.gets(0)
    assert await got(signed.url) == (200, first + second)


async def test_expiry_counts_from_completion(job: Job) -> None:
    await job.store(0)
    unfinished = await job.open()
    finished = await job.finish(JobState.STORED, 1)
    assert unfinished.expires == pytest.approx(time.time() + 7 * 86_400, abs=30)
    assert finished.expires == pytest.approx(time.time() + 1000, abs=30)
    assert (await job.open()).state is JobState.STORED
    assert await job.finish(JobState.STORED, 1) == finished


async def test_parts_of_an_open_upload_are_listed_and_those_of_a_complete_one_are_not(job: Job) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"a" * MIB5, b"b")
    listed = await job.list_parts(upload)
    assert listed.open
    assert [(p.number, p.etag, p.length) for p in listed.parts] == [
        (p.number, p.etag, p.length) for p in parts
    ]
    await job.complete(upload, parts)
    assert await job.list_parts(upload) == api.PartList([], open=False)


async def test_completing_twice_gives_the_same_answer(job: Job) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"segment")
    assert await job.complete(upload, parts, index=3) == await job.complete(upload, parts, index=3)
    assert (await job.open()).segments == 1
    assert code(await job.complete(upload, parts, index=4)) is ErrorCode.CONFLICT


async def test_a_crash_between_store_and_record_is_made_good_by_asking_again(job: Job, store: Store) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"segment")
    await store.complete(job.folder, 0, upload, parts)
    await store.complete(job.folder, 0, upload, parts)
    assert isinstance(await job.complete(upload, parts, index=3), api.Completed)


async def test_an_upload_that_is_gone_is_complete_only_with_an_object_of_the_right_size(
    job: Job, store: Store
) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"123456789")
    await store.abort(job.folder, 0, upload)
    refused = await job.complete(upload, parts)
    assert refused == api.ApiError(ErrorCode.CONFLICT, "that upload of segment 0 is not open any more")
    upload = await job.begin()
    parts = await job.put(upload, b"123456789")
    wrong = [msgspec.structs.replace(parts[0], length=10)]
    with pytest.raises(ProtocolError, match="9 bytes, not 10"):
        await store.complete(job.folder, 0, upload, wrong)
    await store.complete(job.folder, 0, upload, parts)


async def test_segments_complete_out_of_order_and_show_without_a_gap(job: Job) -> None:
    await job.store(1)
    assert (await job.segments()).refs == []
    assert (await job.open()).segments == 0
    assert (await job.status()).complete == [1]
    await job.store(0)
    assert [r.number for r in (await job.segments()).refs] == [0, 1]
    assert [r.number for r in (await job.segments(1)).refs] == [1]


async def test_many_segments_completed_at_once_are_all_on_record(job: Job) -> None:
    numbers = [7, 3, 5, 1, 6, 0, 4, 2]
    uploads = [await job.begin(n) for n in numbers]
    parts = [await job.put(u, b"segment 0", segment=n) for u, n in zip(uploads, numbers, strict=True)]
    done = await asyncio.gather(
        *(job.complete(u, p, n) for u, p, n in zip(uploads, parts, numbers, strict=True))
    )
    assert all(isinstance(d, api.Completed) for d in done)
    assert (await job.status()).complete == list(range(8))
    assert [r.number for r in (await job.segments()).refs] == list(range(8))


async def test_references_span_pages(job: Job, records: Records) -> None:
    for number in range(60, 70):
        await records.change(job.id, lambda r, n=number: msgspec.structs.replace(r, uploads={n: "u"}))
        await records.put_ref(job.id, SegmentRef(number, number, 1), "u")
    assert [r.number for r in await records.refs(job.id, 60, 200)] == list(range(60, 70))
    assert await records.refs(job.id, 59, 200) == []


async def test_creating_again_is_fine_for_its_owner_only(job: Job, client: Client) -> None:
    assert isinstance(await job.create(), api.Created)
    assert code(await job.create(token_hash="0" * 64)) is ErrorCode.CONFLICT
    job.owner = "bob"
    assert code(await job.create()) is ErrorCode.CONFLICT


async def test_beginning_again_drops_the_first_upload(job: Job, store: Store) -> None:
    first = await job.begin()
    await job.put(first, b"lost")
    second = await job.begin()
    assert not (await job.list_parts(first)).open
    async with asyncio.timeout(20):
        while (await store.list_parts(job.folder, 0, first)).open:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await job.list_parts(second)).open
    assert code(await job.sign(first, b"x")) is ErrorCode.CONFLICT
    assert (await job.status()).open_uploads == {0: second}


async def test_the_same_begin_gets_the_same_upload_however_often_and_however_late_it_comes(
    job: Job, store: Store
) -> None:
    begin = api.Begin(job=job.id, segment=1, key="k1")
    many = [await ask(job.client, "begin", begin, api.Begun)]
    many += await asyncio.gather(*(ask(job.client, "begin", begin, api.Begun) for _ in range(5)))
    assert len({each.upload for each in many}) == 1
    parts = await job.put(many[0].upload, b"segment", segment=1)
    assert isinstance(await job.complete(many[0].upload, parts, segment=1, index=3), api.Completed)
    assert code(await ask(job.client, "begin", begin, api.Begun)) is ErrorCode.CONFLICT
    assert (await job.status()).complete == [1], "a late copy took a stored segment back"
    other = await ask(job.client, "begin", msgspec.structs.replace(begin, key="k2"), api.Begun)
    assert (await job.status()).open_uploads == {1: other.upload}
    async with asyncio.timeout(20):
        while [u for u in await store.uploads() if u.place.job == job.id and u.upload != other.upload]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (
        code(await ask(job.client, "begin", msgspec.structs.replace(begin, key="a b"), api.Begun))
        is ErrorCode.BAD_REQUEST
    )


async def test_two_brokers_that_are_asked_the_same_begin_at_once_open_one_upload(
    job: Job, records: Records, store: Store
) -> None:
    """The second one's store is slower, and the first has put its upload on record by then."""
    request = api.Begin(job=job.id, segment=0, key="k")

    class Overtaken(Store):
        async def begin(self, folder: str, segment: int) -> str:
            self.other = await super().begin(folder, segment)
            answer = await ask(job.client, "begin", request, api.Begun)
            assert answer.upload != self.other
            return self.other

    async def owe(_record: object) -> None:
        pass

    slow = Overtaken(endpoint_url=store._endpoint_url, bucket="broker-tests")
    verbs = Verbs(records, slow, owe, version="1.0.0", unfinished_life=1000)
    begun = await verbs.begin("alice", request)
    assert (await job.status()).open_uploads == {0: begun.upload}
    assert not (await store.list_parts(job.folder, 0, slow.other)).open
    slow.close()


async def test_what_a_killed_run_said_last_comes_too_late_once_another_goes_on(job: Job) -> None:
    """The new run would store a segment under the same number, and the old one's request take it away again."""

    async def begin(run: str, segment: int = 0):
        request = api.Begin(job=job.id, segment=segment, key=f"{run}-{segment}", run=run)
        return await ask(job.client, "begin", request, api.Begun)

    async def go_on(run: str):
        return await ask(job.client, "status", api.Status(job=job.id, run=run), api.JobStatus)

    await go_on("one")
    upload = (await begin("one")).upload
    parts = await job.put(upload, b"of the first run")
    await go_on("two")
    assert code(await begin("one", 1)) is ErrorCode.CONFLICT
    late = api.Complete(job=job.id, segment=0, upload=upload, parts=parts, index=1, run="one")
    assert code(await ask(job.client, "complete", late, api.Completed)) is ErrorCode.CONFLICT
    newer = (await begin("two")).upload
    parts = await job.put(newer, b"of the second")
    done = api.Complete(job=job.id, segment=0, upload=newer, parts=parts, index=1, run="two")
    assert isinstance(await ask(job.client, "complete", done, api.Completed), api.Completed)
    assert code(await begin("one")) is ErrorCode.CONFLICT
    for outcome in (JobState.STORED, JobState.VOID):
        finish = api.Finish(job=job.id, outcome=outcome, segments=1, run="one")
        assert code(await ask(job.client, "finish", finish, api.Finished)) is ErrorCode.CONFLICT
    assert (await job.status()).complete == [0]
    assert (await job.finish(JobState.STORED, 1)).state is JobState.STORED
    assert code(await ask(job.client, "finish", finish, api.Finished)) is ErrorCode.CONFLICT
    assert (await job.status()).state is JobState.STORED


async def test_a_stored_segment_is_not_begun_again(job: Job) -> None:
    await job.store(0)
    assert code(await job.begin(0)) is ErrorCode.CONFLICT


# --- what the store refuses


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"changed!", {}),
        (b"shorter", {}),
        (b"longer than was signed", {}),
        (b"original", {"x-amz-checksum-crc32c": None}),
    ],
    ids=["a changed byte", "shorter", "longer", "no checksum"],
)
async def test_a_put_url_is_good_for_exactly_its_bytes(
    job: Job, body: bytes, headers: dict[str, None]
) -> None:
    upload = await job.begin()
    [signed] = await job.sign(upload, b"original")
    assert "SignedHeaders=content-length%3Bhost%3Bx-amz-checksum-crc32c&" in signed.url
    sent = {**signed.headers, **headers, "Content-Length": str(len(body))}
    answer = await asyncio.to_thread(
        HTTP.request, "PUT", signed.url, body=body, headers={k: v for k, v in sent.items() if v is not None}
    )
    assert answer.status in (400, 403)
    assert (await job.list_parts(upload)).parts == []


async def test_a_signed_url_does_not_show_itself(job: Job) -> None:
    [signed] = await job.sign(await job.begin(), b"x")
    assert "X-Amz" not in repr(signed)


async def test_urls_live_as_long_as_the_setting_says(job: Job, store: Store, place: Place) -> None:
    await job.store(0)
    short = Store(
        endpoint_url=place.s3_endpoint, bucket="broker-tests", url_life=4
    )  # whole seconds, and a busy machine
    [signed] = await short.sign_gets(job.folder, [0])
    assert (await got(signed.url))[0] == 200
    await asyncio.sleep(5.1)
    assert (await got(signed.url))[0] == 403
    short.close()


async def test_parts_that_are_not_there_do_not_complete(job: Job) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"segment")
    for wrong in (
        msgspec.structs.replace(parts[0], etag="0" * 32),
        msgspec.structs.replace(parts[0], number=2),
        msgspec.structs.replace(parts[0], crc32c=crc(b"other")),
    ):
        assert code(await job.complete(upload, [wrong], index=3)) is ErrorCode.CONFLICT
    assert isinstance(await job.complete(upload, parts, index=3), api.Completed)


# --- who may ask


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


# --- how a job ends


async def test_the_last_allowed_receipt_removes_the_objects(client: Client, store: Store) -> None:
    job = Job(client)
    await job.create(fetches=2)
    await job.store(0, 1)
    await job.finish(JobState.STORED, 2)
    [signed] = await job.gets(0)
    assert (await job.receipt("one")).state is JobState.STORED
    assert (await job.receipt("one")).state is JobState.STORED
    assert (await got(signed.url))[0] == 200
    assert (await job.receipt("two")).state is JobState.DELIVERED
    assert await gone(signed.url)
    assert (await job.open()).state is JobState.DELIVERED
    assert await job.gets(0) == NOT_FOUND
    assert (await job.segments()).refs == []
    assert len((await job.status()).receipts) == 2


async def test_a_receipt_may_overtake_the_senders_stored(client: Client) -> None:
    job = Job(client)
    await job.create(fetches=1)
    await job.store(0)
    assert (await job.receipt("quick")).state is JobState.DELIVERED
    assert (await job.finish(JobState.STORED, 1)).state is JobState.DELIVERED


async def test_receipts_given_at_once_all_count(client: Client) -> None:
    job = Job(client)
    await job.create()
    await asyncio.gather(*(job.receipt(f"r{n}", b"sealed %d" % n) for n in range(12)))
    texts = {base64.b64decode(r) for r in (await job.status()).receipts}
    assert texts == {b"sealed %d" % n for n in range(12)}


async def test_a_void_job_is_erased_at_once_and_says_so(job: Job, store: Store) -> None:
    await job.store(0)
    [signed] = await job.gets(0)
    upload = await job.begin(1)
    assert (await job.finish(JobState.VOID)).state is JobState.VOID
    assert await gone(signed.url)
    assert not (await store.list_parts(job.folder, 1, upload)).open
    assert (await job.open()).state is JobState.VOID
    assert code(await job.begin(2)) is ErrorCode.CONFLICT
    assert code(await job.finish(JobState.STORED, 1)) is ErrorCode.CONFLICT


async def test_a_stored_job_has_no_open_upload(job: Job, store: Store) -> None:
    await job.store(0)
    upload = await job.begin(1)
    await job.finish(JobState.STORED, 1)
    assert (await job.status()).open_uploads == {}
    async with asyncio.timeout(20):
        while (await store.list_parts(job.folder, 1, upload)).open:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_stored_needs_all_its_segments(job: Job) -> None:
    await job.store(0, 2)
    assert code(await job.finish(JobState.STORED, 3)) is ErrorCode.CONFLICT
    assert code(await job.finish(JobState.STORED, 1)) is ErrorCode.CONFLICT
    await job.store(1)
    assert (await job.finish(JobState.STORED, 3)).state is JobState.STORED


async def test_contention_ends_in_busy(job: Job, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "ATTEMPTS", 1)
    changes = [
        records.change(job.id, lambda r, n=n: msgspec.structs.replace(r, size=n)) for n in range(100, 110)
    ]
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    lost = [o for o in outcomes if isinstance(o, Refusal)]
    assert lost
    assert {o.error.code for o in lost} == {ErrorCode.BUSY}


# --- bad requests


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


# --- clocks, outages, start and end


@pytest.mark.parametrize(
    ("minutes", "side"), [(20, "20 minutes ahead of"), (-20, "20 minutes behind"), (7, "7 minutes ahead of")]
)
async def test_a_broker_whose_clock_is_off_says_so(
    place: Place, tmp_path: Path, minutes: int, side: str
) -> None:
    script = tmp_path / "skewed.py"
    script.write_text(SKEWED)
    with nats_server(tmp_path, free_port()) as url:
        alone = Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, tmp_path)
        log = tmp_path / "log"
        with broker_process(alone, log, str(script), str(minutes * 60)) as process:
            client = await connected(alone)
            assert code(await answers(client)) is ErrorCode.CLOCK
            job = Job(client)
            assert isinstance(await job.create(), api.Created)
            refused = await job.begin()
            assert refused == api.ApiError(ErrorCode.CLOCK, f"the broker's clock is {side} the store's")
            assert process.poll() is None
            await client.close()
            told = f"waiting for the store: the broker's clock is {side} the store's"
            async with asyncio.timeout(20):
                while told not in log.read_text():  # noqa: ASYNC110 (a file, written by another process)
                    await asyncio.sleep(0.05)


async def test_without_a_store_the_broker_starts_and_says_what_is_missing(
    place: Place, tmp_path: Path
) -> None:
    with nats_server(tmp_path, free_port()) as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        nowhere = f"http://127.0.0.1:{free_port()}"
        with broker_process(alone, tmp_path / "log", XFER_S3_ENDPOINT=nowhere):
            client = await connected(alone)
            assert code(await answers(client)) is ErrorCode.STORE
            job = Job(client)
            assert isinstance(await job.create(), api.Created)
            assert code(refused := await job.begin()) is ErrorCode.STORE
            assert nowhere not in refused.message
            assert (await job.finish(JobState.VOID)).state is JobState.VOID
            await client.close()


async def test_without_credentials_the_broker_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = Store(endpoint_url=place.s3_endpoint, bucket="broker-tests")
    with pytest.raises(StoreUnreachable, match="has no credentials"):
        await store.check()
    store.close()


async def test_the_broker_waits_for_nats_and_says_so(place: Place, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    env = {**place.env, "NATS_URL": f"nats://u:hush@127.0.0.1:{port}"}
    alone = Place(f"nats://127.0.0.1:{port}", "", env, tmp_path)
    with broker_process(alone, log) as process:
        await asyncio.to_thread(_wait_for_text, log)
        with nats_server(tmp_path, port):
            client = await connected(alone)
            assert isinstance(await answers(client), api.BrokerInfo)
            await client.close()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0
    said = log.read_text()
    assert "waiting for NATS" in said
    assert "hush" not in said


async def test_the_broker_outlives_a_restart_of_nats(place: Place, tmp_path: Path) -> None:
    port = free_port()
    alone = Place(
        f"nats://127.0.0.1:{port}", "", {**place.env, "NATS_URL": f"nats://127.0.0.1:{port}"}, tmp_path
    )
    with contextlib.ExitStack() as stop:
        with nats_server(tmp_path, port):
            broker = stop.enter_context(broker_process(alone, tmp_path / "log"))
            client = await connected(alone)
            await answers(client)
            job = Job(client)
            await job.create()
        stop.enter_context(nats_server(tmp_path, port))
        assert isinstance(await answers(client), api.BrokerInfo)
        assert (await job.open()).state is JobState.OPEN
        assert broker.poll() is None
        await client.close()


async def test_sigterm_leaves_no_request_without_an_answer(place: Place, tmp_path: Path) -> None:
    with nats_server(tmp_path, free_port()) as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        with broker_process(alone, tmp_path / "log") as process:
            client = await connected(alone)
            await answers(client)
            asking = [asyncio.ensure_future(Job(client).create()) for _ in range(300)]
            await asyncio.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            outcomes = await asyncio.gather(*asking, return_exceptions=True)
            assert await asyncio.to_thread(process.wait, 20) == 0
            await client.close()
    kinds = {type(o) for o in outcomes}
    assert api.Created in kinds
    assert kinds <= {api.Created, nats.errors.NoRespondersError}


async def test_sigterm_waits_for_an_answer_that_is_under_way(place: Place, tmp_path: Path) -> None:
    async def hang_up_late(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        writer.close()

    network = await asyncio.start_server(hang_up_late, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{network.sockets[0].getsockname()[1]}"
    with nats_server(tmp_path, free_port()) as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        with broker_process(alone, tmp_path / "log", XFER_S3_ENDPOINT=endpoint) as process:
            client = await connected(alone)
            assert code(await answers(client, each=10)) is ErrorCode.STORE
            asking = asyncio.ensure_future(ask(client, "info", api.Info(), api.BrokerInfo))
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert code(await asking) is ErrorCode.STORE
            await client.close()
    network.close()


def test_a_broker_starts_without_loading_boto3(place: Place) -> None:
    program = "import sys, transfer.broker.__main__; sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=place.env, check=False).returncode == 0


def test_without_nats_url_the_broker_says_what_to_set(place: Place) -> None:
    env = {**place.env, "NATS_URL": ""}
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "transfer.broker"], env=env, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "NATS_URL" in ended.stderr


def test_replicas_without_a_cluster_are_refused_in_words(place: Place, tmp_path: Path) -> None:
    with nats_server(tmp_path, free_port()) as url:
        env = {**place.env, "NATS_URL": url, "XFER_REPLICAS": "3"}
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "transfer.broker"],
            env=env,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 2
    assert "XFER_REPLICAS is 3, but NATS is a single server" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_the_log_holds_no_url_and_no_token(job: Job, broker: Path) -> None:
    await job.store(0)
    await job.gets(0)
    await job.open(token="f" * 64)
    said = await asyncio.to_thread(broker.read_text)
    assert "X-Amz" not in said
    assert job.token not in said
    assert "a bug in" not in said
    assert "Traceback" not in said


def _wait_for_text(log: Path) -> None:
    end = time.monotonic() + 20
    while not log.read_text() and time.monotonic() < end:
        time.sleep(0.05)
