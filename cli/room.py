"""Rooms: durable mailboxes of sealed tickets, for senders and receivers that are never there at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Annotated, TypeVar

from typer import Argument, Context, Option

from cli import options
from cli.confirm import confirm
from cli.options import Consumer, ContextName, Json, Quiet

if TYPE_CHECKING:
    from transfer.room import Member, Posted
    from transfer.room_names import Room
    from transfer.rooms_api import ConsumerLine, RoomInfo

EXAMPLES = ("xfer room new backups", "xfer fetch --room backups -o /srv/backups/")
EXAMPLES_OF = {
    "new": ("xfer room new backups", "xfer room new jobs --tries 3 --ticket-file room.txt"),
    "join": ("xfer room join xferroom1qw3…", "xfer room join --ticket-file room.txt --name nightly"),
    "ls": ("xfer room ls", "xfer room ls --json"),
    "show": ("xfer room show backups", "xfer room show jobs --as work --json"),
    "retry": ("xfer room retry jobs", "xfer room retry jobs 17 --as work"),
    "leave": ("xfer room leave backups", "xfer room leave backups --as laptop"),
    "rm": ("xfer room rm backups", "xfer room rm backups --context team"),
}
Answer = TypeVar("Answer")
RoomName = Annotated[str, Argument(metavar="ROOM", envvar="XFER_ROOM", help="Its name here, or its ticket")]
Named = Annotated[str, Argument(metavar="ROOM", help="Its name here, or its ticket")]
"""Only as it is typed: what cannot be undone is not done to whichever room a variable happens to name."""


def new(
    name: Annotated[str, Argument(metavar="NAME", help="What its members call it")],
    tries: Annotated[
        int,
        Option(
            "--tries",
            metavar="N",
            min=1,
            max=100,
            envvar="XFER_TRIES",
            help="Of an item that is shared (--work)",
        ),
    ] = 5,
    ticket_file: Annotated[
        str | None, options.ticket_file("Write the ticket to F (0600); one there goes to F~")
    ] = None,
    context: ContextName = None,
    quiet: Quiet = False,
) -> None:
    """Make a room; its ticket, which lets others in, stands on stdout."""
    import sys
    from pathlib import Path

    from cli.run import run
    from cli.tickets import check_target, write_ticket
    from transfer import room_names
    from transfer.errors import UsageError
    from transfer.room import make

    room_names.check_name(name)
    if any(room.name == name for room in room_names.rooms()):
        raise UsageError(
            f"this host knows a room {name!r} already", hint="choose another name, or `xfer room leave` it"
        )
    target = Path(ticket_file) if ticket_file is not None else None
    if target is not None:
        check_target(target)
    room = run(lambda: make(name, tries=tries, context=context), resume="run it again")
    room_names.add(room)
    if target is not None:
        write_ticket(target, str(room.ticket))
    else:
        sys.stdout.write(f"{room.ticket}\n")
        sys.stdout.flush()
    told = f"room {name} is made; whoever has its ticket may read and post: `xfer room join TICKET`"
    confirm(told, quiet=quiet)


def join(
    arguments: Context,
    ticket: Annotated[
        str | None,
        Argument(metavar="TICKET", envvar="XFER_ROOM_TICKET", help="The room's", show_default=False),
    ] = None,
    ticket_file: Annotated[str | None, options.ticket_file("Read the ticket from F; - is stdin")] = None,
    name: Annotated[
        str | None, Option("--name", metavar="NAME", envvar="XFER_ROOM_NAME", help="What to call it here")
    ] = None,
    context: ContextName = None,
    quiet: Quiet = False,
) -> None:
    """Remember a room, under the name that its maker gave it."""

    from cli.given import Given
    from cli.run import run
    from cli.tickets import TWICE, read_ticket
    from transfer import config, room_names
    from transfer.room import member
    from transfer.ticket import RoomTicket

    given = Given(arguments)
    ticket, ticket_file = given.text_or_file("ticket", ticket, "ticket_file", ticket_file, twice=TWICE)
    room = room_names.Room(
        name=name or "",
        ticket=read_ticket(ticket, ticket_file, RoomTicket),
        context=config.load(context).name,
    )

    async def called() -> str:
        async with member(room) as us:
            return us.name_in(await us.about())

    own = run(called, resume="run it again")
    named = room_names.Room(name=name or own, ticket=room.ticket, context=room.context)
    room_names.add(named)
    told = f"joined room {named.name}: `xfer fetch --room {named.name}` fetches what lies there"
    confirm(told, quiet=quiet)


def ls(json: Json = False) -> None:
    """List the rooms that this host has joined."""

    from cli import table
    from cli.ask import print_json
    from transfer.room_names import rooms

    found = rooms()
    if json:
        print_json([{"name": room.name, "room": room.ticket.id, "context": room.context} for room in found])
    elif found:
        table.write(("NAME", "SERVERS", "ID"), [(room.name, room.context, room.ticket.id) for room in found])
    else:
        confirm("no rooms")


def show(room: RoomName, consumer: Consumer = None, json: Json = False, context: ContextName = None) -> None:
    """What lies in a room, and who has had how much of it; with --as only what that consumer has not had."""

    from cli.ask import print_json

    info, items = _ask(room, context, lambda us: _look(us, consumer))
    if json:
        told = {"room": info.room, "owner": info.owner, "items": [*map(_for_programs, items)]}
        print_json({**told, "consumers": info.consumers}, times=("sent", "posted", "expires", "busy", "seen"))
        return
    _show_items(items)
    _show_consumers(info.consumers)
    if not items and not info.consumers:
        confirm("nothing lies there")


def retry(
    room: RoomName,
    items: Annotated[
        list[int] | None,
        Argument(metavar="ITEM...", help="Their numbers; all that were given up unless said"),
    ] = None,
    consumer: Consumer = None,
    quiet: Quiet = False,
    context: ContextName = None,
) -> None:
    """Try again what those who share the room (--work) gave up."""

    name = consumer or "work"

    count = _ask(room, context, lambda us: _again(us, name, items or ()))
    confirm(f"{count} item{'' if count == 1 else 's'} will be tried again", quiet=quiet)


def leave(
    arguments: Context,
    room: RoomName,
    consumer: Consumer = None,
    quiet: Quiet = False,
    context: ContextName = None,
) -> None:
    """Forget a room, here and what this host has had of it; with --as only what that consumer has had."""

    from cli.consumer import own_name
    from cli.given import Given
    from transfer import room_names
    from transfer.errors import JobGone, UsageError

    if consumer is None and not Given(arguments).typed("room"):  # what cannot be undone is asked for by name
        raise UsageError("which room is meant is not typed", hint="name it, or say with --as who leaves it")
    found = room_names.find(room)

    async def forget(us: Member) -> None:
        try:
            await us.leave(consumer or own_name())
        except JobGone:  # then there is nothing to forget but its name
            return

    _ask(room, context, forget)
    if consumer is None and found.name:
        room_names.remove(found.name)
    confirm(f"left room {room}" if consumer is None else f"forgot what {consumer} has had", quiet=quiet)


def rm(room: Named, quiet: Quiet = False, context: ContextName = None) -> None:
    """Remove a room that you made, for all its members; what was sent stays until it expires."""

    from transfer import room_names

    found = room_names.find(room)
    _ask(room, context, lambda us: us.remove())
    if found.name:
        room_names.remove(found.name)
    confirm(f"room {room} is removed", quiet=quiet)


async def _look(us: Member, consumer: str | None) -> tuple[RoomInfo, list[Posted]]:
    """The room, and what that consumer has not had; all there is for one that never was: looking does not make it."""
    info = await us.about()
    theirs = [line for line in info.consumers if line.name == consumer and line.user in ("", us.user)]
    work = any(not line.user for line in theirs)
    items = us.items(consumer if theirs and consumer else "", work=work)
    return info, [item async for item in items]


async def _again(us: Member, name: str, items: Collection[int]) -> int:
    """How many of them, all if none is named, that shared consumer had given up, and offers again now."""
    from transfer.rooms_api import MAX_MARKED

    lines = [line for line in (await us.about()).consumers if line.name == name and not line.user]
    given_up = [number for line in lines for number in line.given_up if not items or number in items]
    for start in range(0, len(given_up), MAX_MARKED):
        await us.mark(name, "retry", work=True, again=given_up[start : start + MAX_MARKED])
    return len(given_up)


def _ask(room: str, context: str | None, question: Callable[[Member], Awaitable[Answer]]) -> Answer:
    from cli.run import run
    from transfer import room_names
    from transfer.room import member

    found: Room = room_names.find(room)

    async def work() -> Answer:
        async with member(found, context) as us:
            return await question(us)

    return run(work, resume="run it again")


def _for_programs(posted: Posted) -> dict[str, object]:
    """All of it but the ticket: what is shown ends up in logs."""
    item = posted.item
    return {
        "number": posted.number,
        "job": posted.job,
        "user": posted.user,
        "host": item.host if item is not None else None,
        "names": [name.decode("utf-8", "backslashreplace") for name in item.names]
        if item is not None
        else [],
        "more": item.more if item is not None else 0,
        "files": item.files if item is not None else None,
        "size": item.size if item is not None else None,
        "sent": item.sent if item is not None else None,
        "posted": posted.posted,
        "expires": posted.expires,
        "gone": posted.gone,
        "busy": posted.busy or None,
        "failed": posted.failed,
        "wrong": posted.wrong.what if posted.wrong is not None else None,
    }


def _show_items(items: list[Posted]) -> None:
    from cli import table
    from cli.units import show_size

    rows = []
    for posted in items:
        item = posted.item
        size = show_size(item.size) if item is not None and item.size is not None else "?"
        sender = f"{posted.user}@{item.host}" if item is not None else posted.user
        until: table.Cell = "gone" if posted.gone else table.When(posted.expires)
        name = item.label if item is not None else f"({posted.wrong.what if posted.wrong else ''})"
        rows.append((str(posted.number), table.When(posted.posted), size, until, sender, name))
    table.write(("ITEM", "POSTED", "SIZE", "EXPIRES", "FROM", "NAMES"), rows, numbers={"ITEM", "SIZE"})


def _show_consumers(lines: list[ConsumerLine]) -> None:
    import sys

    from cli import table

    if not lines:
        return
    sys.stdout.write("\n")
    rows = []
    for line in lines:
        given_up = ", ".join(f"{number}: {why}" for number, why in line.given_up.items()) or "-"
        held = ", ".join(map(str, line.held)) or "-"
        rows.append(
            (line.name, line.user or "(shared)", str(line.left), held, table.When(line.seen), given_up)
        )
    table.write(("CONSUMER", "USER", "LEFT", "AT WORK ON", "SEEN", "GIVEN UP"), rows, numbers={"LEFT"})
