"""What lies in the store and belongs to no live job: asked of the store with the broker's keys, and of its job records."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import re
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from transfer import bus
from transfer.api import JobState
from transfer.broker.job import JobRecord
from transfer.broker.records import Records

LIVE = (JobState.OPEN, JobState.STORED)


class Up(Protocol):
    """Where an `xfer up` runs: `conftest.Servers` is one."""

    @property
    def nats_url(self) -> str: ...
    @property
    def s3_endpoint(self) -> str: ...
    @property
    def bucket(self) -> str: ...
    @property
    def dir(self) -> Path: ...


def orphans(servers: Up) -> list[str]:
    """Objects and open uploads that no live job owns, each as one line for an assertion; [] is what is wanted.

    A job is live while it is open or stored and not expired. It owns the objects of its stored segments and the
    uploads on its record, and while it is open also what a `complete` that is under way has made of such an upload.
    """
    with contextlib.suppress(ClientError):  # no bucket: nothing in it
        objects, uploads = _objects(servers), _uploads(servers)
        # The records last: what was made since the listing is not in it, and what it lists is on record by now.
        jobs = live_jobs(servers)
        lost = [f"object {key}" for key in objects if not _owns_object(jobs, key)]
        lost += [f"upload {key} {upload}" for key, upload in uploads if not _owns_upload(jobs, key, upload)]
        return sorted(lost)
    return []


def orphans_within(servers: Up, seconds: float) -> list[str]:
    """The same once nothing is left, or what is left after so many seconds: sweeps take their time."""
    deadline = time.monotonic() + seconds
    while (lost := orphans(servers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return lost


def live_jobs(servers: Up) -> dict[str, JobRecord]:
    """Job id to record of all that are open or stored and not expired."""
    found: dict[str, JobRecord] = {}

    async def read() -> None:
        seed = servers.dir / "credentials" / "broker.nk"
        client = await bus.connect(servers.nats_url, seed, "broker", "orphans")
        try:
            records = await Records.attach(client)
            async for entry in records.all():
                record = entry.record
                if record.state in LIVE and not record.expired(time.time()):
                    found[record.job] = record
        finally:
            await client.close()

    # A thread of its own, so that tests with a running loop may ask as well.
    failure: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(read())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return found


def objects_of(servers: Up, job: str) -> list[str]:
    """The keys of a job's objects, in the order of its segments."""
    return [key for key in _objects(servers) if f"/{job}/" in key]


def s3(servers: Up) -> Any:
    """A boto3 client with the broker's keys."""
    keys = configparser.ConfigParser()
    keys.read(servers.dir / "aws_credentials")
    return boto3.client(
        "s3",
        endpoint_url=servers.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys["default"]["aws_access_key_id"],
        aws_secret_access_key=keys["default"]["aws_secret_access_key"],
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
    )


def _objects(servers: Up) -> list[str]:
    pages = s3(servers).get_paginator("list_objects_v2").paginate(Bucket=servers.bucket)
    return sorted(row["Key"] for page in pages for row in page.get("Contents", []))


def _uploads(servers: Up) -> list[tuple[str, str]]:
    pages = s3(servers).get_paginator("list_multipart_uploads").paginate(Bucket=servers.bucket)
    return [(row["Key"], row["UploadId"]) for page in pages for row in page.get("Uploads", [])]


def _owns_object(jobs: dict[str, JobRecord], key: str) -> bool:
    record, segment = _owner(jobs, key)
    return record is not None and (record.has(segment) or segment in record.uploads)


def _owns_upload(jobs: dict[str, JobRecord], key: str, upload: str) -> bool:
    record, segment = _owner(jobs, key)
    return record is not None and record.uploads.get(segment) == upload


def _owner(jobs: dict[str, JobRecord], key: str) -> tuple[JobRecord | None, int]:
    """The job and the segment that a key names."""
    named = re.fullmatch(r"(?:.*/)?([a-z0-9]{16})/([0-9]{6})", key)
    return (jobs.get(named[1]), int(named[2])) if named else (None, -1)
