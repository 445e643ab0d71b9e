"""Options that several commands share, each defined once: names, variable, help.

An alias is the whole parameter; where commands differ in type or words, the function gives the option itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Option


def json(help: str) -> Any:
    """`--json`, of a bool."""
    return Option("--json", envvar="XFER_JSON", help=help)


def quiet(help: str) -> Any:
    """`--quiet`, of a bool."""
    return Option("--quiet", "-q", envvar="XFER_QUIET", help=help)


def folder(help: str) -> Any:
    """`--dir`, of a path or None."""
    return Option("--dir", metavar="DIR", envvar="XFER_DIR", help=help)


def everything(help: str, envvar: str = "XFER_ALL") -> Any:
    """`--all`, of a bool."""
    return Option("--all", envvar=envvar, help=help)


def expire(help: str) -> Any:
    """`--expire`, of a duration's text."""
    return Option("--expire", metavar="TIME", envvar="XFER_EXPIRE", help=help)


def ticket_file(help: str) -> Any:
    """`--ticket-file`, of a path or None."""
    return Option("--ticket-file", metavar="F", envvar="XFER_TICKET_FILE", help=help)


def nats_url() -> Any:
    """`--nats-url`, of a text."""
    return Option("--nats-url", metavar="URL", envvar="NATS_URL", help="Where NATS is: nats://HOST:4222")


def context(help: str) -> Any:
    """`--context`, of a name or None."""
    return Option("--context", metavar="NAME", envvar="XFER_CONTEXT", help=help)


# any command

Job = Annotated[str, Argument(metavar="JOB", help="Its id, or how that begins")]
ContextName = Annotated[str | None, context("Which servers")]
Json = Annotated[bool, json("As JSON")]
JsonEvents = Annotated[bool, json("Events as NDJSON on stdout")]
Quiet = Annotated[bool, quiet("Only errors")]

# those that move bytes

Patience = Annotated[
    str | None,
    Option(
        "--patience",
        metavar="TIME",
        envvar="XFER_PATIENCE",
        help="How long to ride out outages [10m; at start 3s]",
    ),
]


def concurrency(help: str) -> Any:
    """`--concurrency`, of a number or None."""
    return Option("--concurrency", metavar="N", min=1, max=64, envvar="XFER_CONCURRENCY", help=help)


def exclude(help: str) -> Any:
    """`--exclude`, of a list of patterns or None."""
    return Option("--exclude", metavar="GLOB", envvar="XFER_EXCLUDE", help=help)


Concurrency = Annotated[int | None, concurrency("Requests at once; adapts")]
Bwlimit = Annotated[
    str | None,
    Option(
        "--bwlimit",
        metavar="RATE",
        envvar="XFER_BWLIMIT",
        help="Bytes a second: 20M, or '08:00,2M 19:00,off'",
    ),
]
Interface = Annotated[
    list[str] | None,
    Option(
        "--interface",
        metavar="NAME",
        envvar="XFER_INTERFACE",
        help="Network interface or address to use; repeatable",
    ),
]

ErrorOnNothing = Annotated[
    bool,
    Option("--error-on-nothing", envvar="XFER_ERROR_ON_NOTHING", help="Exit 9 if there is nothing to do"),
]

Fetches = Annotated[
    int | None,
    Option("--fetches", metavar="N", min=1, envvar="XFER_FETCHES", help="Delete after N receivers have it"),
]

# those of rooms


def room(help: str) -> Any:
    """`--room`, of a name (or a ticket) or None."""
    return Option("--room", metavar="ROOM", envvar="XFER_ROOM", help=help)


RoomFile = Annotated[
    str | None,
    Option("--room-file", metavar="F", envvar="XFER_ROOM_FILE", help="The same: the room's ticket is in F"),
]
Consumer = Annotated[
    str | None,
    Option("--as", metavar="NAME", envvar="XFER_AS", help="Under which name; this host's unless given"),
]

# those about servers

Dir = Annotated[Path | None, folder("The folder given to xfer up")]
NatsCreds = Annotated[
    Path | None,
    Option("--nats-creds", metavar="FILE", envvar="NATS_CREDS", help="A .creds file, or an nkey seed"),
]
Ca = Annotated[
    Path | None,
    Option("--ca", metavar="FILE", envvar="XFER_CA", help="Authorities that vouch for NATS and S3, as PEM"),
]
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
    from cli.given import Given

    begun, given = time.monotonic(), Given(arguments)
    if events is not None:
        events_fd.attach(events, option=given.called("events_fd"))
    seconds = given.duration_if("deadline", deadline)
    return None if seconds is None else begun + seconds
