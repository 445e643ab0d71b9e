"""`xfer fetch`: arguments to one call of `transfer.fetch.fetch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Option

from cli import options
from cli.options import (
    Bwlimit,
    Concurrency,
    Consumer,
    ContextName,
    Deadline,
    ErrorOnNothing,
    EventsFd,
    Interface,
    JsonEvents,
    Patience,
    Quiet,
    RoomFile,
    watched,
)

if TYPE_CHECKING:
    from cli.given import Given

EXAMPLES = (
    "xfer fetch xfer1qw3… -o downloads/",
    "xfer fetch --room backups --as nightly -o /srv/backups/",
)


def fetch(
    arguments: Context,
    ticket: Annotated[
        str | None,
        Argument(
            metavar="TICKET",
            envvar="XFER_TICKET",
            help="What the sender got (or XFER_TICKET)",
            show_default=False,
        ),
    ] = None,
    ticket_file: Annotated[str | None, options.ticket_file("Read the ticket from F; - is stdin")] = None,
    output: Annotated[
        str,
        Option(
            "--output",
            "-o",
            metavar="WHERE",
            envvar="XFER_OUTPUT",
            help="Folder (a final / makes it one), file, or - for stdout",
        ),
    ] = ".",
    overwrite: Annotated[
        bool, Option("--overwrite", envvar="XFER_OVERWRITE", help="Replace what is there")
    ] = False,
    rename: Annotated[
        bool, Option("--rename", envvar="XFER_RENAME", help="Keep what is there, write beside it")
    ] = False,
    unsafe_links: Annotated[
        bool,
        Option("--unsafe-links", envvar="XFER_UNSAFE_LINKS", help="Make links that leave the folder, too"),
    ] = False,
    room: Annotated[str | None, options.room("Fetch what lies there and is new to us")] = None,
    room_file: RoomFile = None,
    consumer: Consumer = None,
    work: Annotated[
        bool, Option("--work", envvar="XFER_WORK", help="Share the room: each item to one of its fetchers")
    ] = False,
    latest: Annotated[
        bool, Option("--latest", envvar="XFER_LATEST", help="Only the newest item; all unless given")
    ] = False,
    match: Annotated[
        list[str] | None,
        Option("--match", metavar="GLOB", envvar="XFER_MATCH", help="Only items of such names; repeatable"),
    ] = None,
    follow: Annotated[bool, Option("--follow", envvar="XFER_FOLLOW", help="Go on waiting for more")] = False,
    error_on_nothing: ErrorOnNothing = False,
    patience: Patience = None,
    concurrency: Concurrency = None,
    bwlimit: Bwlimit = None,
    interface: Interface = None,
    context: ContextName = None,
    deadline: Deadline = None,
    json: JsonEvents = False,
    events_fd: EventsFd = None,
    quiet: Quiet = False,
) -> None:
    """Fetch what a ticket stands for, verify it and put it in place."""
    import sys
    from functools import partial

    from cli.given import Given
    from cli.room_view import ItemByItem
    from cli.run import same_command
    from cli.show import show
    from cli.tickets import TWICE, read_ticket, room_named
    from transfer.config import load
    from transfer.errors import UsageError

    until = watched(arguments, deadline, events_fd)
    if not output:
        raise UsageError("-o is empty", hint="name a folder or a file; is a variable not set?")
    if output == "-" and json:
        raise UsageError("-o - and --json both want stdout", hint="choose one of them")
    if output == "-" and sys.__stdout__ is None:
        raise UsageError("stdout is closed", hint="name a folder or a file with -o")
    if overwrite and rename:
        raise UsageError("--overwrite and --rename contradict each other", hint="choose one of them")
    given = Given(arguments)
    seconds, rate = given.duration_if("patience", patience), given.limit("bwlimit", bwlimit)
    where = sys.stdout.buffer if output == "-" else output
    a_ticket, a_room = given.typed("ticket", "ticket_file"), given.typed("room", "room_file")
    if a_room and a_ticket:
        raise UsageError("a room is fetched, or what a ticket stands for", hint="drop --room or the ticket")
    if not a_room and not a_ticket and (room or room_file) and (ticket or ticket_file):
        of_ticket = given.called("ticket" if ticket else "ticket_file")
        of_room = given.called("room" if room else "room_file")
        raise UsageError(f"{of_ticket} and {of_room} are both set", hint="unset the one that is not meant")
    room = None if a_ticket else room_named(given, room, room_file)
    if room is not None:
        from cli.consumer import SHARED, own_name
        from transfer.room_fetch import fetch_room

        if output == "-" and not latest:
            raise UsageError("one item goes to stdout", hint="say --latest, or name a folder with -o")
        if latest and follow:
            raise UsageError("--latest takes one item, and --follow goes on", hint="choose one of them")
        taking = partial(
            fetch_room,
            room,
            where,
            consumer=consumer or (SHARED if work else own_name()),
            work=work,
            which="latest" if latest else "all",
            match=match or (),
            follow=follow,
            expect=error_on_nothing,
            context=context,
            overwrite=overwrite,
            rename=rename,
            unsafe_links=unsafe_links,
            concurrency=concurrency,
            bwlimit=rate,
            interfaces=interface or (),
            patience=seconds,
        )
        show(taking, json=json, quiet=quiet, resume=same_command(), until=until, view=ItemByItem)
        return
    _refuse_of_rooms(given)
    ticket, ticket_file = given.text_or_file("ticket", ticket, "ticket_file", ticket_file, twice=TWICE)
    claim = read_ticket(ticket, ticket_file)
    servers = load(context)

    from transfer.fetch import fetch as transfer_fetch

    call = partial(
        transfer_fetch,
        claim,
        where,
        context=servers,
        overwrite=overwrite,
        rename=rename,
        unsafe_links=unsafe_links,
        concurrency=concurrency,
        bwlimit=rate,
        interfaces=interface or (),
        patience=seconds,
    )
    show(call, json=json, quiet=quiet, resume=same_command(), until=until)


def _refuse_of_rooms(given: Given) -> None:
    """What says something about a room, and there is none. Raises UsageError."""
    from transfer.errors import UsageError

    for name in ("consumer", "work", "latest", "match", "follow", "error_on_nothing"):
        if given.typed(name):
            raise UsageError(f"{given.called(name)} is about a room", hint="name one with --room")
