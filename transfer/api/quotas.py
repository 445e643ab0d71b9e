"""The verb that says what users have used of their quotas."""

from __future__ import annotations

import msgspec

from transfer.api.common import Request

USAGE_PAGE = 200


class Usage(Request, frozen=True):
    """verb `usage`. user: None for oneself. all: everybody's, for admins; the page after the user `after`."""

    user: str | None = None
    all: bool = False
    after: str = ""


class Used(msgspec.Struct, frozen=True):
    """limit: None if there is none. resets: when it is 0 again, seconds since 1970; None where that is not by time."""

    used: int
    limit: int | None
    resets: float | None


class UserUsage(msgspec.Struct, frozen=True):
    """bytes moved in this day and this month (UTC), bytes stored, jobs open. user: empty for all together."""

    user: str
    day: Used
    month: Used
    stored: Used
    jobs: Used
    requests_per_minute: int | None


class UsageReport(msgspec.Struct, frozen=True):
    """more: there is another page. total: of all users together, with the first page."""

    users: list[UserUsage]
    more: bool
    total: UserUsage | None
