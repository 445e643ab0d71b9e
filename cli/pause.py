"""`xfer pause`: have a job wait, wherever it runs."""

from __future__ import annotations

from cli.options import ContextName, Job, Json, Quiet

EXAMPLES = ("xfer pause qw3e", "xfer pause qw3ey7x9 --json")


def pause(job: Job, json: Json = False, quiet: Quiet = False, context: ContextName = None) -> None:
    """Have a job wait, wherever it runs; what is under way is stored."""
    from cli.ask import ask, say_changed
    from transfer.jobs import Jobs

    changed = ask(context, lambda broker: Jobs(broker).pause(job))
    told = f"{changed.job} is paused; `xfer resume {changed.job}` goes on with it"
    say_changed(changed, told, json=json, quiet=quiet)
