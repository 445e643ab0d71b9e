"""One transfer, shown: picks the view, feeds it events and time, and runs the call under signals."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Protocol

from cli import memory
from cli.render import View, choose
from cli.run import run
from transfer.events import Event, Listener, Summary

TICK = 0.25
"""Seconds between two looks at the clock; a bar redrawn more often only costs."""


class Call(Protocol):
    def __call__(self, *, on_event: Listener) -> Coroutine[None, None, Summary]: ...


def show(
    call: Call, *, first: Callable[[Event], Event] | None = None, json: bool, quiet: bool, resume: str
) -> Summary:
    """Run `call` to its end and show what it tells.

    Args:
        first: gets each event, and gives the one to show in its place.
        resume: hint for whoever interrupts it.
    """
    memory.settle()
    view = choose(sys.stdout, sys.stderr, json=sys.stdout.buffer if json else None, quiet=quiet)

    def on_event(event: Event) -> None:
        view(first(event) if first is not None else event)

    async def work() -> Summary:
        clock = asyncio.create_task(_tick(view))
        try:
            return await call(on_event=on_event)
        finally:
            clock.cancel()

    with view:
        return run(work, resume=resume)


async def _tick(view: View) -> None:
    while True:
        await asyncio.sleep(TICK)
        view.tick()
