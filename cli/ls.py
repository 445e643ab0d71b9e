"""`xfer ls`: the user's jobs, wherever they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from cli import options
from cli.confirm import confirm
from cli.options import ContextName, Json

if TYPE_CHECKING:
    from cli.table import Cell
    from transfer.api import JobLine

EXAMPLES = ("xfer ls", "xfer ls --state paused --json")
HEADINGS = ("JOB", "STATE", "SIZE", "CREATED", "EXPIRES", "FETCHED", "WHAT")


def ls(
    every: Annotated[bool, options.everything("Also what was delivered or is void, for a day")] = False,
    state: Annotated[
        Literal["open", "paused", "stored", "delivered", "void"] | None,
        Option("--state", envvar="XFER_STATE", help="Only these"),
    ] = None,
    json: Json = False,
    context: ContextName = None,
) -> None:
    """List your jobs, wherever they were begun; WHAT of those begun here."""

    import msgspec

    from cli.ask import ask, print_json
    from cli.table import write
    from transfer.api import JobState
    from transfer.jobs import Jobs, names

    shown = [JobState(state)] if state is not None else []
    states = shown or ([] if every else [state for state in JobState if not state.settled])
    lines = ask(context, lambda broker: Jobs(broker).list(states))
    known = names() if lines else {}
    if json:
        told = [{**msgspec.to_builtins(line), "what": known.get(line.job)} for line in lines]
        print_json(told, times=("created", "expires"))
    elif lines:
        rows = [row(line, known.get(line.job, "")) for line in lines]
        write(HEADINGS, rows, numbers=("SIZE",), whole=("JOB",))
    else:
        confirm("no jobs")


def row(job: JobLine, what: str = "") -> list[Cell]:
    """Under HEADINGS. what: was sent, if this host knows."""
    from cli.table import When
    from cli.units import show_size

    size = "?" if job.size is None else show_size(job.size)
    fetched = count(job.fetched, job.fetches)
    return [job.job, job.state.value, size, When(job.created), When(job.expires), fetched, what]


def count(fetched: int, fetches: int | None) -> str:
    """`2 of 3`, `2`, `-`."""
    if fetches is not None:
        return f"{fetched} of {fetches}"
    return str(fetched) if fetched else "-"
