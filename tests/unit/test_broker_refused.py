"""What a broker refuses is in its log: the first at once, of many alike a count."""

from __future__ import annotations

import asyncio
import logging

import pytest

from transfer.api import ApiError, ErrorCode
from transfer.broker.refused import Refused

OVER = ApiError(ErrorCode.OVER_QUOTA, "over quota: 1 GB of 1 GB used")
BUSY = ApiError(ErrorCode.BUSY, "the broker has too much to do")
Line = tuple[str, int]


def lines(caplog: pytest.LogCaptureFixture) -> list[Line]:
    return [(record.getMessage(), getattr(record, "count", 0)) for record in caplog.records]


async def counted(caplog: pytest.LogCaptureFixture, count: int) -> list[Line]:
    async with asyncio.timeout(20):
        while len(caplog.records) < count:  # noqa: ASYNC110 (time makes the lines)
            await asyncio.sleep(0.01)
    return lines(caplog)


async def test_the_first_is_said_at_once_and_those_like_it_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused = Refused(every=0.05)
    for _ in range(1000):
        refused.note("ann", "create", OVER)
    first = ("refused user ann (over_quota): over quota: 1 GB of 1 GB used", 1)
    assert lines(caplog) == [first]
    rest = ("refused user ann 999 requests (over_quota): over quota: 1 GB of 1 GB used", 999)
    assert await counted(caplog, 2) == [first, rest]


async def test_each_user_and_kind_has_its_line(caplog: pytest.LogCaptureFixture) -> None:
    refused = Refused()
    for user in ("ann", "bob"):
        for error in (OVER, BUSY, OVER):
            refused.note(user, "create", error)
    assert len(lines(caplog)) == 4


async def test_once_it_is_quiet_the_next_one_is_said_at_once_again(caplog: pytest.LogCaptureFixture) -> None:
    refused = Refused(every=0.01)
    refused.note("ann", "create", BUSY)
    async with asyncio.timeout(20):
        while refused._more:  # noqa: ASYNC110 (time empties it)
            await asyncio.sleep(0.01)
    refused.note("ann", "begin", BUSY)
    assert [count for _, count in lines(caplog)] == [1, 1]


async def test_what_is_the_askers_mistake_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    refused = Refused()
    refused.note("ann", "open", ApiError(ErrorCode.NOT_FOUND, "not found"))
    assert caplog.records == []
    assert logging.getLogger("transfer.broker.refused").isEnabledFor(logging.WARNING)
