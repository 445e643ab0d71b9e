"""A real broker's metrics, scraped for real; and what it logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import urllib3
from brokers import (
    HTTP,
    Job,
    Place,
    answers,
    ask,
    broker_process,
    code,
    connected,
    free_port,
    nats_server,
)
from nats.aio.client import Client
from nats.js.api import StreamConfig
from prometheus_client.parser import text_string_to_metric_families

from transfer import api
from transfer.api import ErrorCode, JobState
from transfer.broker import watching
from transfer.broker.metrics import Metrics
from transfer.broker.observer import QuotaUse
from transfer.errors import BusUnreachable

DEPLOY = Path(__file__).resolve().parents[2] / "scripts" / "deploy"
DEPLOYED = {name: (DEPLOY / name).read_text() for name in ("grafana-dashboard.json", "alerts.yml")}
SOON = 40.0
"""Seconds in which what must happen has happened."""


class Scraped:
    """A broker of the test's own, and what it shows."""

    def __init__(self, place: Place, port: int, log: Path) -> None:
        self.place, self.port, self.log = place, port, log

    def get(self, path: str) -> tuple[int, str]:
        answer = HTTP.request("GET", f"http://127.0.0.1:{self.port}{path}")
        return answer.status, answer.data.decode()

    async def values(self) -> dict[tuple[str, ...], float]:
        """Name and label values of each sample."""
        status, text = await asyncio.to_thread(self.get, "/metrics")
        assert status == 200
        families = text_string_to_metric_families(text)
        return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}

    async def until(self, *key: str, value: float) -> None:
        async with asyncio.timeout(SOON):
            while (await self.values()).get(key) != value:  # noqa: ASYNC110 (another process counts)
                await asyncio.sleep(0.1)


@pytest.fixture
def scraped(place: Place, tmp_path: Path) -> Iterator[Scraped]:
    with nats_server(tmp_path, free_port()) as url:
        alone = Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, tmp_path)
        port, log, rules = free_port(), tmp_path / "broker.log", tmp_path / "rules.toml"
        rules.write_text("[quota.users.carol]\nrequests_per_minute = 0\n")
        with broker_process(
            alone,
            log,
            XFER_RULES=str(rules),
            XFER_METRICS=str(port),
            XFER_LOG="json",
            XFER_SWEEP_EVERY="0.5",
            XFER_PREFIX="metrics/",
        ):
            yield Scraped(alone, port, log)


@pytest.fixture
async def user(scraped: Scraped) -> AsyncIterator[Client]:
    client = await connected(scraped.place)
    await answers(client)
    yield client
    await client.close()


async def test_a_scrape_shows_what_the_broker_did(scraped: Scraped, user: Client) -> None:
    job, data = Job(user), b"what a segment holds"
    await job.create()
    await job.store(0, 1, data=data)
    await job.finish(JobState.STORED, 2)
    await job.gets(0, 1)
    await job.open(token="f" * 64)
    await job.begin(-1)
    shown = await scraped.values()
    assert shown["xfer_requests_total", "create", "ok"] == 1
    assert shown["xfer_requests_total", "begin", "ok"] == 2
    assert shown["xfer_requests_total", "bad_request", "begin"] == 1
    assert shown["xfer_requests_total", "not_found", "open"] == 1
    assert shown["xfer_request_seconds_count", "create"] == 1
    assert shown["xfer_wrong_tokens_total",] == 1
    assert shown["xfer_signed_bytes_total", "up"] == 2 * len(data)
    assert shown["xfer_signed_bytes_total", "down"] == 2 * len(data)
    await scraped.until("xfer_jobs", "stored", value=1)
    shown = await scraped.values()
    assert shown["xfer_sweeper_passes_total", "jobs", "ok"] >= 1
    assert shown["xfer_sweeper_last_success_timestamp_seconds", "jobs"] > 1.7e9
    assert shown["xfer_nats_connected",] == 1
    assert not [key for key in shown if job.id in key or "alice" in key]


async def test_a_real_scrape_has_every_metric_that_dashboard_and_alerts_name(
    scraped: Scraped, user: Client
) -> None:
    _status, text = await asyncio.to_thread(scraped.get, "/metrics")
    there = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    for name in DEPLOYED:
        used = set(re.findall(r"\bxfer_[a-z_]+\b", DEPLOYED[name]))
        assert len(used) > 8
        assert {re.sub(r"_(bucket|count|sum)$", "", metric) for metric in used} <= there, name


async def test_verbs_that_nobody_knows_make_no_new_series(scraped: Scraped, user: Client) -> None:
    from brokers import raw

    for number in range(5):
        await raw(user, f"nonsense{number}", b"{}")
    shown = await scraped.values()
    assert shown["xfer_requests_total", "unknown", "version"] == 5
    assert not [key for key in shown if any("nonsense" in part for part in key)]


async def test_what_waits_in_the_work_queue_and_among_the_dead_letters_is_shown(
    scraped: Scraped, user: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    jetstream = user.jetstream()
    for name, subjects in (("xfer_work", "xfer.work.>"), ("xfer_dead", "xfer.dead.>")):
        try:
            await jetstream.add_stream(StreamConfig(name=name, subjects=[subjects]))
        except Exception:
            await jetstream.stream_info(name)  # the broker was quicker
    await jetstream.publish("xfer.dead.metrics.test", b"{}")
    await scraped.until("xfer_dead_letters", "xfer_dead", value=1)


async def test_what_is_used_of_quotas_is_asked_again_and_again(
    user: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.01)
    metrics, asked = Metrics("1"), [0]

    async def used() -> list[QuotaUse]:
        asked[0] += 1
        if asked[0] == 2:
            raise BusUnreachable("away")
        return [QuotaUse("open_jobs", "", asked[0], 1000)]

    looking = asyncio.create_task(watching.keep_looking(user, metrics, used))
    async with asyncio.timeout(SOON):
        while asked[0] < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    text = metrics.text().decode()
    assert re.search(r'^xfer_quota_used\{limit="open_jobs",user=""\} [0-9.]+$', text, re.MULTILINE)
    assert 'xfer_quota_limit{limit="open_jobs",user=""} 1000.0' in text
    assert metrics.trouble == ""


async def test_health_is_whether_nats_is_there(place: Place, tmp_path: Path) -> None:
    nats_port, port = free_port(), free_port()
    url = f"nats://127.0.0.1:{nats_port}"
    alone = Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, tmp_path)
    shown = Scraped(alone, port, tmp_path / "log")

    async def health(wanted: int) -> None:
        async with asyncio.timeout(SOON):
            while True:
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    if (await asyncio.to_thread(shown.get, "/healthz"))[0] == wanted:
                        return
                await asyncio.sleep(0.1)

    with broker_process(alone, shown.log, XFER_METRICS=str(port)):
        await health(503)
        with nats_server(tmp_path, nats_port):
            await health(200)
        await health(503)


def test_a_port_that_is_taken_ends_the_broker_with_a_sentence(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {**place.env, "XFER_METRICS": str(port)}
        command = [sys.executable, "-P", "-m", "transfer.broker"]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_each_line_of_the_log_is_an_object_and_names_job_verb_and_user(
    scraped: Scraped, user: Client
) -> None:
    """Of a request whose reply subject is somebody else's inbox, and of those by who may not ask."""
    await user.publish("xfer.api.alice.open", b"{}", reply="_INBOX_bob.x")
    for _ in range(3):
        assert code(await ask(user, "info", api.Info(), api.BrokerInfo, "carol")) is ErrorCode.OVER_QUOTA
    async with asyncio.timeout(SOON):
        while '"count":2' not in scraped.log.read_text():  # noqa: ASYNC110 (written by another process)
            await asyncio.sleep(0.05)
    lines = [json.loads(line) for line in scraped.log.read_text().splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    [dropped] = [line for line in lines if "dropped a request" in line["message"]]
    assert (dropped["user"], dropped["verb"], dropped["level"]) == ("alice", "open", "warning")
    refused = [line for line in lines if "refused" in line]
    assert [(line["user"], line["verb"], line["count"]) for line in refused] == [
        ("carol", "info", 1),
        ("carol", "info", 2),
    ]
    assert {line["refused"] for line in refused} == {"over_quota"}
    assert refused[0]["message"].endswith("over quota: this user may ask nothing of the broker")
