"""A server, a leaf or a broker of the clustered bus dies while twenty transfers cross it: all end well, nothing is left."""

from __future__ import annotations

import asyncio
import filecmp
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import Two, write
from nats.js.api import StreamConfig

from scripts._cluster import CORES, LEAVES, Cluster, cross
from transfer import bus
from transfer.api import JobState
from transfer.broker import streams
from transfer.broker.records import Records
from transfer.broker.store import Store

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="starts local servers, many of them"),
]

TRANSFERS = 20
AT_ONCE = 10
"""Pairs of commands that run at a time, so that two cores get through them; the others follow as these end."""
ENDED_WITHIN = 100.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        running.up()
        yield running
    finally:
        running.close()


def test_a_transfer_crosses_from_leaf_to_leaf(cluster: Cluster, tmp_path: Path) -> None:
    source = write(tmp_path / "f", 300_000)
    assert "by webrtc" in cross(cluster, source, "webrtc", "ann", "bob")
    assert "by s3" in cross(cluster, source, "s3", "bob", "ann")


def test_no_broker_misses_a_right_not_even_at_a_leaf(cluster: Cluster) -> None:
    logs = [path.read_text() for path in cluster.folder.root.glob("broker*.log")]
    assert len(logs) == 2
    assert not any("does not let" in log for log in logs)


def test_the_script_says_what_it_does(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parent.parent.parent / "scripts" / "cluster"
    shown = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, timeout=30)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("usage: scripts/cluster\n")
    wrong = subprocess.run(["bash", script, "file"], capture_output=True, text=True, timeout=30)
    assert (wrong.returncode, wrong.stderr) == (2, "usage: scripts/cluster\n")


def test_all_that_brokers_keep_is_on_three_servers(cluster: Cluster) -> None:
    replicas = asyncio.run(cluster.replicas())
    assert set(replicas) >= {
        "KV_xfer_jobs",
        "KV_xfer_lease",
        "KV_xfer_rooms",
        "xfer_work",
        "xfer_dead",
        "xfer_events",
    }
    assert set(replicas.values()) == {3}


def test_more_replicas_are_made_of_what_is_there_and_never_fewer(cluster: Cluster) -> None:
    async def made() -> list[int | None]:
        client = await bus.connect(cluster.url(*CORES), cluster.folder.seed("broker"), "broker", "test")
        stream = StreamConfig(name="test", subjects=["test.>"])
        seen = []
        try:
            for replicas in (1, 3, 1):
                await streams.ensure(client.jetstream(), stream, replicas)
                seen.append((await client.jetstream().stream_info("test")).config.num_replicas)
            await client.jetstream().delete_stream("test")
        finally:
            await client.close()
        return seen

    assert asyncio.run(made()) == [1, 3, 3]


@pytest.mark.parametrize("victim", ["core-1", "leaf-a", "broker-a"])
def test_one_of_them_dies_during_twenty_transfers(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(cluster.folder.aws_credentials))
    begun = threading.Semaphore(0)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(transfer, cluster, tmp_path, number, begun) for number in range(TRANSFERS)]
        for _ in range(AT_ONCE // 2):  # the first ones are under way
            assert begun.acquire(timeout=60)
        cluster.kill(victim)
        try:
            jobs = [each.result(ENDED_WITHIN) for each in running]
        finally:
            cluster.start(victim)
    asyncio.run(cluster.answers())
    assert asyncio.run(left(cluster, set(jobs))) == []


def transfer(cluster: Cluster, tmp: Path, number: int, begun: threading.Semaphore) -> str:
    """One file from user to user, at once or by way of the store. Returns the job once both have ended well."""
    folder = tmp / str(number)
    (folder / "out").mkdir(parents=True)
    via = "webrtc" if number % 2 else "s3"
    sender, receiver = ("ann", "bob") if number % 4 < 2 else ("bob", "ann")
    pair = Two(
        tmp=folder,
        here=cluster.client_env(sender, folder / "here", *LEAVES),
        there=cluster.client_env(receiver, folder / "there", *LEAVES),
        out=folder / "out",
        started=[],
    )
    try:
        source = write(folder / "f", 200_000 + number)
        sent = pair.send("--via", via, "--fetches", "1", source)
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


async def left(cluster: Cluster, jobs: set[str]) -> list[str]:
    """What the store still has of these jobs, and which of them are not over, once the brokers had their time."""
    store = Store(endpoint_url=cluster.s3_endpoint, bucket="xfer")
    client = await bus.connect(cluster.url(*CORES), cluster.folder.seed("broker"), "broker", "test")
    deadline = time.monotonic() + 60
    try:
        records = await Records.attach(client)
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
        await client.close()
