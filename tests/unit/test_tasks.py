"""Ending tasks, also those that do not hear it the first time."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

import transfer
from transfer import tasks
from transfer.tasks import ended, together


async def test_every_task_has_ended_whatever_it_ends_with() -> None:
    async def fails() -> None:
        raise ValueError

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            raise KeyError

    made = [asyncio.create_task(work) for work in (fails(), stubborn(), asyncio.sleep(100))]
    await asyncio.sleep(0)
    await ended(*made)
    assert all(task.done() for task in made)


async def test_a_task_that_lost_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN", 0.02)
    heard = 0

    async def deaf() -> None:
        nonlocal heard
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            heard += 1
            if heard == 3:
                return

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await ended(task)
    assert heard == 3


async def test_whoever_is_cancelled_while_it_ends_a_task_does_not_leave_that_behind() -> None:
    """A broker's sweep went on so after its connection was closed, and the broker never ended."""
    lost = 0

    async def deaf_once() -> None:
        nonlocal lost
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        lost += 1
        await asyncio.Event().wait()

    working = asyncio.create_task(deaf_once())
    ending = asyncio.create_task(ended(working))
    await asyncio.sleep(0.01)
    assert (lost, ending.done()) == (1, False)
    ending.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await ending
    assert working.cancelled()


async def test_what_runs_together_ends_together_with_the_first_failure() -> None:
    over: list[str] = []

    async def background(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            over.append(name)

    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise KeyError

    async def ends() -> None:
        """What has done its work stops nobody."""

    with pytest.raises(KeyError):
        await together(background("a"), ends(), background("b"), fails())
    assert sorted(over) == ["a", "b"]


async def test_what_runs_together_ends_when_cancelled_though_one_of_it_loses_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "AGAIN_SOON", 0.02)

    async def deaf_once() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    running = asyncio.create_task(together(deaf_once(), asyncio.sleep(100)))
    await asyncio.sleep(0.01)
    running.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await running


def test_nothing_here_waits_in_the_way_that_loses_cancellations() -> None:
    """asyncio.timeout keeps them. Source: bpo-37658, the code of asyncio.wait_for up to Python 3.11."""
    folder = Path(transfer.__file__).parent
    users = [
        str(p.relative_to(folder)) for p in folder.rglob("*.py") if re.search(r"wait_for\(", p.read_text())
    ]
    assert users == []
