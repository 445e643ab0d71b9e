"""Metrics: what they cost, what they show, and a server that no client can hold up."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from transfer.api import JobState
from transfer.broker import metrics_http
from transfer.broker.metrics import CONTENT_TYPE, Metrics
from transfer.broker.metrics_http import AT_ONCE, serving
from transfer.broker.observer import SILENT, QuotaUse
from transfer.errors import UsageError


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        tuple(sorted(s.labels.values())): s.value
        for family in families
        for s in family.samples
        if s.name == name
    }


def test_a_request_costs_less_than_20_microseconds() -> None:
    metrics, best = Metrics("1"), float("inf")
    for _ in range(20):  # the quickest counts: this machine does other things as well
        begun = time.perf_counter()
        for _ in range(500):
            metrics.answered("create", "ok", 0.003)
            metrics.signed("up", 8 << 20)
        best = min(best, (time.perf_counter() - begun) / 500)
    assert best < 20e-6


def test_nobody_who_wants_no_metrics_loads_the_library() -> None:
    program = "import sys, transfer.broker.__main__; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_is_told_is_shown() -> None:
    metrics = Metrics("1.2")
    metrics.answered("open", "not_found", 0.002)
    metrics.wrong_token()
    metrics.store_failed("StoreUnreachable")
    metrics.swept("jobs", removed=3, seconds=0.5, at=1000.0)
    metrics.sweep_failed("orphans")
    metrics.jobs({JobState.OPEN: 2})
    assert values(metrics, "xfer_requests_total") == {("not_found", "open"): 1}
    assert values(metrics, "xfer_wrong_tokens_total") == {(): 1}
    assert values(metrics, "xfer_store_errors_total") == {("StoreUnreachable",): 1}
    assert values(metrics, "xfer_sweeper_removed_total") == {("jobs",): 3, ("orphans",): 0}
    assert values(metrics, "xfer_sweeper_passes_total")["failed", "orphans"] == 1
    assert values(metrics, "xfer_sweeper_last_success_timestamp_seconds") == {("jobs",): 1000}
    assert values(metrics, "xfer_jobs")[("open",)] == 2
    assert values(metrics, "xfer_jobs")[("void",)] == 0
    assert values(metrics, "xfer_broker_info") == {("1.2",): 1}


def test_a_stream_that_is_not_there_has_no_depth() -> None:
    metrics = Metrics("1")
    assert values(metrics, "xfer_dead_letters") == {}
    metrics.stream("xfer_dead", 4)
    assert values(metrics, "xfer_dead_letters") == {("xfer_dead",): 4}
    metrics.stream("xfer_dead", None)
    assert values(metrics, "xfer_dead_letters") == {}


def test_quotas_are_asked_at_each_scrape() -> None:
    metrics, used = Metrics("1"), [10.0]
    metrics.quotas(
        lambda: [QuotaUse("bytes_per_day", "", used[0], 100), QuotaUse("open_jobs", "ann", 1, None)]
    )
    assert values(metrics, "xfer_quota_used") == {("", "bytes_per_day"): 10, ("ann", "open_jobs"): 1}
    used[0] = 20
    assert values(metrics, "xfer_quota_used")["", "bytes_per_day"] == 20
    assert values(metrics, "xfer_quota_limit") == {("", "bytes_per_day"): 100}


def test_who_is_not_told_to_count_does_not() -> None:
    SILENT.answered("open", "ok", 1)
    assert not SILENT.counts_bytes


# --- the server

PAGES: dict[str, metrics_http.Page] = {"/metrics": lambda: (200, CONTENT_TYPE, b"a_total 1\n")}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serving(0, PAGES) as port:
        yield port


async def said(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_scrape_gets_format_0_0_4(port: int) -> None:
    answer = await said(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"text/plain; version=0.0.4" in head
    assert body == b"a_total 1\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\nx", b"405"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"\x00\xff\xfe\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"400"),
    ],
)
async def test_what_is_no_scrape_is_refused(port: int, request_: bytes, status: bytes) -> None:
    answer = await said(port, request_)
    assert not answer or answer.split()[1] == status  # what is far too long may be cut off by a reset
    assert (await said(port, b"HEAD /metrics HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")


async def test_clients_that_say_nothing_are_hung_up_on_and_hold_up_nobody_for_long(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_http, "HEAD_WITHIN", 0.5)
    dumb = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2 * AT_ONCE)]
    async with asyncio.timeout(60):
        while not (await said(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        for reader, writer in dumb:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()


async def test_a_port_that_is_taken_is_a_plain_sentence(port: int) -> None:
    with pytest.raises(UsageError, match=f"127.0.0.1:{port}"):
        async with serving(port, PAGES):
            pass
