"""How a run ends badly: a line on stderr (two on a narrow terminal), an `error` event with --json, the exit code.

A traceback never reaches the terminal: that of a bug goes to a file in the state folder, without secrets.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cli import events_fd
from transfer.errors import NO_ROOM, DiskFull, Interrupted, XferError
from transfer.redact import redact

if TYPE_CHECKING:
    from transfer.events import Failure

_INDENT = " " * len("xfer: ")
ONE_LINE = 80
"""Columns that an error and its next step share at most."""
SIGINT = 2
SIGPIPE = 13
"""Source: POSIX.1-2017, kill; Windows has no such signal, yet scripts there may expect the same code."""


def report(error: BaseException, *, json: bool) -> int:
    """Tell the person, and with `json` the program, what ended the run; gives the exit code."""
    own = first_own(error)
    if isinstance(own, KeyboardInterrupt):
        own = Interrupted(SIGINT)
    if isinstance(own, BrokenPipeError) and reader_gone():
        return 128 + SIGPIPE
    if isinstance(own, OSError) and own.errno in NO_ROOM:
        own = DiskFull(
            f"no room left to write {own.filename or 'to stdout'}", hint="free some space, then run it again"
        )
    if isinstance(own, XferError):
        code, kind = own.exit_code, type(own).__name__
        what, next_step = redact(own.what), redact(own.next_step)  # what was given as a name may be a ticket
    else:
        code, kind, what = 1, "InternalError", redact(f"internal error: {type(own).__name__}: {own}")
        next_step = _where(keep_traceback(error))
    if json or events_fd.attached():
        from transfer.events import Failure

        failure = Failure(code=code, kind=kind, message=what, next=next_step)
        events_fd.tell(failure)
        if json:
            _emit(failure)
    if code != 128 + SIGPIPE:  # whoever left knows it: `xfer fetch -o - | head` is as quiet as `cat f | head`
        complain(what, next_step)
    return code


def complain(what: str, next_step: str) -> None:
    """`xfer: <sentence>; <next step>` on stderr, a line in a log.

    On a terminal two where it does not fit 80 columns, each broken between words; what is to be copied, a command or
    a path, is left whole.
    """
    from transfer.paths import printable

    label = "\x1b[1;31mxfer:\x1b[0m" if coloured(sys.stderr) else "xfer:"
    what, next_step = printable(what, limit=1000), printable(next_step, limit=1000)
    lines = [f"{what}; {next_step}"]
    if sys.stderr.isatty():
        lines = _broken(what, next_step)
    print(label, f"\n{_INDENT}".join(lines), file=sys.stderr, flush=True)  # noqa: T201


def _broken(what: str, next_step: str) -> list[str]:
    """To the terminal's width."""
    from rich.cells import cell_len
    from rich.console import Console

    from cli.wrap import wrap

    console = Console(stderr=True)
    if len(_INDENT) + cell_len(f"{what}; {next_step}") < min(console.width, ONE_LINE):
        return [f"{what}; {next_step}"]
    room = max(20, console.width - len(_INDENT))
    return [*wrap(f"{what};", room, console), *wrap(next_step, room, console)]


def coloured(file: TextIO) -> bool:
    """Whether it is a terminal that wants colour. Source: no-color.org; TERM=dumb of terminfo."""
    return file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def first_own(error: BaseException) -> BaseException:
    """The error to tell of: a group's first XferError, or else its first that is no cancellation."""
    leaves = list(_leaves(error))
    own = [leaf for leaf in leaves if isinstance(leaf, XferError)]
    others = [leaf for leaf in leaves if not isinstance(leaf, asyncio.CancelledError)]
    return (own or others or leaves)[0]


def keep_traceback(error: BaseException) -> Path | None:
    """Write the traceback to a 0600 file in the state folder; None if that cannot be done."""
    from transfer.config import state_dir

    folder = state_dir() / "errors"
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = redact("".join(traceback.format_exception(error)))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return None
    return path


def reader_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more, as in `xfer fetch -o - | head`."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(1, 0)
    return bool(poll.poll(0))  # without a wish for events, only errors and hang-ups are reported


def _emit(failure: Failure) -> None:
    from cli.render import Ndjson

    try:
        Ndjson(sys.stdout.buffer)(failure)
        sys.stdout.buffer.flush()
    except OSError:
        return  # nobody reads stdout, or its disk is full; stderr and the exit code still tell


def _where(log: Path | None) -> str:
    if log is None:
        return "please report it with the output of `xfer --version`"
    return f"please report it with the output of `xfer --version` and {log}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
