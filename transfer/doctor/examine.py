"""All checks, as many at once as can be; findings are told in order, each as soon as those before it are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from transfer.config import Context
from transfer.doctor import host, ice, servers
from transfer.doctor.finding import Finding, away

WITHIN = 9.0
"""Seconds for all of it."""

Tell = Callable[[Finding], None]


async def examine(context: Context | None, tell: Tell) -> list[Finding]:
    """Look at everything. context: None if there is none; then only this host is looked at.

    tell: gets each finding. Raises nothing but cancellation; what fails is a finding.
    """
    found: list[Finding] = []

    def add(finding: Finding) -> None:
        found.append(finding)
        tell(finding)

    if context is None:
        for check in host.checks():
            add(check)
        return found
    others = [asyncio.create_task(_bounded(name, check)) for name, check in ice.checks(context)]
    try:
        await _servers(context, add)
        for task in others:
            add(await task)
        if not others:
            add(Finding("STUN/TURN", "skip", "none configured"))
    finally:
        for task in others:
            task.cancel()
    for check in host.checks():
        add(check)
    return found


async def _servers(context: Context, add: Tell) -> None:
    """Whatever happens, each of its checks gets a line."""
    told: set[str] = set()

    def tell(finding: Finding) -> None:
        told.add(finding.check)
        add(finding)

    failure = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WITHIN):
            failure = await servers.look(context, tell)
    left = [check for check in servers.CHECKS if check not in told]
    if left and not failure:
        tell(away(left[0], f"no answer within {WITHIN:g} s", "look whether it is overloaded, or try again"))
        failure, left = left[0], left[1:]
    for check in left:
        tell(Finding(check, "skip", f"not asked: it takes {failure}"))


async def _bounded(name: str, check: Coroutine[Any, Any, Finding]) -> Finding:
    try:
        async with asyncio.timeout(ice.WITHIN):
            return await check
    except TimeoutError:
        return away(
            name, "no answer", "check its address and whether UDP is let through; the store still works"
        )
