"""Two machines that share the worker's servers: one sends, the other fetches. And a broker of its own for the tests of it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bare import child, configured, env, home
from brokers import BUCKET, EXPIRE, Job, Place, answers, broker_process, connect, free_port, nats_server
from helpers import Two
from nats.aio.client import Client
from stand import Stand
from swept import sweeper

from transfer import api
from transfer.broker.keys import folder_of
from transfer.broker.records import Records
from transfer.broker.store import Store

if TYPE_CHECKING:
    from tests.conftest import Servers

__all__ = ["child", "configured", "env", "home", "sweeper"]  # fixtures of one subject stand in its module


@pytest.fixture
def two(servers: Servers, tmp_path: Path) -> Iterator[Two]:
    """A sender's and a receiver's machine; what they started is ended, however the test ends."""
    if sys.platform == "win32":
        pytest.skip("local servers need Linux or macOS")
    base = {
        **servers.env,
        "NATS_URL": servers.nats_url,
        "NATS_CREDS": str(servers.creds),
        "XFER_USER": "local",
    }
    (tmp_path / "out").mkdir()
    pair = Two(
        tmp=tmp_path,
        here={**base, "XFER_HOME": str(tmp_path / "home-here")},
        there={**base, "XFER_HOME": str(tmp_path / "home-there")},
        out=tmp_path / "out",
        started=[],
    )
    yield pair
    pair.close()


@pytest.fixture
def stand(servers: Servers, tmp_path: Path) -> Stand:
    """Machines as bare as cron's, and a room."""
    if sys.platform == "win32":
        pytest.skip("local servers need Linux or macOS")
    return Stand.set_up(tmp_path, servers)


@pytest.fixture(scope="session")
def place(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """NATS for whoever asks, without a broker, beside the worker's store."""
    folder = tmp_path_factory.mktemp("broker")
    with nats_server(folder, free_port()) as url:
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "AWS_", "XFER_"))},
            "PYTHONPATH": servers.env["PYTHONPATH"],
            "NATS_URL": url,
            "XFER_S3_ENDPOINT": servers.s3_endpoint,
            "XFER_BUCKET": BUCKET,
            "AWS_SHARED_CREDENTIALS_FILE": str(servers.dir / "aws_credentials"),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        yield Place(url, servers.s3_endpoint, env, folder)


@pytest.fixture(scope="session")
def broker(place: Place) -> Iterator[Path]:
    """A broker with default settings; the path of what it says."""
    log = place.folder / "broker.log"
    with broker_process(place, log):
        yield log


@pytest.fixture
async def client(place: Place, broker: Path) -> AsyncIterator[Client]:
    client = await connect(place)
    await answers(client)
    yield client
    await client.close()


@pytest.fixture
async def store(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", place.env["AWS_SHARED_CREDENTIALS_FILE"])
    store = Store(endpoint_url=place.s3_endpoint, bucket=BUCKET)
    yield store
    store.close()


@pytest.fixture
async def records(client: Client) -> Records:
    return await Records.attach(client)


@pytest.fixture
async def job(client: Client, records: Records) -> Job:
    job = Job(client)
    assert isinstance(await job.create(), api.Created)
    job.folder = folder_of(job.id, records.realm, EXPIRE)
    return job
