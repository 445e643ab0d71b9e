"""The bucket's own lifecycle rules, the second net."""

from __future__ import annotations

import asyncio

import boto3
import pytest
from brokers import BUCKET, Job, Place, got
from swept import LIFE

from transfer.broker import lifecycle
from transfer.broker.keys import DAY
from transfer.broker.store import Store


async def test_the_buckets_rules_join_those_that_are_there(
    place: Place, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", lifecycle.__name__)
    own = Store(endpoint_url=place.s3_endpoint, bucket="rules-tests")
    await own.ensure_bucket()
    foreign = {
        "ID": "theirs",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 3},
    }
    outdated = {**foreign, "ID": "xfer:xfer/:1d", "Filter": {"Prefix": "xfer/1d/"}}
    s3 = boto3.client("s3", endpoint_url=place.s3_endpoint, region_name="us-east-1")
    given = {"Rules": [foreign, outdated]}
    await asyncio.to_thread(
        s3.put_bucket_lifecycle_configuration, Bucket="rules-tests", LifecycleConfiguration=given
    )
    for _ in range(2):
        await lifecycle.install(own, LIFE)
        there = await asyncio.to_thread(s3.get_bucket_lifecycle_configuration, Bucket="rules-tests")
        assert there["Rules"] == [foreign, *lifecycle.rules("xfer/", LIFE)]
    own.close()
    assert [r.getMessage() for r in caplog.records] == ["the bucket has lifecycle rules now"]


async def test_what_is_stored_under_the_rules_reads_as_before(job: Job, store: Store) -> None:
    await lifecycle.install(store, LIFE)
    long = Job(job.client)
    await long.create(expire=3000 * DAY)
    for one in (job, long):
        await one.store(0, data=b"as it was")
        [signed] = await one.gets(0)
        assert await got(signed.url) == (200, b"as it was")


async def test_the_broker_itself_installs_the_rules(broker: object, store: Store) -> None:
    s3 = boto3.client("s3", endpoint_url=store._endpoint_url, region_name="us-east-1")
    wanted = {rule["ID"] for rule in lifecycle.rules("xfer/", LIFE)}
    async with asyncio.timeout(20):
        while True:
            try:
                there = await asyncio.to_thread(s3.get_bucket_lifecycle_configuration, Bucket=BUCKET)
                break
            except s3.exceptions.ClientError:
                await asyncio.sleep(0.1)
    assert wanted <= {rule["ID"] for rule in there["Rules"]}
