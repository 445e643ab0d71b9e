"""`xfer cancel`: end a job for good, wherever it runs."""

from __future__ import annotations

from cli.options import ContextName, Job, Json, Quiet

EXAMPLES = ("xfer cancel qw3e", "xfer cancel qw3ey7x9 --json")


def cancel(job: Job, json: Json = False, quiet: Quiet = False, context: ContextName = None) -> None:
    """End a job for good; what is stored or had arrived here goes."""
    from cli.ask import ask, say_changed
    from transfer.jobs import Jobs

    changed = ask(context, lambda broker: Jobs(broker).cancel(job))
    say_changed(changed, f"{changed.job} is void{forget_here(changed.job)}", json=json, quiet=quiet)


def forget_here(job: str, *, name: bool = False) -> str:
    """Have this host forget what it has begun of a job that is no more; what to say of that. name: also what it was of."""
    from transfer.abandoned import forget

    places = [
        f"; what had arrived in {which.label} is removed"
        for which in forget(job, name=name)
        if which.side == "fetch"
    ]
    return "".join(places)
