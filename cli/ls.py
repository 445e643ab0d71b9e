"""`xfer ls`: the user's jobs, wherever they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from cli import options
from cli.options import ContextName, Json

if TYPE_CHECKING:
    from transfer.api import JobLine

EXAMPLES = ("xfer ls", "xfer ls --state paused --json")


def ls(
    every: Annotated[bool, options.everything("Also what was delivered or is void, for a day")] = False,
    state: Annotated[
        Literal["open", "paused", "stored", "delivered", "void"] | None,
        Option("--state", envvar="XFER_STATE", help="Only these"),
    ] = None,
    json: Json = False,
    context: ContextName = None,
) -> None:
    """List your jobs, wherever they were begun."""
    import sys
    import time

    from cli.ask import ask, print_json
    from transfer.api import JobState
    from transfer.jobs import Jobs

    shown = [JobState(state)] if state is not None else []
    states = shown or ([] if every else [state for state in JobState if not state.settled])
    lines = ask(context, lambda broker: Jobs(broker).list(states))
    if json:
        print_json(lines)
    elif lines:
        sys.stdout.writelines(line + "\n" for line in table(lines, time.time()))
    else:
        sys.stderr.write("no jobs\n")


def table(lines: list[JobLine], now: float) -> list[str]:
    """At most 80 columns: a heading, and a line for each. now: seconds since 1970."""
    from cli.units import show_size

    def line(*cells: str) -> str:
        job, state, size, age, left, fetched = cells
        return f"{job:16}  {state:9}  {size:>8}  {age:>7}  {left:>10}  {fetched}".rstrip()

    told = [line("JOB", "STATE", "SIZE", "AGE", "EXPIRES IN", "FETCHED")]
    for job in lines:
        size = "?" if job.size is None else show_size(job.size)
        age, left = span(now - job.created), span(job.expires - now)
        told.append(line(job.job, job.state.value, size, age, left, count(job.fetched, job.fetches)))
    return told


def count(fetched: int, fetches: int | None) -> str:
    """`2 of 3`, `2`, `-`."""
    if fetches is not None:
        return f"{fetched} of {fetches}"
    return str(fetched) if fetched else "-"


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `5 h`, `12 d`: roughly, in few columns."""
    for most, length, unit in ((90, 1, "s"), (5400, 60, "min"), (36 * 3600, 3600, "h")):
        if seconds < most:
            return f"{max(0, round(seconds / length))} {unit}"
    return f"{round(seconds / 86_400)} d"
