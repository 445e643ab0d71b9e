"""A broker's metrics for Prometheus: their names, what they count, and their text (format 0.0.4).

Names are a contract with `scripts/deploy/`: dashboard and alerts. No user's name and no job id is a label, but for quotas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from transfer.api import JobState
from transfer.broker.observer import Observer, QuotaSource

disable_created_metrics()  # type: ignore[no-untyped-call]
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds. A request with one record takes 2 ms, one that asks the store 20; `service.ANSWER_WITHIN` ends it at 8 s."""
QUEUES = {"xfer_work": "xfer_work_queue_messages", "xfer_dead": "xfer_dead_letters"}
"""Stream to metric."""


class Metrics(Observer):
    """One broker's. A scrape sees each number as it is then."""

    counts_bytes = True

    def __init__(self, version: str) -> None:
        own = self.registry = CollectorRegistry()
        self._requests = Counter(
            "xfer_requests", "Requests answered, by verb and outcome.", ["verb", "outcome"], registry=own
        )
        self._latency = Histogram(
            "xfer_request_seconds", "Until the answer was sent.", ["verb"], buckets=BUCKETS, registry=own
        )
        self._signed = Counter(
            "xfer_signed_bytes", "Bytes that URLs were signed for.", ["direction"], registry=own
        )
        self._wrong = Counter(
            "xfer_wrong_tokens", "Tokens that open no job and no room: wrong, expired or never.", registry=own
        )
        self._store = Counter("xfer_store_errors", "Calls to the store that failed.", ["kind"], registry=own)
        self._passes = Counter(
            "xfer_sweeper_passes", "Passes of the sweeper.", ["what", "outcome"], registry=own
        )
        self._removed = Counter("xfer_sweeper_removed", "What the sweeper removed.", ["what"], registry=own)
        self._last = Gauge(
            "xfer_sweeper_last_success_timestamp_seconds",
            "End of the last good pass.",
            ["what"],
            registry=own,
        )
        self._took = Gauge(
            "xfer_sweeper_duration_seconds", "What the last good pass took.", ["what"], registry=own
        )
        self._jobs = Gauge(
            "xfer_jobs", "Jobs on record, as the last pass of this broker saw them.", ["state"], registry=own
        )
        self._queues = {
            stream: Gauge(name, f"Messages in the stream {stream}.", ["stream"], registry=own)
            for stream, name in QUEUES.items()
        }
        self._connected: Callable[[], bool] = lambda: False
        self._lacks: Callable[[], Sequence[str]] = lambda: ()
        up = Gauge("xfer_nats_connected", "Whether NATS can be reached (1) or not (0).", registry=own)
        up.set_function(lambda: float(self._connected()))
        lacking = Gauge(
            "xfer_missing_rights", "What NATS forbids the broker of all that it needs.", registry=own
        )
        lacking.set_function(lambda: float(len(self._lacks())))
        Gauge("xfer_broker_info", "Constant 1.", ["version"], registry=own).labels(version).set(1)
        self._quota = _Quotas()
        own.register(self._quota)
        for direction in ("up", "down"):
            self._signed.labels(direction)
        for what in ("jobs", "orphans"):  # a rate needs a zero to begin with
            self._removed.labels(what)
            for outcome in ("ok", "failed"):
                self._passes.labels(what, outcome)

    @property
    def trouble(self) -> str:
        """Why it is of no use for now; "" where it is."""
        if missing := self._lacks():
            return f"NATS does not let the broker {', '.join(missing)}"
        return "" if self._connected() else "NATS is away"

    def text(self) -> bytes:
        """All of it, as Prometheus scrapes it."""
        return generate_latest(self.registry)

    def answered(self, verb: str, outcome: str, seconds: float) -> None:
        self._requests.labels(verb, outcome).inc()
        self._latency.labels(verb).observe(seconds)

    def signed(self, direction: str, count: int) -> None:
        self._signed.labels(direction).inc(count)

    def wrong_token(self) -> None:
        self._wrong.inc()

    def store_failed(self, kind: str) -> None:
        self._store.labels(kind).inc()

    def swept(self, what: str, *, removed: int, seconds: float, at: float) -> None:
        self._passes.labels(what, "ok").inc()
        self._removed.labels(what).inc(removed)
        self._took.labels(what).set(seconds)
        self._last.labels(what).set(at)

    def sweep_failed(self, what: str) -> None:
        self._passes.labels(what, "failed").inc()

    def jobs(self, by_state: Mapping[JobState, int]) -> None:
        for state in JobState:
            self._jobs.labels(state.value).set(by_state.get(state, 0))

    def stream(self, name: str, messages: int | None) -> None:
        gauge = self._queues[name]
        if messages is None:
            gauge.clear()
        else:
            gauge.labels(name).set(messages)

    def reach(self, connected: Callable[[], bool]) -> None:
        self._connected = connected

    def lacks(self, source: Callable[[], Sequence[str]]) -> None:
        self._lacks = source

    def quotas(self, source: QuotaSource) -> None:
        self._quota.source = source


class _Quotas(Collector):
    """What is used, asked at the scrape."""

    def __init__(self) -> None:
        self.source: QuotaSource | None = None

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def collect(self) -> Iterator[Metric]:
        used, most = self._families()
        for use in self.source() if self.source else ():
            used.add_metric([use.limit, use.user], use.used)
            if use.most is not None:
                most.add_metric([use.limit, use.user], use.most)
        yield from (used, most)

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        labels = ["limit", "user"]
        return (
            GaugeMetricFamily("xfer_quota_used", 'Used of a limit; user "" is the total.', labels=labels),
            GaugeMetricFamily("xfer_quota_limit", "The limit; absent if there is none.", labels=labels),
        )
