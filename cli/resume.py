"""`xfer resume`: what this host has begun and not ended, and going on with it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, TextIO

from typer import Argument, Context, Exit, Option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transfer.errors import XferError
    from transfer.events import Unfinished

EXAMPLES = ("xfer resume", "xfer resume --list")


def resume(
    arguments: Context,
    job: Annotated[
        str | None,
        Argument(metavar="JOB", help="Only this one: its id, or how that begins", show_default=False),
    ] = None,
    list_only: Annotated[
        bool, Option("--list", envvar="XFER_LIST", help="Only list what is unfinished on this host")
    ] = False,
    patience: Annotated[
        str, Option("--patience", metavar="TIME", envvar="XFER_PATIENCE", help="How long to ride out outages")
    ] = "10m",
    concurrency: Annotated[
        int | None,
        Option(
            "--concurrency",
            metavar="N",
            min=1,
            max=64,
            envvar="XFER_CONCURRENCY",
            help="Requests at once; adapts",
        ),
    ] = None,
    bwlimit: Annotated[
        str | None,
        Option(
            "--bwlimit",
            metavar="RATE",
            envvar="XFER_BWLIMIT",
            help="Bytes a second: 20M, or '08:00,2M 19:00,off'",
        ),
    ] = None,
    interface: Annotated[
        list[str] | None,
        Option(
            "--interface",
            metavar="NAME",
            envvar="XFER_INTERFACE",
            help="Meet the peer on this one; repeatable",
        ),
    ] = None,
    context: Annotated[
        str | None,
        Option(
            "--context", metavar="NAME", envvar="XFER_CONTEXT", help="Where to look for JOB if it is not here"
        ),
    ] = None,
    json: Annotated[bool, Option("--json", envvar="XFER_JSON", help="Events as NDJSON on stdout")] = False,
    quiet: Annotated[
        bool, Option("--quiet", "-q", envvar="XFER_QUIET", help="Only tickets, and errors")
    ] = False,
) -> None:
    """Go on with what did not end here; with a paused JOB, wherever it is."""
    from functools import partial

    from cli.exits import report
    from cli.misuse import called
    from cli.run import same_command
    from cli.show import show
    from cli.units import parse_duration, parse_limit
    from transfer.errors import Interrupted, XferError
    from transfer.events import Listener, Summary
    from transfer.unfinished import resume as transfer_resume
    from transfer.unfinished import unfinished

    seconds = parse_duration(patience, option=called(arguments, "patience"), command="resume")
    rate = parse_limit(bwlimit, option=called(arguments, "bwlimit"), command="resume")
    jobs = unfinished() if job is None else _named(job, unfinished())
    if job is not None and list_only and not jobs:
        raise _gone(job)
    if job is not None and not list_only:
        lifted = _lift_here(jobs) if jobs else _lift_elsewhere(job, context)
        if lifted:
            _say_lifted(lifted, json=json, quiet=quiet)
            jobs = [which for which in jobs if not which.running]
            if not jobs:
                return
    if list_only or not jobs:
        _list(jobs, sys.stdout, json=json, quiet=quiet)
        return

    async def go_on(which: Unfinished, *, on_event: Listener) -> Summary:
        on_event(which)
        return await transfer_resume(
            which,
            patience=seconds,
            concurrency=concurrency,
            bwlimit=rate,
            interfaces=interface or (),
            on_pause="refuse" if job is None else "lift",
            on_event=on_event,
        )

    codes = []
    for which in jobs:
        if which.running and job is None:
            if json or not quiet:
                _list([which], sys.stderr, json=json, quiet=quiet)
            continue
        try:
            show(partial(go_on, which), json=json, quiet=quiet, resume=same_command())
        except Interrupted:
            raise
        except XferError as error:
            if len(jobs) == 1:
                raise
            error.what = f"{which.side} {which.job} ({which.label}): {error.what}"
            codes.append(report(error, json=json))
    if codes:
        raise Exit(codes[0])


def _named(start: str, jobs: Sequence[Unfinished]) -> list[Unfinished]:
    """Those of the one job whose id begins so: its send and its fetch may both be here. Raises UsageError."""
    from transfer.errors import UsageError

    found = [which for which in jobs if which.job.startswith(start)]
    ids = sorted({which.job for which in found})
    if len(ids) > 1:
        raise UsageError(f"{start!r} may be {', '.join(ids)}", hint="write a longer part of the one you mean")
    return found


def _lift_here(jobs: Sequence[Unfinished]) -> str:
    """Lift the pause of a job that runs here already, or whose fetch is here; a send lifts its own when it begins.

    Returns its id; empty if there was nothing to lift.
    """
    from cli.run import run
    from transfer.errors import NotConfigured, Temporary
    from transfer.unfinished import lift

    if any(which.side == "send" and not which.running for which in jobs):
        return ""
    try:
        return jobs[0].job if run(lambda: lift(jobs[0]), resume="run it again") else ""
    except (Temporary, NotConfigured):  # told, or ridden out, when it goes on
        return ""


def _lift_elsewhere(start: str, context: str | None) -> str:
    """The id of a job of ours that was paused, and goes on now wherever it runs. Raises JobGone."""
    from cli.ask import ask
    from transfer.api import JobState
    from transfer.broker_client import BrokerClient
    from transfer.errors import JobGone, NotConfigured
    from transfer.jobs import Jobs

    async def lift(broker: BrokerClient) -> str:
        mine = Jobs(broker)
        try:
            job, found = await mine.status(start)
        except JobGone:
            raise _gone(start) from None
        if found.state is not JobState.PAUSED:
            raise JobGone(
                f"the transfer {job} is {found.state.value}, and was not begun on this host",
                hint="go on with it where it was begun, or here with `xfer send --ticket`",
            )
        await mine.resume(job)
        return job

    try:
        return ask(context, lift)
    except NotConfigured:
        raise _gone(start) from None


def _gone(start: str) -> XferError:
    from transfer.errors import JobGone

    return JobGone(f"no unfinished transfer here is called {start!r}", hint="see `xfer resume --list`")


def _say_lifted(job: str, *, json: bool, quiet: bool) -> None:
    from cli.render import Ndjson
    from transfer.events import Notice

    told = f"{job} goes on where it runs"
    if json:
        Ndjson(sys.stdout.buffer)(Notice(text=told))
    elif not quiet:
        sys.stderr.write(told + "\n")


def _list(jobs: Sequence[Unfinished], out: TextIO, *, json: bool, quiet: bool) -> None:
    """One a line; with json on stdout. That there is none is said, too."""
    from cli.render import Ndjson, line_of
    from transfer.events import Event, Notice

    nothing = "nothing is unfinished on this host"
    if json:
        view = Ndjson(sys.stdout.buffer)
        events: Sequence[Event] = jobs or [Notice(text=nothing)]
        for event in events:
            view(event)
        return
    out.writelines(line_of(which) + "\n" for which in jobs)
    if not jobs and not quiet:
        sys.stderr.write(nothing + "\n")
