"""`xfer rm`: forget a job."""

from __future__ import annotations

from cli.options import ContextName, Job, Json, Quiet

EXAMPLES = ("xfer rm qw3e", "xfer rm qw3ey7x9 --json")


def rm(job: Job, json: Json = False, quiet: Quiet = False, context: ContextName = None) -> None:
    """Forget a job, whatever its state, with what is stored or here of it."""
    from cli.ask import ask, say_changed
    from cli.cancel import forget_here
    from transfer.jobs import Jobs

    changed = ask(context, lambda broker: Jobs(broker).remove(job))
    say_changed(
        changed, f"{changed.job} is forgotten{forget_here(changed.job, name=True)}", json=json, quiet=quiet
    )
