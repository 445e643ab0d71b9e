"""Signed URLs: good for exactly their bytes and no longer; what the store refuses."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import msgspec
import pytest
from brokers import HTTP, Job, Place, code, crc, got  # fmt: skip

from transfer import api
from transfer.api import ErrorCode
from transfer.broker.store import Store


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


async def test_where_urls_will_point_is_said_with_a_job(job: Job) -> None:
    [signed] = await job.sign(await job.begin(), b"x")
    at = urlsplit(signed.url)
    for answer in (await job.create(), await job.open()):
        assert getattr(answer, "store", None) == f"{at.scheme}://{at.netloc}"


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
