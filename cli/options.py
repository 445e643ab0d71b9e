"""Options that several commands share, and what they mean."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Context, Option

Json = Annotated[bool, Option("--json", envvar="XFER_JSON", help="As JSON")]
Job = Annotated[str, Argument(metavar="JOB", help="Its id, or how that begins")]
ContextName = Annotated[
    str | None, Option("--context", metavar="NAME", envvar="XFER_CONTEXT", help="Which servers")
]
Quiet = Annotated[bool, Option("--quiet", "-q", envvar="XFER_QUIET", help="Only errors")]
Deadline = Annotated[
    str | None,
    Option("--deadline", metavar="TIME", envvar="XFER_DEADLINE", help="End by then with exit code 10"),
]
EventsFd = Annotated[
    int | None,
    Option(
        "--events-fd", metavar="N", min=3, envvar="XFER_EVENTS_FD", help="Events as NDJSON on descriptor N"
    ),
]


def watched(arguments: Context, deadline: str | None, events: int | None) -> float | None:
    """Attach the descriptor, and give the time of the deadline, seconds of time.monotonic. Raises UsageError.

    First thing of a command, so that a deadline counts from its start and events tell of everything that fails.
    """
    import time

    from cli import events_fd
    from cli.misuse import called
    from cli.units import parse_duration

    begun = time.monotonic()
    if events is not None:
        events_fd.attach(events, option=called(arguments, "events_fd"))
    if deadline is None:
        return None
    option = called(arguments, "deadline")
    return begun + parse_duration(deadline, option=option, command=arguments.info_name or "")
