"""Several brokers may answer, and be unlike: some requests each, and what the worst of them says, by name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from transfer import api
from transfer.broker_client import BrokerClient
from transfer.doctor.finding import Finding
from transfer.errors import XferError

ASKED = 8
"""Requests at once. NATS chooses who of the brokers gets each: of two, one is missed once in 128 times."""
_BADNESS = ("skip", "ok", "note", "fail")


class Seen(NamedTuple):
    """One broker's report. took: seconds until it was there. ahead: seconds that our clock is ahead of the broker's."""

    report: api.CheckupReport
    took: float
    ahead: float


async def ask_all(broker: BrokerClient) -> list[Seen]:
    """One each of the brokers that answer, as likely as can be. Raises as a broker's client does if none does."""
    asked = await asyncio.gather(*(_ask(broker) for _ in range(ASKED)), return_exceptions=True)
    seen = {one.report.broker: one for one in asked if isinstance(one, Seen)}
    for one in asked:
        if isinstance(one, BaseException) and not (seen and isinstance(one, XferError)):
            raise one
    return list(seen.values())


async def _ask(broker: BrokerClient) -> Seen:
    begun = time.perf_counter()
    report = await broker.checkup()
    return Seen(report, time.perf_counter() - begun, time.time() - report.clock)


def worst_of(seen: Iterable[Seen], judge: Callable[[Seen], Finding]) -> Finding:
    """What is found of the broker that is in the worst state; one that is not well is named."""
    return worst_finding([named(judge(one), one.report.broker) for one in seen])


def worst_finding(found: Iterable[Finding]) -> Finding:
    """The first of those in the worst state."""
    return max(found, key=lambda finding: _BADNESS.index(finding.state))


def named(finding: Finding, broker: str) -> Finding:
    """broker: as of `CheckupReport`."""
    if finding.state not in ("note", "fail") or not broker:
        return finding
    return msgspec.structs.replace(finding, said=f"{finding.said} (the broker on {broker})")
