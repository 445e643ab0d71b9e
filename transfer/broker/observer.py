"""What a broker does, told to whoever counts it. Nobody does by default; `metrics.Metrics` counts for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from transfer.api import JobState


class QuotaUse(NamedTuple):
    """What is used of a limit. limit: its name in the rules. user: "" for the total. most: None if there is none."""

    limit: str
    user: str
    used: float
    most: float | None


QuotaSource = Callable[[], Iterable[QuotaUse]]
"""Asked at each scrape, in the broker's loop: it must answer from memory."""


class Observer:
    """Counts nothing. Every call is quick, raises nothing, and may come from any thread."""

    counts_bytes = False
    """Whether `signed` is worth looking up how long what is read will be."""

    def answered(self, verb: str, outcome: str, seconds: float) -> None:
        """A request. verb: one that is known, else "unknown". outcome: "ok" or an `api.ErrorCode`'s value."""

    def signed(self, direction: str, count: int) -> None:
        """URLs for so many bytes. direction: "up" or "down"."""

    def wrong_token(self) -> None:
        """A token that opens no job: of a wrong secret, or of a job that is gone or never was."""

    def store_failed(self, kind: str) -> None:
        """A call to the store that ended in an error. kind: the class of `errors`."""

    def swept(self, what: str, *, removed: int, seconds: float, at: float) -> None:
        """A pass that ended well. what: "jobs" or "orphans". at: its end, seconds since 1970."""

    def sweep_failed(self, what: str) -> None:
        """A pass that did not."""

    def jobs(self, by_state: Mapping[JobState, int]) -> None:
        """How many jobs there are, as the last pass saw them."""

    def stream(self, name: str, messages: int | None) -> None:
        """How many messages wait in a stream; None: there is no such stream."""

    def reach(self, connected: Callable[[], bool]) -> None:
        """Where to ask whether NATS can be reached; until then it cannot."""

    def lacks(self, source: Callable[[], Sequence[str]]) -> None:
        """Where to ask what NATS does not let the broker do, though it needs it."""

    def quotas(self, source: QuotaSource) -> None:
        """Where to ask what is used."""


SILENT = Observer()
