"""Fixtures of the contract suite; what they are made of is in `routes.py`."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from routes import MAKERS, Route, open_sockets, until


@pytest.fixture(params=MAKERS)
async def route(request: pytest.FixtureRequest) -> AsyncIterator[Route]:
    async with MAKERS[request.param](request) as both:
        try:
            yield both
        finally:
            await both.outbound.close("the test is over")
            await both.inbound.close("the test is over")


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """No test here leaves a task, a socket or an exception that nobody retrieved."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    yield
    async with asyncio.timeout(2):
        await until(lambda: asyncio.all_tasks() <= {*tasks, asyncio.current_task()})
        await until(lambda: open_sockets() <= sockets)
    gc.collect()  # an exception that nobody retrieved is reported when its task goes
    assert reports == []
