"""See and settle what brokers gave up; for admins."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.confirm import confirm
from cli.options import ContextName, Json, Quiet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from transfer.broker_client import BrokerClient

    Settle = Callable[[BrokerClient, str | None], Awaitable[list[str]]]

EXAMPLES = ("xfer dead ls", "xfer dead retry --all")
EXAMPLES_OF = {
    "ls": ("xfer dead ls", "xfer dead ls --json"),
    "retry": ("xfer dead retry q3xw", "xfer dead retry --all"),
    "drop": ("xfer dead drop q3xw", "xfer dead drop --all --json"),
}

Job = Annotated[str | None, typer.Argument(metavar="JOB", help="Of which job: its id, or how that begins")]
All = Annotated[bool, options.everything("All of them")]


def ls(json: Json = False, context: ContextName = None) -> None:
    """List dead letters: what was owed, why it could not be done."""
    from cli.ask import ask, print_json
    from cli.table import When, write

    found = ask(context, lambda broker: broker.dead_list())
    if json:
        print_json(found, times=("time",))
        return
    rows = [
        (letter.job, letter.kind, When(letter.time), str(letter.tries), letter.reason)
        for letter in found.letters
    ]
    write(("JOB", "KIND", "GIVEN UP", "TRIES", "REASON"), rows, numbers=("TRIES",))
    if not rows:
        confirm("no dead letters")
    if found.more:
        sys.stderr.write(f"and {found.more} more\n")


def retry(
    job: Job = None,
    all: All = False,
    json: Json = False,
    quiet: Quiet = False,
    context: ContextName = None,
) -> None:
    """Try again what a dead letter is about."""
    _settle("retried", lambda broker, which: broker.dead_retry(which), job, all, json, quiet, context)


def drop(
    job: Job = None,
    all: All = False,
    json: Json = False,
    quiet: Quiet = False,
    context: ContextName = None,
) -> None:
    """Give up for good what a dead letter is about; what is left in the store ages away."""
    _settle("dropped", lambda broker, which: broker.dead_drop(which), job, all, json, quiet, context)


async def _find(broker: BrokerClient, job: str) -> str | None:
    """The whole id of the only job with a letter that begins so; None if there is none. Raises UsageError."""
    from transfer.jobs import only
    from transfer.ticket import is_job_id

    if is_job_id(job):
        return job
    found = [letter.job for letter in (await broker.dead_list(job)).letters if letter.job.startswith(job)]
    return only(job, found) if found and job else None


def _settle(
    done: str,
    settle: Settle,
    job: str | None,
    all_of_them: bool,
    json: bool,
    quiet: bool,
    context: str | None,
) -> None:
    """Raises UsageError, JobGone."""
    from cli.ask import ask, print_json
    from transfer.errors import JobGone, UsageError

    if (job is None) != all_of_them:
        raise UsageError("name one JOB, or give --all", hint="`xfer dead ls` shows them")

    async def settle_all(broker: BrokerClient) -> list[str]:
        if job is not None:
            whole = await _find(broker, job)
            return await settle(broker, whole) if whole else []
        letters = await broker.dead_list()  # what dies anew meanwhile is not settled again and again
        left, jobs = len(letters.letters) + letters.more, list[str]()
        while left > 0 and (some := await settle(broker, None)):
            jobs += some
            left -= len(some)
        return jobs

    jobs = ask(context, settle_all)
    if job is not None and not jobs:
        raise JobGone(
            f"there is no dead letter of job {job!r}", hint="`xfer dead ls` shows those that are there"
        )
    if json:
        print_json({done: jobs})
    else:
        confirm(f"{done} {len(jobs)}", quiet=quiet)
