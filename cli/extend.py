"""`xfer extend`: another expiry for a job."""

from __future__ import annotations

from typing import Annotated

from typer import Context

from cli import options
from cli.options import ContextName, Job, Json, Quiet

EXAMPLES = ("xfer extend qw3e --expire 7d", "xfer extend qw3ey7x9 --expire 1h --json")


def extend(
    arguments: Context,
    job: Job,
    expire: Annotated[str, options.expire("From now on, or once stored")],
    json: Json = False,
    quiet: Quiet = False,
    context: ContextName = None,
) -> None:
    """Give a job another expiry, later or sooner."""
    from cli.ask import ask, say_changed
    from cli.given import Given
    from cli.units import moment
    from transfer.jobs import Jobs

    seconds = Given(arguments).duration("expire", expire)
    changed = ask(context, lambda broker: Jobs(broker).extend(job, seconds))
    until = f"until {moment(changed.expires)}"
    if changed.state.unfinished:
        until = f"for {expire} once it is stored"
    say_changed(changed, f"{changed.job} is kept {until}", json=json, quiet=quiet)
