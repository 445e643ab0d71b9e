"""One transfer, shown: picks the view, feeds it events and time, and runs the call under signals."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from cli import events_fd, memory
from cli.render import View, choose, standing
from cli.run import run
from transfer.events import Event, Listener

TICK = 0.25
"""Seconds between two looks at the clock; a bar redrawn more often only costs."""


End = TypeVar("End", covariant=True)


class Call(Protocol[End]):
    def __call__(self, *, on_event: Listener) -> Coroutine[None, None, End]: ...


def show(
    call: Call[End],
    *,
    first: Callable[[Event], Event] | None = None,
    json: bool,
    quiet: bool,
    resume: str,
    terse: bool = True,
    until: float | None = None,
    view: Callable[[Callable[[], View]], View] = lambda make: make(),
) -> End:
    """Run `call` to its end and show what it tells; with --events-fd, there as well.

    Args:
        first: gets each event, and gives the one to show in its place.
        resume: hint for whoever interrupts it.
        terse: whether a log is told only what it needs (`render.Lines`).
        until: deadline, as of `run`.
        view: what to show it with, made of ways to make the view that fits.
    """
    memory.settle()

    def make() -> View:
        return choose(
            sys.stdout,
            sys.stderr,
            json=sys.stdout.buffer if json else None,
            quiet=quiet,
            dumb=os.environ.get("TERM") in ("dumb", "unknown"),
            terse=terse,
        )

    shown_by, last = view(make), ""

    def on_event(event: Event) -> None:
        nonlocal last
        shown = first(event) if first is not None else event
        last = standing(shown, last)
        events_fd.tell(shown)
        shown_by(shown)

    async def work() -> End:
        clock = asyncio.create_task(_tick(shown_by))
        try:
            return await call(on_event=on_event)
        finally:
            clock.cancel()

    with shown_by:
        return run(work, resume=resume, until=until, standing=lambda: last)


async def _tick(view: View) -> None:
    while True:
        await asyncio.sleep(TICK)
        view.tick()
