"""`xfer resume`: what this host has begun and not ended, and going on with it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Exit, Option

from cli import options
from cli.confirm import confirm
from cli.options import (
    Bwlimit,
    Concurrency,
    Deadline,
    ErrorOnNothing,
    EventsFd,
    Interface,
    JsonEvents,
    Patience,
    watched,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.table import Cell
    from transfer.api import JobStatus
    from transfer.errors import XferError
    from transfer.events import Unfinished

EXAMPLES = ("xfer resume", "xfer resume --list")
_NOTHING = "nothing is unfinished on this host"


def resume(
    arguments: Context,
    job: Annotated[
        str | None,
        Argument(metavar="JOB", help="Only this one: its id, or how that begins", show_default=False),
    ] = None,
    list_only: Annotated[
        bool, Option("--list", envvar="XFER_LIST", help="Only list what is unfinished on this host")
    ] = False,
    patience: Patience = None,
    concurrency: Concurrency = None,
    bwlimit: Bwlimit = None,
    interface: Interface = None,
    context: Annotated[str | None, options.context("Where to look for JOB if it is not here")] = None,
    error_on_nothing: ErrorOnNothing = False,
    deadline: Deadline = None,
    json: JsonEvents = False,
    events_fd: EventsFd = None,
    quiet: Annotated[bool, options.quiet("Only tickets, and errors")] = False,
) -> None:
    """Go on with what did not end here, or with a paused JOB anywhere."""
    from functools import partial

    from cli.exits import report
    from cli.given import Given
    from cli.render import Ndjson, line_of
    from cli.run import same_command
    from cli.show import show
    from transfer.errors import Interrupted, NothingToDo, OutOfTime, XferError
    from transfer.events import Listener, Summary
    from transfer.unfinished import resume as transfer_resume
    from transfer.unfinished import unfinished

    until = watched(arguments, deadline, events_fd)
    given = Given(arguments)
    seconds, rate = given.duration_if("patience", patience), given.limit("bwlimit", bwlimit)
    jobs = unfinished() if job is None else _named(job, unfinished())
    if job is not None and list_only and not jobs:
        raise _gone(job)
    if list_only:
        jobs = _pruned(jobs, json=json, quiet=quiet)
    if job is not None and not list_only:
        lifted = _lift_here(jobs) if jobs else _lift_elsewhere(job, context)
        if lifted:
            _say_lifted(lifted, json=json, quiet=quiet)
            jobs = [which for which in jobs if not which.running]
            if not jobs:
                return
    if not jobs and error_on_nothing:
        raise NothingToDo(_NOTHING, hint="leave out --error-on-nothing if that is as it should be")
    if list_only or not jobs:
        _list(jobs, json=json, quiet=quiet)
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
            if json:
                Ndjson(sys.stdout.buffer)(which)
            else:
                confirm(line_of(which), quiet=quiet)
            continue
        try:
            show(partial(go_on, which), json=json, quiet=quiet, resume=same_command(), until=until)
        except (Interrupted, OutOfTime):
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
    from transfer.jobs import only

    found = [which for which in jobs if which.job.startswith(start)]
    if found:
        only(start, [which.job for which in found])
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
            raise JobGone(
                f"nothing called {start!r} is unfinished on this host, and no job of yours is called so:"
                " it is complete, has expired, or was removed",
                hint="see `xfer resume --list` and `xfer ls --all`",
            ) from None
        if found.state is not JobState.PAUSED:
            raise _state(job, found)
        await mine.resume(job)
        return job

    try:
        return ask(context, lift)
    except NotConfigured:
        raise _gone(start) from None


def _state(job: str, found: JobStatus) -> XferError:
    """Why a job that is not unfinished on this host cannot be resumed here, and what to do."""
    from cli.units import moment
    from transfer.api import JobState
    from transfer.errors import JobCancelled, JobGone

    if found.state is JobState.STORED:
        return JobGone(
            f"the transfer {job} is complete, and stored until {moment(found.expires)}",
            hint=f"nothing is left to resume: it can be fetched; `xfer status {job}` shows by whom it was",
        )
    if found.state is JobState.DELIVERED:
        return JobGone(
            f"the transfer {job} is complete: it has been delivered, and is not kept any longer",
            hint="nothing is left to resume; send it again if somebody else needs it",
        )
    if found.state is JobState.VOID and found.cancelled:
        return JobCancelled(f"the transfer {job} is void: it was cancelled by its owner")
    if found.state is JobState.VOID:
        return JobGone(
            f"the transfer {job} is void: its sender ended it before it was complete", hint="send it again"
        )
    return JobGone(
        f"the transfer {job} is {found.state.value}, and was not begun on this host",
        hint="go on with it where it was begun, or here with `xfer send --ticket`",
    )


def _gone(start: str) -> XferError:
    from transfer.errors import JobGone

    return JobGone(f"no unfinished transfer here is called {start!r}", hint="see `xfer resume --list`")


def _say_lifted(job: str, *, json: bool, quiet: bool) -> None:
    from cli.render import Ndjson
    from transfer.events import Notice

    told = f"{job} goes on where it runs"
    if json:
        Ndjson(sys.stdout.buffer)(Notice(text=told))
    else:
        confirm(told, quiet=quiet)


def _pruned(jobs: Sequence[Unfinished], *, json: bool, quiet: bool) -> list[Unfinished]:
    """Those that were not ended meanwhile, from wherever; what was is said."""
    from cli.render import Ndjson
    from cli.run import run
    from transfer.abandoned import prune
    from transfer.events import Notice
    from transfer.paths import printable

    verdicts = run(lambda: prune(jobs), resume="run it again")
    for verdict in verdicts:
        if json:
            Ndjson(sys.stdout.buffer)(Notice(text=verdict.told))
        elif not quiet:
            sys.stderr.write(printable(verdict.told, limit=1000) + "\n")
    forgotten = {verdict.job.number for verdict in verdicts if verdict.forgotten}
    return [which for which in jobs if which.number not in forgotten]


def _list(jobs: Sequence[Unfinished], *, json: bool, quiet: bool) -> None:
    """On stdout. That there is none is said, too."""
    from cli.render import Ndjson
    from cli.table import write
    from transfer.events import Event, Notice

    if json:
        view = Ndjson(sys.stdout.buffer)
        events: Sequence[Event] = jobs or [Notice(text=_NOTHING)]
        for event in events:
            view(event)
        return
    write(("JOB", "SIDE", "DONE", "BEGUN", "WHAT"), [*map(_row, jobs)], numbers=("DONE",))
    if not jobs:
        confirm(_NOTHING, quiet=quiet)


def _row(which: Unfinished) -> list[Cell]:
    from cli.render import done_of
    from cli.table import When

    running = ", another run works on it" if which.running else ""
    return [which.job, which.side, done_of(which), When(which.begun), which.label + running]
