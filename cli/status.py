"""`xfer status`: how one job stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.options import ContextName, Job, Json

if TYPE_CHECKING:
    from transfer.api import JobStatus

EXAMPLES = ("xfer status qw3e", "xfer status qw3ey7x9 --json")


def status(job: Job, json: Json = False, context: ContextName = None) -> None:
    """Show how a job stands, wherever it runs."""
    import sys
    import time

    from cli.ask import ask, print_json
    from transfer.jobs import Jobs

    whole, found = ask(context, lambda broker: Jobs(broker).status(job))
    if json:
        print_json(facts(whole, found), times=("created", "expires"))
        return
    sys.stdout.writelines(f"{name:9}  {text}\n" for name, text in told(whole, found, time.time()))


def facts(job: str, found: JobStatus) -> dict[str, object]:
    """For programs. Times in seconds since 1970, to be printed as ISO 8601; sizes in bytes."""
    return {
        "job": job,
        "state": found.state.value,
        "size": found.size,
        "created": found.created,
        "expires": found.expires,
        "expire": found.expire,
        "segments": len(found.complete),
        "stored": found.stored,
        "uploads": len(found.open_uploads),
        "fetched": len(found.receivers),
        "fetches": found.fetches,
        "receivers": found.receivers,
    }


def told(job: str, found: JobStatus, now: float) -> list[tuple[str, str]]:
    """For people, at most 80 columns. now: seconds since 1970."""
    from cli.ls import count
    from cli.units import ago, moment, show_size, span

    segments = "1 segment" if len(found.complete) == 1 else f"{len(found.complete)} segments"
    stored = segments if found.stored is None else f"{show_size(found.stored)} in {segments}"
    if found.state.settled:
        stored = "nothing any more"
    rows = [
        ("job", job),
        ("state", found.state.value),
        ("size", "not known" if found.size is None else show_size(found.size)),
        ("created", f"{moment(found.created)}, {ago(found.created, now)}"),
        ("expires", f"{moment(found.expires)}, {ago(found.expires, now)}"),
        ("stored", stored),
        ("fetched", count(len(found.receivers), found.fetches)),
    ]
    if found.state.unfinished:
        rows.insert(5, ("then kept", span(found.expire)))
    return rows + [("by", receiver) for receiver in found.receivers]
