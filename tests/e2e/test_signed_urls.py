"""A signed URL is good for one key, one method, one length and checksum, for minutes: whoever gets hold of one tries the rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from brokers import HTTP, Job, answered, crc, got
from nats.aio.client import Client

from transfer import api
from transfer.broker.settings import Settings

DATA = b"what a segment holds"


async def status(method: str, url: str, body: bytes | None = None, **headers: str) -> int:
    answer = await asyncio.to_thread(HTTP.request, method, url, body=body, headers=headers)
    return int(answer.status)


def moved(url: str, change: Callable[[str], str]) -> str:
    """The same URL for another path."""
    parts = urlsplit(url)
    return parts._replace(path=change(parts.path)).geturl()


def asked(url: str, name: str, value: str) -> str:
    """The same URL with another parameter."""
    old = f"{name}={parse_qs(urlsplit(url).query)[name][0]}"
    assert old in url
    return url.replace(old, f"{name}={value}")


@pytest.fixture
async def reading(job: Job) -> str:
    """A URL to read segment 0; segment 1 is there as well."""
    await job.store(0, 1, data=DATA)
    [signed] = await job.gets(0)
    assert await got(signed.url) == (200, DATA)
    return str(signed.url)


@pytest.fixture
async def writing(job: Job) -> api.SignedUrl:
    """A URL to put part 1 of segment 5."""
    [signed] = await job.sign(await job.begin(5), DATA, segment=5)
    assert isinstance(signed, api.SignedUrl)
    return signed


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_url_to_read_neither_writes_nor_deletes(job: Job, reading: str, method: str) -> None:
    assert await status(method, reading, DATA if method != "DELETE" else None) in (400, 403, 405)
    assert await got(reading) == (200, DATA)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.replace("000000", "000001"),
        lambda path: path.rpartition("/")[0],
        lambda path: path + "/..",
        lambda path: "/" + path.split("/")[1],
        lambda path: "/",
    ],
    ids=["another segment", "the folder", "above", "the bucket", "all buckets"],
)
async def test_a_url_to_read_reads_one_key(reading: str, change: Callable[[str], str]) -> None:
    assert (await got(moved(reading, change)))[0] in (400, 403, 404)


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_a_url_to_write_neither_reads_nor_deletes(writing: api.SignedUrl, method: str) -> None:
    assert await status(method, writing.url, DATA, **writing.headers) in (400, 403, 405)


async def test_a_url_to_write_writes_one_part_of_one_upload(job: Job, writing: api.SignedUrl) -> None:
    upload = await job.begin(1)
    other = asked(writing.url, "uploadId", upload)
    for wrong in (
        asked(writing.url, "partNumber", "2"),
        other,
        moved(other, lambda path: path.replace("000005", "000001")),
        moved(writing.url, lambda path: path.replace("000005", "000009")),
        moved(writing.url, lambda path: path.rpartition("/")[0] + "/else"),
    ):
        assert await status("PUT", wrong, DATA, **writing.headers) in (400, 403, 404)
    assert (await job.list_parts(upload, segment=1)).parts == []
    assert await status("PUT", writing.url, DATA, **writing.headers) == 200


@pytest.mark.parametrize("length", [0, 1, len(DATA) - 1, len(DATA) + 1, 10_000_000])
async def test_a_url_to_write_takes_one_length(job: Job, writing: api.SignedUrl, length: int) -> None:
    body = (DATA * (length // len(DATA) + 1))[:length]
    headers = {"Content-Length": str(length), "x-amz-checksum-crc32c": crc(body)}
    with contextlib.suppress(urllib3.exceptions.HTTPError):  # it may hang up on what is too long
        assert await status("PUT", writing.url, body, **headers) in (400, 403)
    assert (await job.list_parts(upload_of(writing), segment=5)).parts == []


def upload_of(signed: api.SignedUrl) -> str:
    return parse_qs(urlsplit(signed.url).query)["uploadId"][0]


async def test_no_url_lives_longer_when_asked_to_nor_without_its_signature(
    reading: str, writing: api.SignedUrl
) -> None:
    for url, call in ((reading, "GET"), (writing.url, "PUT")):
        body = DATA if call == "PUT" else None
        headers = writing.headers if call == "PUT" else {}
        signature = parse_qs(urlsplit(url).query)["X-Amz-Signature"][0]
        for wrong in (
            asked(url, "X-Amz-Expires", "604800"),
            asked(url, "X-Amz-Signature", "0" * len(signature)),
            url.replace(f"&X-Amz-Signature={signature}", ""),
            url.partition("?")[0],
        ):
            assert await status(call, wrong, body, **headers) in (400, 401, 403)


async def test_urls_live_for_minutes_and_a_probes_for_one(
    reading: str, writing: api.SignedUrl, client: Client
) -> None:
    request = api.Probe(slot=9, length=len(DATA), crc32c=crc(DATA))
    probe = await answered(client, "probe", request, api.ProbeUrls)
    lives = [
        int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0])
        for url in (reading, writing.url, probe.put.url, probe.get.url)
    ]
    assert lives == [Settings.url_life, Settings.url_life, 60, 60]
    assert Settings.url_life == 15 * 60
