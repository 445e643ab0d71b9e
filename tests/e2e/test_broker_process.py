"""The broker as a process: its start and end, clocks, outages, its log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import nats.errors
import pytest
from broker_asked import SKEWED
from brokers import (
    Job,
    Place,
    answers,
    ask,
    broker_process,
    code,
    connected,
    free_port,
    nats_server,
    until_said,
)  # fmt: skip

from transfer import api
from transfer.api import ErrorCode, JobState
from transfer.broker.store import Store
from transfer.errors import StoreUnreachable


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
            await asyncio.to_thread(until_said, tmp_path / "log", "waiting for the store: ")
            assert "ready" not in (tmp_path / "log").read_text()
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
        await asyncio.to_thread(until_said, log, "waiting for NATS")
        with nats_server(tmp_path, port):
            client = await connected(alone)
            assert isinstance(await answers(client), api.BrokerInfo)
            await client.close()
            await asyncio.to_thread(until_said, log, "ready, bucket ")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0
    assert "hush" not in log.read_text()


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
    asked = asyncio.Event()

    async def hang_up_late(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(0.5)
        writer.close()

    network = await asyncio.start_server(hang_up_late, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{network.sockets[0].getsockname()[1]}"
    with nats_server(tmp_path, free_port()) as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        with broker_process(alone, tmp_path / "log", XFER_S3_ENDPOINT=endpoint) as process:
            client = await connected(alone)
            assert code(await answers(client, each=10)) is ErrorCode.STORE
            asked.clear()
            asking = asyncio.ensure_future(ask(client, "info", api.Info(), api.BrokerInfo))
            await asyncio.wait_for(asked.wait(), 20)
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
