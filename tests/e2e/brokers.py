"""Brokers of the test's own on real NATS and S3 servers, and a job's calls to them in few words."""

from __future__ import annotations

import asyncio
import base64
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c
import msgspec
import nats.errors
import urllib3
from nats.aio.client import Client

from transfer import api, bus
from transfer.api import ErrorCode, JobState
from transfer.errors import BusUnreachable
from transfer.local.programs import find
from transfer.seal import Sealer
from transfer.ticket import Ticket

HTTP = urllib3.PoolManager(retries=False)
BUCKET = "broker-tests"
T = TypeVar("T", bound=msgspec.Struct)
EXPIRE = 1000.0
"""Seconds that a test's job is kept once stored."""


@dataclass(frozen=True)
class Place:
    """An open NATS server (so that a test can be any user) and the worker's store."""

    nats_url: str
    s3_endpoint: str
    env: dict[str, str]
    folder: Path


@contextmanager
def process(
    argv: list[str], log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "ab") as stderr:
        started = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
            raise


@contextmanager
def nats_server(folder: Path, port: int, more: str = "") -> Iterator[str]:
    config = folder / "nats.conf"
    config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder / "js"}" }}\n{more}\n')
    argv = [find("nats-server"), "-c", str(config)]
    with process(argv, folder / "nats.log"):
        yield f"nats://127.0.0.1:{port}"


@contextmanager
def broker_process(place: Place, log: Path, *argv: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", *(argv or ("-m", "transfer.broker"))]
    with process(command, log, {**place.env, **more}) as started:
        yield started


def until_said(log: Path, text: str) -> None:
    """Wait until a log holds it."""
    deadline = time.monotonic() + 30
    while text not in log.read_text():
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def connect(place: Place, user: str = "alice") -> Client:
    return await bus.connect(place.nats_url, None, user, "test")


async def answers(client: Client, each: float = 2.0) -> api.ApiError | api.BrokerInfo:
    """Wait until a broker answers anything at all. each: seconds for one try."""
    async with asyncio.timeout(20):
        while True:
            try:
                async with asyncio.timeout(each):
                    return await ask(client, "info", api.Info(), api.BrokerInfo)
            except (nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.05)


async def raw(client: Client, verb: str, body: bytes, user: str = "alice") -> tuple[bytes, bool]:
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


async def ask(
    client: Client, verb: str, request: msgspec.Struct, kind: type[T], user: str = "alice"
) -> T | api.ApiError:
    """The answer, or the ApiError."""
    body, failed = await raw(client, verb, msgspec.json.encode(request), user)
    return msgspec.json.decode(body, type=api.ApiError) if failed else msgspec.json.decode(body, type=kind)


async def answered(
    client: Client, verb: str, request: msgspec.Struct, kind: type[T], user: str = "alice"
) -> T:
    """As `ask`, and it must not be refused."""
    answer = await ask(client, verb, request, kind, user)
    assert isinstance(answer, kind), answer
    return answer


class Job:
    """A sender's and a receiver's calls for one job, as few words as possible. folder: where its objects lie.

    Each gives the verb's answer or an ApiError, whichever the broker gave: the test knows which it is.
    """

    folder: str

    def __init__(self, client: Client, owner: str = "alice") -> None:
        self.client, self.owner, self.sealer = client, owner, Sealer(Ticket.new())
        self.id, self.token = self.sealer.job, self.sealer.token()

    async def create(self, **changes: Any) -> api.Created | api.ApiError:
        fields: dict[str, Any] = {
            "job": self.id,
            "token_hash": self.sealer.token_hash(),
            "size": 1,
            "expire": EXPIRE,
        }
        return await ask(self.client, "create", api.Create(**{**fields, **changes}), api.Created, self.owner)

    async def begin(self, segment: int = 0, user: str = "alice") -> Any:
        answer = await ask(self.client, "begin", api.Begin(job=self.id, segment=segment), api.Begun, user)
        return answer.upload if isinstance(answer, api.Begun) else answer

    async def sign(self, upload: str, *payloads: bytes, segment: int = 0) -> Any:
        parts = [api.PartToSign(n, len(data), crc(data)) for n, data in enumerate(payloads, 1)]
        request = api.SignParts(job=self.id, segment=segment, upload=upload, parts=parts)
        answer = await ask(self.client, "sign_parts", request, api.SignedUrls)
        return answer.urls if isinstance(answer, api.SignedUrls) else answer

    async def put(self, upload: str, *payloads: bytes, segment: int = 0) -> list[api.StoredPart]:
        stored = []
        urls = await self.sign(upload, *payloads, segment=segment)
        for number, (signed, data) in enumerate(zip(urls, payloads, strict=True), 1):
            answer = await asyncio.to_thread(
                HTTP.request, "PUT", signed.url, body=data, headers=signed.headers
            )
            assert answer.status == 200
            stored.append(api.StoredPart(number, answer.headers["ETag"].strip('"'), len(data), crc(data)))
        return stored

    async def list_parts(self, upload: str, segment: int = 0) -> Any:
        request = api.ListParts(job=self.id, segment=segment, upload=upload)
        return await ask(self.client, "list_parts", request, api.PartList)

    async def complete(
        self, upload: str, parts: list[api.StoredPart], segment: int = 0, index: int = 9
    ) -> Any:
        request = api.Complete(job=self.id, segment=segment, upload=upload, parts=parts, index=index)
        return await ask(self.client, "complete", request, api.Completed)

    async def store(self, *numbers: int, data: bytes = b"what a segment holds") -> None:
        """Store these segments, one small part each."""
        for number in numbers:
            upload = await self.begin(number)
            parts = await self.put(upload, data, segment=number)
            assert isinstance(await self.complete(upload, parts, segment=number), api.Completed)

    async def finish(self, outcome: JobState, segments: int = 0) -> Any:
        request = api.Finish(job=self.id, outcome=outcome, segments=segments)
        return await ask(self.client, "finish", request, api.Finished)

    async def open(self, token: str | None = None, user: str = "alice") -> Any:
        return await ask(
            self.client, "open", api.Open(job=self.id, token=token or self.token), api.Opened, user
        )

    async def segments(self, start: int = 0) -> Any:
        request = api.Segments(job=self.id, token=self.token, start=start)
        return await ask(self.client, "segments", request, api.SegmentPage)

    async def gets(self, *segments: int) -> Any:
        request = api.SignGets(job=self.id, token=self.token, segments=list(segments))
        answer = await ask(self.client, "sign_gets", request, api.SignedUrls)
        return answer.urls if isinstance(answer, api.SignedUrls) else answer

    async def receipt(self, receiver: str, sealed: bytes = b"sealed") -> Any:
        text = base64.b64encode(sealed).decode()
        request = api.GiveReceipt(job=self.id, token=self.token, receiver=receiver, sealed=text)
        return await ask(self.client, "receipt", request, api.Done)

    async def status(self, user: str = "alice") -> Any:
        return await ask(self.client, "status", api.Status(job=self.id), api.JobStatus, user)


def crc(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


async def got(url: str) -> tuple[int, bytes]:
    answer = await asyncio.to_thread(HTTP.request, "GET", url)
    return answer.status, answer.data


async def gone(url: str) -> bool:
    """Whether the store says so soon: brokers work off what they owe while nobody waits."""
    for _ in range(400):
        if (await got(url))[0] == 404:
            return True
        await asyncio.sleep(0.05)
    return False


def code(answer: object) -> ErrorCode | None:
    return answer.code if isinstance(answer, api.ApiError) else None


async def connected(place: Place) -> Client:
    """Connect once NATS is up."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await connect(place)
            except BusUnreachable:
                await asyncio.sleep(0.1)
