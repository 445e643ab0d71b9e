"""One transfer, shown: picks the view, feeds it events and time, and runs the call under signals."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Protocol

from cli.render import View, choose
from cli.run import run
from transfer.events import Event, Listener, Summary, ignore

TICK = 0.25
"""Seconds between two looks at the clock; a bar redrawn more often only costs."""


class Call(Protocol):
    def __call__(self, *, on_event: Listener) -> Coroutine[None, None, Summary]: ...


def show(
    call: Call, *, also: Listener = ignore, ticket: bool, json: bool, quiet: bool, resume: str
) -> Summary:
    """Run `call` to its end and show what it tells.

    Args:
        also: hears each event before it is shown.
        ticket: whether stdout gets the ticket.
        resume: hint for whoever interrupts it.
    """
    view = choose(
        sys.stdout if ticket else None,
        sys.stderr,
        json=sys.stdout.buffer if json else None,
        quiet=quiet,
        dumb=os.environ.get("TERM") == "dumb",
    )

    def on_event(event: Event) -> None:
        also(event)
        view(event)

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
