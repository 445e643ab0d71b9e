"""`xfer send`: arguments to one call of `transfer.send.send`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Context, Option

from cli import options
from cli.options import (
    Bwlimit,
    Concurrency,
    ContextName,
    Deadline,
    EventsFd,
    Fetches,
    Interface,
    JsonEvents,
    Patience,
    RoomFile,
    watched,
)

EXAMPLES = (
    "xfer send report.pdf photos/",
    "pg_dump shop | xfer send - --name shop.sql --room backups",
)
EXPIRE, EXPIRE_IN_ROOM = "24h", "7d"
"""Whoever fetches every night must not come a minute late."""


def send(
    arguments: Context,
    paths: Annotated[
        list[str] | None,
        Argument(metavar="PATH...", help="Files and folders; - is stdin", show_default=False),
    ] = None,
    via: Annotated[
        Literal["auto", "webrtc", "s3"],
        Option("--via", envvar="XFER_VIA", help="The route; auto: by size and who is there"),
    ] = "auto",
    threshold: Annotated[
        str,
        Option(
            "--threshold",
            metavar="SIZE",
            envvar="XFER_THRESHOLD",
            help="From this size on through S3 at once",
        ),
    ] = "100MB",
    wait: Annotated[
        str, Option("--wait", metavar="TIME", envvar="XFER_WAIT", help="For a receiver, or 0, or forever")
    ] = "60s",
    expire: Annotated[str | None, options.expire("How long it is kept once stored [24h; room: 7d]")] = None,
    fetches: Fetches = None,
    receipt: Annotated[
        bool, Option("--receipt", envvar="XFER_RECEIPT", help="End only when somebody has it")
    ] = False,
    compress: Annotated[
        str, Option("--compress", metavar="HOW", envvar="XFER_COMPRESS", help="auto, off or zstd level 1..19")
    ] = "auto",
    exclude: Annotated[list[str] | None, options.exclude("Leave out, as in .gitignore; repeatable")] = None,
    links: Annotated[
        Literal["skip", "follow", "preserve"], Option("--links", envvar="XFER_LINKS", help="Symbolic links")
    ] = "preserve",
    name: Annotated[
        str | None,
        Option("--name", metavar="NAME", envvar="XFER_NAME", help="What to call the stream of - or CMD"),
    ] = None,
    from_command: Annotated[
        str | None,
        Option(
            "--from-command",
            metavar="CMD",
            envvar="XFER_FROM_COMMAND",
            help="Send the stdout of CMD; void if CMD fails",
        ),
    ] = None,
    ticket_file: Annotated[
        Path | None, options.ticket_file("Write the ticket to F (0600); one there goes to F~")
    ] = None,
    no_resume: Annotated[
        bool,
        Option("--no-resume", envvar="XFER_NO_RESUME", help="Start anew, and void what an earlier run left"),
    ] = False,
    room: Annotated[str | None, options.room("Post it there; nobody is waited for")] = None,
    room_file: RoomFile = None,
    ticket: Annotated[
        str | None,
        Option(
            "--ticket", metavar="T", envvar="XFER_SEND_TICKET", help="Go on with this, begun on another host"
        ),
    ] = None,
    ticket_from: Annotated[
        str | None,
        Option(
            "--ticket-from", metavar="F", envvar="XFER_TICKET_FROM", help="The same; read the ticket from F"
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Option(
            "--idempotency-key",
            metavar="KEY",
            envvar="XFER_IDEMPOTENCY_KEY",
            help="Every run with this KEY is one transfer",
        ),
    ] = None,
    patience: Patience = None,
    concurrency: Concurrency = None,
    bwlimit: Bwlimit = None,
    interface: Interface = None,
    context: ContextName = None,
    deadline: Deadline = None,
    json: JsonEvents = False,
    events_fd: EventsFd = None,
    quiet: Annotated[bool, options.quiet("Only the ticket, and errors")] = False,
) -> None:
    """Send files to whoever gets the ticket, which stands on stdout."""
    import sys
    from functools import partial
    from io import FileIO

    from msgspec.structs import replace

    from cli.given import Given
    from cli.run import same_command
    from cli.show import show
    from cli.tickets import check_target, read_ticket, room_named, write_ticket
    from transfer.config import load
    from transfer.errors import UsageError
    from transfer.events import Event, TicketReady
    from transfer.room import servers_of
    from transfer.room_names import find

    until = watched(arguments, deadline, events_fd)
    given = Given(arguments)
    room = room_named(given, room, room_file)
    paths = paths or []
    stdin = "-" in paths
    _check_source(paths, stdin=stdin, command=from_command, name=name)
    level = _level(compress, option=given.called("compress"))
    if ticket_file is not None:
        check_target(ticket_file)
    elif sys.__stdout__ is None and room is None:
        raise UsageError(
            "stdout is closed, and the ticket goes there", hint="have it written with --ticket-file"
        )
    twice = "the ticket is given twice, with --ticket and --ticket-from"
    ticket, ticket_from = given.text_or_file("ticket", ticket, "ticket_from", ticket_from, twice=twice)
    claim = read_ticket(ticket, ticket_from) if ticket is not None or ticket_from is not None else None
    if claim is not None and no_resume:
        raise UsageError("--no-resume starts anew, and a ticket goes on", hint="choose one of them")

    def keep_ticket(event: Event) -> Event:
        if not isinstance(event, TicketReady) or event.ticket is None:
            return event
        if ticket_file is not None:
            write_ticket(ticket_file, event.ticket)
        elif room is None:
            return event
        return replace(event, ticket=None)

    smallest = given.size("threshold", threshold)
    lull = None if wait == "forever" else given.duration("wait", wait)
    kept = given.duration("expire", expire or (EXPIRE_IN_ROOM if room is not None else EXPIRE))
    outage = given.duration_if("patience", patience)
    servers = load(context) if room is None else servers_of(find(room), context)
    resume = same_command()
    if stdin or from_command is not None:
        resume = "a stream cannot be resumed: send it again from its start"

    from transfer.send import send as transfer_send

    call = partial(
        transfer_send,
        [] if stdin else paths,
        context=servers,
        # Unbuffered: a thread that still reads a buffered one at the interpreter's end makes it abort.
        stream=FileIO(sys.stdin.fileno(), closefd=False) if stdin else None,
        command=from_command,
        name=name,
        via=via,
        threshold=smallest,
        wait=lull,
        expire=kept,
        fetches=fetches,
        receipt=receipt,
        compress=level,
        exclude=exclude or (),
        links=links,
        resume=not no_resume,
        ticket=claim,
        room=room,
        idempotency_key=idempotency_key,
        concurrency=concurrency,
        bwlimit=given.limit("bwlimit", bwlimit),
        interfaces=interface or (),
        patience=outage,
    )
    show(call, first=keep_ticket, json=json, quiet=quiet, resume=resume, until=until)


def _check_source(paths: list[str], *, stdin: bool, command: str | None, name: str | None) -> None:
    """Exactly one kind of source. Raises UsageError."""
    import sys

    from transfer.errors import UsageError

    if command is not None and paths:
        raise UsageError(
            "--from-command sends what the command writes, and no paths besides",
            hint="drop one or the other; see `xfer send --help`",
        )
    if command is None and not paths:
        raise UsageError(
            "nothing to send", hint="name a file or a folder, or - for stdin; see `xfer send --help`"
        )
    if stdin and len(paths) > 1:
        raise UsageError("- (stdin) cannot be sent together with paths", hint="send them one after the other")
    if stdin and name is None:
        raise UsageError("stdin has no name", hint="say what to call it with --name")
    if stdin and (sys.stdin is None or sys.stdin.closed):
        raise UsageError("stdin is closed", hint="pipe something in")
    if stdin and sys.stdin.isatty():
        raise UsageError(
            "stdin is a terminal", hint="pipe something in: `tar c . | xfer send - --name site.tar`"
        )
    if name is not None and not stdin and command is None:
        raise UsageError(
            "--name goes with - or --from-command only", hint="files are sent under their own names"
        )


def _level(text: str, *, option: str) -> str | int:
    """`auto`, `off` or a level of zstd. Raises UsageError."""
    from transfer.errors import UsageError

    if text in ("auto", "off"):
        return text
    if text.isdecimal() and 1 <= int(text) <= 19:
        return int(text)
    raise UsageError(
        f"{option} {text!r} is not a way to compress",
        hint="write auto, off or a level from 1 to 19; see `xfer send --help`",
    )
