"""Two brokers: one is killed, or leaves, while many transfers run. Nobody notices, nothing is lost."""

from __future__ import annotations

import asyncio
import filecmp
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from brokers import BUCKET, Place, answers, broker_process, connected, free_port, nats_server
from helpers import Two, write
from nats.aio.client import Client

from transfer import api
from transfer.api import JobState
from transfer.broker.records import Records
from transfer.broker.store import Store
from transfer.broker_client import BrokerClient, Patience
from transfer.seal import Sealer
from transfer.ticket import Ticket

if TYPE_CHECKING:
    from tests.conftest import Servers

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform == "win32", reason="local servers need Linux or macOS"),
]

TRANSFERS = 20
AT_ONCE = 10
ENDED_WITHIN = 100.0
NOTICED = 30.0
"""Seconds for one call, on a machine that is busy with much else; without asking again it would be 10 s more."""


@pytest.fixture
async def here(servers: Servers, tmp_path: Path) -> AsyncIterator[Place]:
    """A NATS server of the test's own beside the worker's store."""
    with nats_server(tmp_path, free_port()) as url:
        strangers = ("NATS_", "AWS_", "XFER_")
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(strangers)},
            "PYTHONPATH": servers.env["PYTHONPATH"],
            "NATS_URL": url,
            "XFER_S3_ENDPOINT": servers.s3_endpoint,
            "XFER_BUCKET": BUCKET,
            "XFER_SWEEP_EVERY": "1",
            "AWS_SHARED_CREDENTIALS_FILE": str(servers.dir / "aws_credentials"),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        yield Place(url, servers.s3_endpoint, env, tmp_path)


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
async def test_a_broker_ends_while_twenty_transfers_run_and_all_end_well(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: signal.Signals
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", here.env["AWS_SHARED_CREDENTIALS_FILE"])
    with broker_process(here, tmp_path / "a.log") as dying, broker_process(here, tmp_path / "b.log"):
        client = await connected(here)
        await answers(client)
        begun = threading.Semaphore(0)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            running = [pool.submit(transfer, here, tmp_path / str(n), begun) for n in range(TRANSFERS)]
            for _ in range(AT_ONCE // 2):
                assert await asyncio.to_thread(begun.acquire, timeout=60)
            dying.send_signal(ends)
            jobs = [await asyncio.wrap_future(each) for each in running]
        assert await left(here, client, set(jobs)) == []
        await client.close()


def transfer(here: Place, folder: Path, begun: threading.Semaphore) -> str:
    """One file through the store. Returns the job once it is sent and fetched."""
    (folder / "out").mkdir(parents=True)
    env = {name: value for name, value in here.env.items() if not name.startswith(("XFER_", "AWS_"))}
    pair = Two(
        tmp=folder,
        here={**env, "XFER_USER": "ann", "XFER_HOME": str(folder / "here")},
        there={**env, "XFER_USER": "bob", "XFER_HOME": str(folder / "there")},
        out=folder / "out",
        started=[],
    )
    try:
        source = write(folder / "f", 200_000)
        sent = pair.send("--via", "s3", "--fetches", "1", source)
        assert sent.ticket
        begun.release()
        got = pair.fetch(sent.ticket)
        sent.end(ENDED_WITHIN)
        got.end(ENDED_WITHIN)
        assert (sent.summary.outcome, got.summary.outcome) in {("stored", "fetched"), ("receipt", "fetched")}
        assert filecmp.cmp(source, pair.out / "f", shallow=False)
        return sent.summary.job
    finally:
        pair.close()


async def left(here: Place, client: Client, jobs: set[str]) -> list[str]:
    """What is not over once the broker that is left had its time."""
    store = Store(endpoint_url=here.s3_endpoint, bucket=BUCKET)
    records = await Records.attach(client)
    deadline = time.monotonic() + 60
    try:
        while True:
            found = [f"upload {u.place}" for u in await store.uploads() if u.place.job in jobs]
            async for page in store.objects(""):
                found += [f"object {o.place}" for o in page if o.place.job in jobs]
            async for entry in records.all():
                if entry.record.job in jobs and entry.record.state is not JobState.DELIVERED:
                    found.append(f"job {entry.record}")
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.3)
    finally:
        store.close()


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
async def test_no_call_fails_or_takes_long_when_a_broker_ends_among_hundreds_of_them(
    here: Place, tmp_path: Path, ends: signal.Signals
) -> None:
    took = list[float]()
    with broker_process(here, tmp_path / "a.log") as dying, broker_process(here, tmp_path / "b.log") as b:
        client = await connected(here)
        await answers(client)
        asked = BrokerClient(client, "alice", Patience(60))

        async def a_job() -> None:
            sealer = Sealer(Ticket.new())
            created = api.Create(job=sealer.job, token_hash=sealer.token_hash(), size=1, expire=1000.0)
            for call in (
                lambda: asked.create(created),
                lambda: asked.begin(sealer.job, 0),
                lambda: asked.status(sealer.job),
                lambda: asked.finish(sealer.job, JobState.VOID),
            ):
                began = time.monotonic()
                await call()
                took.append(time.monotonic() - began)

        async def some() -> None:
            for _ in range(15):
                await a_job()

        running = asyncio.gather(*(some() for _ in range(20)))
        while len(took) < 100 and not running.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        dying.send_signal(ends)
        await running
        assert await asyncio.to_thread(dying.wait, 30) == (-ends if ends is signal.SIGKILL else 0)
        assert b.poll() is None
        await client.close()
    print(f"{len(took)} calls, the longest {max(took):.2f} s")
    assert len(took) == 20 * 15 * 4
    assert max(took) < NOTICED
