"""Run one coroutine: the first SIGINT, SIGTERM or SIGHUP, or its deadline, cancels it; a second signal ends it at once."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import stat
import sys
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import TypeVar

from transfer.errors import Interrupted, OutOfTime
from transfer.redact import redact_logs

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if sys.platform != "win32" else []))
"""SIGHUP: the terminal is gone. Windows has none."""
_TICKET = re.compile(r"xfer(?:room)?1[a-z0-9]{20,}", re.IGNORECASE)
_SHOW_CURSOR = b"\x1b[?25h\n"
"""Source: DEC VT220 manual, DECTCEM. A bar on the terminal hides the cursor."""


def run(
    make: Callable[[], Coroutine[None, None, T]],
    *,
    resume: str | None = None,
    until: float | None = None,
    standing: Callable[[], str] = lambda: "",
) -> T:
    """asyncio.run(make()), in the main thread, with signals as cancellation.

    What is cancelled may checkpoint for as long as it needs. What it returns or raises then stands:
    a transfer that ended well just before the signal did end well.

    Args:
        resume: the hint for whoever interrupted it.
        until: the deadline, seconds of time.monotonic; it cancels as a signal does. None: none.
        standing: what it waits for, or how far it is, at the moment, for the sentence about the deadline; empty if unknown.

    Raises:
        Interrupted: a signal came and the coroutine ended by the cancellation.
        OutOfTime: the same of the deadline.
    """
    redact_logs()
    heard: list[int] = []
    cancel: list[Callable[[], object]] = []

    def on_signal(signum: int, _frame: FrameType | None) -> None:
        if heard:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _SHOW_CURSOR)
            os._exit(128 + signum)
        heard.append(signum)
        _let_go_of_a_lost_terminal()
        for call in cancel:
            call()

    async def body() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        cancel.append(lambda: loop.call_soon_threadsafe(task.cancel))
        if heard:
            raise asyncio.CancelledError
        try:
            async with asyncio.timeout_at(
                None if until is None else loop.time() + until - time.monotonic()
            ) as limit:
                return await make()
        except TimeoutError:
            if not limit.expired():
                raise
            at = f": {said}" if (said := standing()) else ""
            raise OutOfTime(f"the deadline passed before it was done{at}", hint=resume) from None

    # signal.signal and not loop.add_signal_handler: Windows lacks the latter, and both event loops
    # wake up for a Python-level handler. A signal that our parent had us ignore stays ignored: SIGHUP under nohup.
    before = {s: h for s in _SIGNALS if (h := signal.getsignal(s)) not in (signal.SIG_IGN, None)}
    for signum in before:
        signal.signal(signum, on_signal)
    try:
        return asyncio.run(body())
    except asyncio.CancelledError:
        if heard:
            raise Interrupted(heard[0], hint=resume) from None
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _let_go_of_a_lost_terminal() -> None:
    """A terminal that is gone fails every write, and the checkpoint with it: what is still said goes nowhere."""
    for number in (1, 2):
        if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)


def same_command() -> str:
    """The hint that shows this very command line; a ticket in it only on a terminal, never in a log.

    Without --no-resume, which would start anew once more.
    """
    shown = sys.stderr.isatty()
    given = sys.argv[1:]
    options = given.index("--") if "--" in given else len(given)
    kept = [word for at, word in enumerate(given) if word != "--no-resume" or at > options]
    words = kept if shown else [_TICKET.sub("TICKET", word) for word in kept]
    return f"carry on with `{shlex.join(['xfer', *words])}`"
