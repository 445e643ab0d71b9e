"""The verb `usage`: what users have used, of how much."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable

from transfer import api
from transfer.api import ErrorCode
from transfer.broker.account import resets
from transfer.broker.job import Refusal
from transfer.broker.limits import LIMITED, Limits
from transfer.broker.observer import QuotaUse
from transfer.broker.quotas import Quotas
from transfer.broker.rules import Rules
from transfer.broker.table import Table, verb
from transfer.broker.tally import Tally


class Usage:
    """Everybody sees what they use themselves, the operator's admins what anybody does. rules: those in force."""

    def __init__(
        self, quotas: Quotas, rules: Callable[[], Rules], clock: Callable[[], float] = time.time
    ) -> None:
        self._quotas, self._rules, self._clock = quotas, rules, clock

    def table(self) -> Table:
        return {"usage": verb(api.Usage, self.usage)}

    async def shares(self) -> list[QuotaUse]:
        """What is used of all limits there are: of all users together, and of each that has some. For metrics."""
        quota = self._rules().quota
        together = [("", await self._quotas.loans.total(), quota.total.limits())]
        limited = [user for user in await self._quotas.users() if any(quota.of(user).counts)][
            : api.USAGE_PAGE
        ]
        each = [(user, await self._quotas.used(user), quota.of(user)) for user in limited]
        return [
            QuotaUse(name, user, count, limit)
            for user, used, limits in (*together, *each)
            for name, count, limit in zip(LIMITED, used.counts, limits.counts, strict=True)
            if limit is not None or not user
        ]

    async def usage(self, user: str, request: api.Usage) -> api.UsageReport:
        """Raises Refusal (not_allowed), BusUnreachable."""
        asked = request.user or user
        if (asked != user or request.all) and user not in self._rules().admins:
            raise Refusal(ErrorCode.NOT_ALLOWED, "only an admin may see what others use")
        names, more, total = [asked], False, None
        if request.all:
            everybody = await self._quotas.users()
            begin = bisect.bisect_right(everybody, request.after)
            names = everybody[begin : begin + api.USAGE_PAGE]
            more = begin + api.USAGE_PAGE < len(everybody)
            if not request.after:
                limits = self._rules().quota.total.limits()
                total = self._shown("", await self._quotas.loans.total(), limits)
        quota = self._rules().quota
        users = [self._shown(name, await self._quotas.used(name), quota.of(name)) for name in names]
        return api.UsageReport(users, more, total)

    def _shown(self, user: str, used: Tally, limits: Limits) -> api.UserUsage:
        day, month = resets(self._clock())
        counted = zip(used.counts, limits.counts, (day, month, None, None), strict=True)
        today, this_month, stored, jobs = (
            api.Used(max(0, count), _plain(limit), reset) for count, limit, reset in counted
        )
        return api.UserUsage(user, today, this_month, stored, jobs, _plain(limits.requests_per_minute))


def _plain(limit: int | None) -> int | None:
    """As JSON can be made of it."""
    return None if limit is None else int(limit)
