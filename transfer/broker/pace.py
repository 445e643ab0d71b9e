"""Requests a minute: a bucket of tokens a user, in the memory of each broker (so two brokers allow twice as many)."""

from __future__ import annotations

import time
from collections.abc import Callable

from transfer.api import ErrorCode
from transfer.broker.job import Refusal
from transfer.broker.table import Answered, Table, Verb

USERS = 4096
"""Buckets kept; those that are full are dropped beyond that."""


class Pace:
    """limit: requests a minute of a user as of now, None for no limit. clock: seconds, never set back."""

    def __init__(
        self, limit: Callable[[str], int | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._clock = limit, clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def spend(self, user: str) -> None:
        """Raises Refusal: busy, with the seconds until there is a token; over_quota where there never will be one."""
        limit = self._limit(user)
        if limit is None:
            self._buckets.pop(user, None)
            return
        if not limit:
            raise Refusal(
                ErrorCode.OVER_QUOTA, "over quota: this user may ask nothing of the broker", paced=True
            )
        now = self._clock()
        tokens = self._tokens(user, limit, now)
        if tokens < 1:
            raise Refusal(
                ErrorCode.BUSY,
                f"that is more than {limit:,} {'request' if limit == 1 else 'requests'} a minute",
                retry_after=(1 - tokens) * 60 / limit,
                paced=True,
            )
        self._buckets[user] = tokens - 1, now
        if len(self._buckets) > USERS:
            self._buckets = {
                u: bucket
                for u, bucket in self._buckets.items()
                if (most := self._limit(u)) is not None and self._tokens(u, most, now) < most
            }

    def over(self, table: Table) -> Table:
        """The same verbs, each request of which spends a token."""
        return {name: self._paced(verb) for name, verb in table.items()}

    def _paced(self, verb: Verb) -> Verb:
        async def run(user: str, body: bytes) -> Answered:
            self.spend(user)
            return await verb(user, body)

        return run

    def _tokens(self, user: str, limit: int, now: float) -> float:
        tokens, since = self._buckets.get(user, (float(limit), now))
        return min(float(limit), tokens + (now - since) * limit / 60)
