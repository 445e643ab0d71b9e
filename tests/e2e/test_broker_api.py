"""The broker as a process, on real NATS and S3 servers: every verb, every refusal, every sweep."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import msgspec
import nats.errors
import pytest
import urllib3
from nats.aio.client import Client

from transfer import api, bus
from transfer.api import ErrorCode, JobState
from transfer.broker import records as records_module
from transfer.broker import store as store_module
from transfer.broker.job import Refusal
from transfer.broker.records import Records
from transfer.broker.store import Store
from transfer.broker.sweeper import ORPHAN_AGE, sweep
from transfer.broker.verbs import Verbs
from transfer.errors import BusUnreachable, ClockSkew, ProtocolError, StoreUnreachable
from transfer.local.programs import find
from transfer.model import SegmentRef
from transfer.seal import Sealer
from transfer.ticket import Ticket

ROOT = Path(__file__).resolve().parents[2]
HTTP = urllib3.PoolManager(retries=False)
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


@dataclass(frozen=True)
class Place:
    """An open NATS server (so that a test can be any user) and the worker's store."""

    nats_url: str
    s3_endpoint: str
    env: dict[str, str]
    folder: Path


@contextmanager
def _process(
    argv: list[str], log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "ab") as stderr:
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def _nats(folder: Path, port: int, more: str = "") -> Iterator[str]:
    config = folder / "nats.conf"
    config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder / "js"}" }}\n{more}\n')
    argv = [find("nats-server"), "-c", str(config)]
    with _process(argv, folder / "nats.log"):
        yield f"nats://127.0.0.1:{port}"


@contextmanager
def _broker(place: Place, log: Path, *argv: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", *(argv or ("-m", "transfer.broker"))]
    with _process(command, log, {**place.env, **more}) as process:
        yield process


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def place(servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("broker")
    with _nats(folder, _free_port()) as url:
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "AWS_", "XFER_"))},
            "PYTHONPATH": str(ROOT),
            "NATS_URL": url,
            "XFER_S3_ENDPOINT": servers.s3_endpoint,
            "XFER_BUCKET": "broker-tests",
            "AWS_SHARED_CREDENTIALS_FILE": str(servers.dir / "aws_credentials"),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        yield Place(url, servers.s3_endpoint, env, folder)


@pytest.fixture(scope="session")
def broker(place: Place) -> Iterator[Path]:
    """A broker with default settings; the path of what it says."""
    log = place.folder / "broker.log"
    with _broker(place, log):
        yield log


@pytest.fixture
async def client(place: Place, broker: Path) -> AsyncIterator[Client]:
    client = await _connect(place)
    await _answers(client)
    yield client
    await client.close()


@pytest.fixture
async def store(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", place.env["AWS_SHARED_CREDENTIALS_FILE"])
    store = Store(endpoint_url=place.s3_endpoint, bucket="broker-tests")
    yield store
    store.close()


@pytest.fixture
async def records(client: Client) -> Records:
    return await Records.attach(client)


async def _connect(place: Place, user: str = "alice") -> Client:
    return await bus.connect(place.nats_url, None, user, "test")


async def _answers(client: Client, each: float = 2.0) -> api.ApiError | api.BrokerInfo:
    """Wait until a broker answers anything at all. each: seconds for one try."""
    async with asyncio.timeout(20):
        while True:
            try:
                async with asyncio.timeout(each):
                    return await _ask(client, "info", api.Info(), api.BrokerInfo)
            except (nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.05)


async def _raw(client: Client, verb: str, body: bytes, user: str = "alice") -> tuple[bytes, bool]:
    """The answer's body, and whether it is an error."""
    if user == "alice":
        answer = await client.request(bus.api_subject(user, verb), body, timeout=10)
    else:  # the inbox must be that user's
        inbox = f"{bus.inbox_prefix(user)}.{secrets.token_hex(8)}"
        heard = await client.subscribe(inbox)
        await client.publish(bus.api_subject(user, verb), body, reply=inbox)
        answer = await heard.next_msg(timeout=10)
        await heard.unsubscribe()
    return answer.data, "Nats-Service-Error-Code" in (answer.headers or {})


async def _ask(client, verb, request, kind, user="alice"):
    """The answer, or the ApiError."""
    body, failed = await _raw(client, verb, msgspec.json.encode(request), user)
    return msgspec.json.decode(body, type=api.ApiError if failed else kind)


class Job:
    """A sender's and a receiver's calls for one job, as few words as possible."""

    def __init__(self, client: Client, owner: str = "alice") -> None:
        self.client, self.owner, self.sealer = client, owner, Sealer(Ticket.new())
        self.id, self.token = self.sealer.job, self.sealer.token()

    async def create(self, **changes) -> api.Created | api.ApiError:
        fields = {"job": self.id, "token_hash": self.sealer.token_hash(), "size": 1, "expire": 1000.0}
        return await _ask(self.client, "create", api.Create(**{**fields, **changes}), api.Created, self.owner)

    async def begin(self, segment: int = 0, user: str = "alice"):
        answer = await _ask(self.client, "begin", api.Begin(job=self.id, segment=segment), api.Begun, user)
        return answer.upload if isinstance(answer, api.Begun) else answer

    async def sign(self, upload: str, *payloads: bytes, segment: int = 0):
        parts = [api.PartToSign(n, len(data), _crc(data)) for n, data in enumerate(payloads, 1)]
        request = api.SignParts(job=self.id, segment=segment, upload=upload, parts=parts)
        answer = await _ask(self.client, "sign_parts", request, api.SignedUrls)
        return answer.urls if isinstance(answer, api.SignedUrls) else answer

    async def put(self, upload: str, *payloads: bytes, segment: int = 0) -> list[api.StoredPart]:
        stored = []
        urls = await self.sign(upload, *payloads, segment=segment)
        for number, (signed, data) in enumerate(zip(urls, payloads, strict=True), 1):
            answer = await asyncio.to_thread(
                HTTP.request, "PUT", signed.url, body=data, headers=signed.headers
            )
            assert answer.status == 200
            stored.append(api.StoredPart(number, answer.headers["ETag"].strip('"'), len(data), _crc(data)))
        return stored

    async def list_parts(self, upload: str, segment: int = 0):
        request = api.ListParts(job=self.id, segment=segment, upload=upload)
        return await _ask(self.client, "list_parts", request, api.PartList)

    async def complete(self, upload: str, parts: list[api.StoredPart], segment: int = 0, index: int = 9):
        request = api.Complete(job=self.id, segment=segment, upload=upload, parts=parts, index=index)
        return await _ask(self.client, "complete", request, api.Completed)

    async def store(self, *numbers: int, data: bytes = b"what a segment holds") -> None:
        """Store these segments, one small part each."""
        for number in numbers:
            upload = await self.begin(number)
            parts = await self.put(upload, data, segment=number)
            assert isinstance(await self.complete(upload, parts, segment=number), api.Completed)

    async def finish(self, outcome: JobState, segments: int = 0):
        request = api.Finish(job=self.id, outcome=outcome, segments=segments)
        return await _ask(self.client, "finish", request, api.Finished)

    async def open(self, token: str | None = None, user: str = "alice"):
        return await _ask(
            self.client, "open", api.Open(job=self.id, token=token or self.token), api.Opened, user
        )

    async def segments(self, start: int = 0):
        request = api.Segments(job=self.id, token=self.token, start=start)
        return await _ask(self.client, "segments", request, api.SegmentPage)

    async def gets(self, *segments: int):
        request = api.SignGets(job=self.id, token=self.token, segments=list(segments))
        answer = await _ask(self.client, "sign_gets", request, api.SignedUrls)
        return answer.urls if isinstance(answer, api.SignedUrls) else answer

    async def receipt(self, receiver: str, sealed: bytes = b"sealed"):
        text = base64.b64encode(sealed).decode()
        request = api.GiveReceipt(job=self.id, token=self.token, receiver=receiver, sealed=text)
        return await _ask(self.client, "receipt", request, api.Done)

    async def status(self, user: str = "alice"):
        return await _ask(self.client, "status", api.Status(job=self.id), api.JobStatus, user)


@pytest.fixture
async def job(client: Client) -> Job:
    job = Job(client)
    assert isinstance(await job.create(), api.Created)
    return job


def _crc(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


async def _get(url: str) -> tuple[int, bytes]:
    answer = await asyncio.to_thread(HTTP.request, "GET", url)
    return answer.status, answer.data


def _code(answer: object) -> ErrorCode | None:
    return answer.code if isinstance(answer, api.ApiError) else None


# --- the main path


async def test_what_goes_in_by_signed_parts_comes_out_by_a_signed_get(job: Job) -> None:
    first, second = os.urandom(MIB5), os.urandom(1000)
    upload = await job.begin()
    parts = await job.put(upload, first, second)
    assert isinstance(done := await job.complete(upload, parts), api.Completed)
    assert done.ref == SegmentRef(0, MIB5 + 1000, 9)
    assert (await job.segments()).refs == [done.ref]
    [signed] = await job.gets(0)
    assert await _get(signed.url) == (200, first + second)


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
    assert _code(await job.complete(upload, parts, index=4)) is ErrorCode.CONFLICT


async def test_a_crash_between_store_and_record_is_made_good_by_asking_again(job: Job, store: Store) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"segment")
    await store.complete(job.id, 0, upload, parts)
    await store.complete(job.id, 0, upload, parts)
    assert isinstance(await job.complete(upload, parts, index=3), api.Completed)


async def test_an_upload_that_is_gone_is_complete_only_with_an_object_of_the_right_size(
    job: Job, store: Store
) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"123456789")
    await store.abort(job.id, 0, upload)
    refused = await job.complete(upload, parts)
    assert refused == api.ApiError(ErrorCode.CONFLICT, "that upload of segment 0 is not open any more")
    upload = await job.begin()
    parts = await job.put(upload, b"123456789")
    wrong = [msgspec.structs.replace(parts[0], length=10)]
    with pytest.raises(ProtocolError, match="9 bytes, not 10"):
        await store.complete(job.id, 0, upload, wrong)
    await store.complete(job.id, 0, upload, parts)


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
        await records.put_ref(job.id, SegmentRef(number, number, 1))
    assert [r.number for r in await records.refs(job.id, 60, 200)] == list(range(60, 70))
    assert await records.refs(job.id, 59, 200) == []


async def test_creating_again_is_fine_for_its_owner_only(job: Job, client: Client) -> None:
    assert isinstance(await job.create(), api.Created)
    assert _code(await job.create(token_hash="0" * 64)) is ErrorCode.CONFLICT
    job.owner = "bob"
    assert _code(await job.create()) is ErrorCode.CONFLICT


async def test_beginning_again_drops_the_first_upload(job: Job, store: Store) -> None:
    first = await job.begin()
    await job.put(first, b"lost")
    second = await job.begin()
    assert not (await job.list_parts(first)).open
    assert not (await store.list_parts(job.id, 0, first)).open
    assert (await job.list_parts(second)).open
    assert _code(await job.sign(first, b"x")) is ErrorCode.CONFLICT
    assert (await job.status()).open_uploads == {0: second}


async def test_a_stored_segment_is_not_begun_again(job: Job) -> None:
    await job.store(0)
    assert _code(await job.begin(0)) is ErrorCode.CONFLICT


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
    short = Store(endpoint_url=place.s3_endpoint, bucket="broker-tests", url_life=1)
    [signed] = await short.sign_gets(job.id, [0])
    assert (await _get(signed.url))[0] == 200
    await asyncio.sleep(2.1)
    assert (await _get(signed.url))[0] == 403
    short.close()


async def test_parts_that_are_not_there_do_not_complete(job: Job) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"segment")
    for wrong in (
        msgspec.structs.replace(parts[0], etag="0" * 32),
        msgspec.structs.replace(parts[0], number=2),
        msgspec.structs.replace(parts[0], crc32c=_crc(b"other")),
    ):
        assert _code(await job.complete(upload, [wrong], index=3)) is ErrorCode.CONFLICT
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
    assert await _ask(client, verb, request_of(job.id), api.Done, user="bob") == NOT_FOUND


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
    assert (await _get(signed.url))[0] == 200
    assert (await job.receipt("two")).state is JobState.DELIVERED
    assert (await _get(signed.url))[0] == 404
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
    assert (await _get(signed.url))[0] == 404
    assert not (await store.list_parts(job.id, 1, upload)).open
    assert (await job.open()).state is JobState.VOID
    assert _code(await job.begin(2)) is ErrorCode.CONFLICT
    assert _code(await job.finish(JobState.STORED, 1)) is ErrorCode.CONFLICT


async def test_a_stored_job_has_no_open_upload(job: Job, store: Store) -> None:
    await job.store(0)
    upload = await job.begin(1)
    await job.finish(JobState.STORED, 1)
    assert not (await store.list_parts(job.id, 1, upload)).open
    assert (await job.status()).open_uploads == {}


class Overtaken(Store):
    """A store during whose calls the job becomes void, as when another broker is asked to finish it."""

    records: Records

    async def begin(self, job: str, segment: int) -> str:
        self.upload = await super().begin(job, segment)
        await self.settle(job)
        return self.upload

    async def complete(self, job: str, segment: int, upload: str, parts: Sequence[api.StoredPart]) -> None:
        await super().complete(job, segment, upload, parts)
        await self.settle(job)

    async def settle(self, job: str) -> None:
        await self.records.change(job, lambda r: r.settle(JobState.VOID, now=time.time()).erase())


@pytest.fixture
async def overtaken(place: Place, store: Store, records: Records) -> AsyncIterator[Overtaken]:
    late = Overtaken(endpoint_url=place.s3_endpoint, bucket="broker-tests")
    late.records = records
    yield late
    late.close()


async def test_an_upload_begun_while_its_job_ends_is_aborted(
    job: Job, overtaken: Overtaken, records: Records
) -> None:
    verbs = Verbs(records, overtaken, version="1.0.0", unfinished_life=60)
    with pytest.raises(Refusal):
        await verbs.begin("alice", api.Begin(job=job.id, segment=0))
    assert not (await overtaken.list_parts(job.id, 0, overtaken.upload)).open


async def test_a_segment_completed_while_its_job_ends_is_erased(
    job: Job, overtaken: Overtaken, records: Records
) -> None:
    upload = await job.begin()
    parts = await job.put(upload, b"too late")
    verbs = Verbs(records, overtaken, version="1.0.0", unfinished_life=60)
    with pytest.raises(Refusal):
        await verbs.complete(
            "alice", api.Complete(job=job.id, segment=0, upload=upload, parts=parts, index=1)
        )
    [signed] = await overtaken.sign_gets(job.id, [0])
    assert (await _get(signed.url))[0] == 404


async def test_stored_needs_all_its_segments(job: Job) -> None:
    await job.store(0, 2)
    assert _code(await job.finish(JobState.STORED, 3)) is ErrorCode.CONFLICT
    assert _code(await job.finish(JobState.STORED, 1)) is ErrorCode.CONFLICT
    await job.store(1)
    assert (await job.finish(JobState.STORED, 3)).state is JobState.STORED


# --- sweeping


async def test_an_expired_job_goes_with_all_it_stored(job: Job, records: Records, store: Store) -> None:
    await job.store(0)
    upload = await job.begin(1)
    [signed] = await job.gets(0)
    week = 7 * 86_400
    await sweep(records, store, now=time.time() + week - 60)
    assert (await _get(signed.url))[0] == 200
    dropped = await asyncio.gather(*(sweep(records, store, now=time.time() + week + 60) for _ in range(3)))
    assert sum(dropped) >= 1
    assert (await _get(signed.url))[0] == 404
    assert not (await store.list_parts(job.id, 1, upload)).open
    assert await records.read(job.id) is None
    assert await records.refs(job.id, 0, 1) == []
    assert await job.open() == NOT_FOUND


async def test_a_stored_job_goes_when_its_time_is_over(job: Job, records: Records, store: Store) -> None:
    await job.store(0)
    finished = await job.finish(JobState.STORED, 1)
    await sweep(records, store, now=finished.expires - 1)
    assert await records.read(job.id) is not None
    await sweep(records, store, now=finished.expires)
    assert await records.read(job.id) is None


async def test_a_delivered_job_is_remembered_for_a_day(job: Job, records: Records, store: Store) -> None:
    await job.finish(JobState.DELIVERED)
    now = time.time()
    await sweep(records, store, now=now + 86_000)
    assert (await job.open()).state is JobState.DELIVERED
    await sweep(records, store, now=now + 87_000)
    assert await job.open() == NOT_FOUND


async def test_what_a_settled_job_could_not_erase_is_erased_later(
    job: Job, records: Records, store: Store
) -> None:
    await job.store(0)
    [signed] = await job.gets(0)
    await records.change(job.id, lambda r: r.settle(JobState.VOID, now=time.time()))
    await sweep(records, store, now=time.time())
    assert (await _get(signed.url))[0] == 404
    assert (await records.find(job.id)).record.erased


async def test_old_uploads_that_no_job_owns_are_aborted(job: Job, records: Records, store: Store) -> None:
    owned = await job.begin()
    orphan = await store.begin(job.id, 1)
    stranger = await store.begin(Ticket.new().job, 0)
    await sweep(records, store, now=time.time() + ORPHAN_AGE - 60)
    assert {orphan, stranger} <= {u.upload for u in await store.uploads()}
    await sweep(records, store, now=time.time() + ORPHAN_AGE + 60)
    left = {u.upload for u in await store.uploads()}
    assert owned in left
    assert not {orphan, stranger} & left


async def test_a_job_that_changed_meanwhile_is_not_dropped(job: Job, records: Records) -> None:
    found = await records.find(job.id)
    await job.begin()
    assert not await records.drop(found)
    assert await records.read(job.id) is not None


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
    answer, failed = await _raw(client, verb, body)
    assert failed
    assert msgspec.json.decode(answer, type=api.ApiError).code is code


async def test_what_a_holder_asks_has_bounds(job: Job) -> None:
    assert _code(await job.gets()) is ErrorCode.BAD_REQUEST
    assert _code(await job.gets(*range(65))) is ErrorCode.BAD_REQUEST
    assert _code(await job.gets(0)) is ErrorCode.CONFLICT
    assert _code(await job.segments(-1)) is ErrorCode.BAD_REQUEST
    assert _code(await job.receipt("me", b"x" * 4097)) is ErrorCode.BAD_REQUEST
    assert _code(await job.receipt("me", b"")) is ErrorCode.BAD_REQUEST
    assert _code(await job.receipt("a b")) is ErrorCode.BAD_REQUEST
    assert isinstance(await job.receipt("me", b"x" * 4096), api.Done)


async def test_a_job_opens_only_so_many_segments(job: Job) -> None:
    for segment in range(8):
        assert isinstance(await job.begin(segment), str)
    assert _code(await job.begin(8)) is ErrorCode.CONFLICT
    assert _code(await job.begin(64)) is ErrorCode.CONFLICT


async def test_what_is_too_long_is_refused_whatever_nats_would_carry(place: Place, tmp_path: Path) -> None:
    with _nats(tmp_path, _free_port(), "max_payload: 2097152") as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        with _broker(alone, tmp_path / "log"):
            client = await _connected(alone)
            await _answers(client)
            body = b'{"v":1,"padding":"' + b"x" * (1 << 20) + b'"}'
            answer, _failed = await _raw(client, "info", body)
            assert msgspec.json.decode(answer, type=api.ApiError).code is ErrorCode.BAD_REQUEST
            await client.close()


async def test_an_answer_that_nats_cannot_carry_is_a_refusal(place: Place, tmp_path: Path) -> None:
    with _nats(tmp_path, _free_port(), "max_payload: 8192") as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        with _broker(alone, tmp_path / "log"):
            client = await _connected(alone)
            await _answers(client)
            job = Job(client)
            await job.create()
            records = await Records.attach(client)
            await records.change(job.id, lambda r: msgspec.structs.replace(r, segments=5000))
            assert _code(await job.status()) is ErrorCode.OVER_QUOTA
            await client.close()


async def test_unknown_fields_are_ignored(client: Client) -> None:
    body, failed = await _raw(client, "info", b'{"v":1,"from_the_future":true}')
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
    with _nats(tmp_path, _free_port()) as url:
        alone = Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, tmp_path)
        log = tmp_path / "log"
        with _broker(alone, log, str(script), str(minutes * 60)) as process:
            client = await _connected(alone)
            assert _code(await _answers(client)) is ErrorCode.CLOCK
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


async def test_a_broker_that_mistrusts_its_clock_sweeps_nothing(
    job: Job, records: Records, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    truly = time.time
    monkeypatch.setattr(time, "time", lambda: truly() + 8 * 86_400)
    with pytest.raises(ClockSkew, match="ahead of"):
        await sweep(records, store, now=time.time())
    assert await records.read(job.id) is not None
    monkeypatch.undo()
    monkeypatch.setattr(store_module, "MEASURED_LONG_AGO", 0.0)
    await store.check_clock()


async def test_without_a_store_the_broker_starts_and_says_what_is_missing(
    place: Place, tmp_path: Path
) -> None:
    with _nats(tmp_path, _free_port()) as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        nowhere = f"http://127.0.0.1:{_free_port()}"
        with _broker(alone, tmp_path / "log", XFER_S3_ENDPOINT=nowhere):
            client = await _connected(alone)
            assert _code(await _answers(client)) is ErrorCode.STORE
            job = Job(client)
            assert isinstance(await job.create(), api.Created)
            assert _code(refused := await job.begin()) is ErrorCode.STORE
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
    port, log = _free_port(), tmp_path / "log"
    env = {**place.env, "NATS_URL": f"nats://u:hush@127.0.0.1:{port}"}
    alone = Place(f"nats://127.0.0.1:{port}", "", env, tmp_path)
    with _broker(alone, log) as process:
        await asyncio.to_thread(_wait_for_text, log)
        with _nats(tmp_path, port):
            client = await _connected(alone)
            assert isinstance(await _answers(client), api.BrokerInfo)
            await client.close()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0
    said = log.read_text()
    assert "waiting for NATS" in said
    assert "hush" not in said


async def test_the_broker_outlives_a_restart_of_nats(place: Place, tmp_path: Path) -> None:
    port = _free_port()
    alone = Place(
        f"nats://127.0.0.1:{port}", "", {**place.env, "NATS_URL": f"nats://127.0.0.1:{port}"}, tmp_path
    )
    with contextlib.ExitStack() as stop:
        with _nats(tmp_path, port):
            broker = stop.enter_context(_broker(alone, tmp_path / "log"))
            client = await _connected(alone)
            await _answers(client)
            job = Job(client)
            await job.create()
        stop.enter_context(_nats(tmp_path, port))
        assert isinstance(await _answers(client), api.BrokerInfo)
        assert (await job.open()).state is JobState.OPEN
        assert broker.poll() is None
        await client.close()


async def test_sigterm_leaves_no_request_without_an_answer(place: Place, tmp_path: Path) -> None:
    with _nats(tmp_path, _free_port()) as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        with _broker(alone, tmp_path / "log") as process:
            client = await _connected(alone)
            await _answers(client)
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
    with _nats(tmp_path, _free_port()) as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        with _broker(alone, tmp_path / "log", XFER_S3_ENDPOINT=endpoint) as process:
            client = await _connected(alone)
            assert _code(await _answers(client, each=10)) is ErrorCode.STORE
            asking = asyncio.ensure_future(_ask(client, "info", api.Info(), api.BrokerInfo))
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert _code(await asking) is ErrorCode.STORE
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


async def _connected(place: Place) -> Client:
    """Connect once NATS is up."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await _connect(place)
            except BusUnreachable:
                await asyncio.sleep(0.1)
