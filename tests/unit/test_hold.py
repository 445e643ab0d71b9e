"""A pause, from its word to its end: what waits, what does not, and how it is told."""

from __future__ import annotations

import asyncio
import io

import pytest

from cli.render import Lines
from transfer.announce import Story
from transfer.broker_client import JobPaused
from transfer.events import Event, Notice, Progress, Waiting
from transfer.hold import Hold
from transfer.meter import Meter

SOON = 20.0


async def test_what_is_refused_during_a_pause_is_asked_again_after_it_and_raises_doubt() -> None:
    hold, asked = Hold(), 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise JobPaused("paused")
        return "answer"

    waiting = asyncio.create_task(hold.through(ask))
    async with asyncio.timeout(SOON):
        await hold.held()
        await hold.doubt.wait()
    assert (asked, waiting.done(), hold.paused) == (1, False, True)
    hold.set(False)
    async with asyncio.timeout(SOON):
        assert await waiting == "answer"


async def test_other_errors_go_to_who_asked() -> None:
    async def ask() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (it is the very one)
        await Hold().through(ask)


async def test_a_hold_counts_its_pauses_and_lets_all_go_at_once() -> None:
    hold = Hold()
    await hold.clear()
    for paused in (True, True, False, True):
        hold.set(paused)
    assert hold.number == 2
    waiting = [asyncio.create_task(hold.clear()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    hold.set(False)
    async with asyncio.timeout(SOON):
        await asyncio.gather(*waiting)


def test_whatever_else_is_waited_for_a_pause_is_what_is_told() -> None:
    told: list[Event] = []
    meter = Meter(told.append)
    meter.held = "paused"
    meter.waiting("for a receiver", 9.0, "receiver")
    assert told == [Waiting(what="paused", left=None, on="owner")]
    meter.held = ""
    meter.waiting("for a receiver", 9.0, "receiver")
    assert told[-1] == Waiting(what="for a receiver", left=9.0, on="receiver")


def test_a_pause_is_announced_as_such_until_it_is_over() -> None:
    story = Story(0.0)
    at = Progress(done=5, total=9, wire=5, files=1, route="s3")
    story.note(at)
    story.note(Waiting(what="paused", on="owner"))
    assert (story.state.state, story.state.waiting, story.state.done) == ("paused", "owner", 5)
    story.note(Notice(text="its owner has it go on"))
    assert (story.state.state, story.state.waiting) == ("waiting", None)
    story.note(Progress(done=6, total=9, wire=6, files=1, route="s3"))
    assert story.state.state == "moving"


def test_a_pause_is_one_line_while_what_was_under_way_goes_on() -> None:
    err = io.StringIO()
    view = Lines(None, err, clock=lambda: 0.0)
    pause = Waiting(what="paused by its owner", on="owner")
    for done in range(3):
        view(Progress(done=done, total=9, wire=done, files=1, route="s3"))
        view(pause)
    view(Notice(text="its owner has it go on"))
    view(pause)
    assert err.getvalue().splitlines() == [
        "paused by its owner",
        "its owner has it go on",
        "paused by its owner",
    ]
