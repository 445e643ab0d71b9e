"""The rooms that this host has joined: what they are called here, their tickets, and whose servers they are at."""

from __future__ import annotations

import os
import re

import msgspec

from transfer import config
from transfer.errors import MistypedTicket, UsageError
from transfer.ticket import RoomTicket
from transfer.tomlfile import TomlFile

NAME = re.compile(r"[\w.-]{1,64}")
_SEE = "see `xfer room ls`, or join it with `xfer room join`"


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """name: here; empty for one that was only given by its ticket. context: the name of its servers, empty: whichever is
    asked for."""

    name: str
    ticket: RoomTicket
    context: str


class _Row(msgspec.Struct):
    ticket: str
    context: str


class _File(msgspec.Struct):
    rooms: dict[str, _Row] = {}


_FILE = TomlFile(_File, "rooms", config.config_dir)


def rooms() -> list[Room]:
    """All of them, by name. Raises UsageError for a file that makes no sense."""
    return [_room(name, row) for name, row in sorted(_FILE.read().rooms.items())]


def find(text: str | Room) -> Room:
    """By its name here, or by its ticket. Raises UsageError, MistypedTicket."""
    if isinstance(text, Room):
        return text
    row = _FILE.read().rooms.get(text)
    if row is not None:
        return _room(text, row)
    if text.strip().lower().startswith(f"{RoomTicket.PREFIX}1"):
        return known(RoomTicket.parse(text))
    raise UsageError(f"this host has joined no room {text!r}", hint=_SEE)


def known(ticket: RoomTicket) -> Room:
    """That room, by the name it has here, if it has one."""
    named = (room for room in rooms() if room.ticket == ticket)
    return next(named, Room(name="", ticket=ticket, context=""))


def check_name(name: str) -> None:
    """Raises UsageError."""
    if not NAME.fullmatch(name) or not name.strip(".") or name.startswith("-"):
        raise UsageError(
            f"{name!r} cannot name a room",
            hint="use up to 64 letters, digits, `-`, `_` and `.`, and begin with none of them but a letter or digit",
        )


def add(room: Room) -> None:
    """Remember it. The same room under the same name again is fine. Raises UsageError if the name is taken."""
    check_name(room.name)
    with _FILE.changing() as file:
        there = file.rooms.get(room.name)
        if there is not None and _room(room.name, there).ticket != room.ticket:
            raise UsageError(
                f"this host knows another room as {room.name!r}",
                hint="give this one another name with --name, or `xfer room leave` that one",
            )
        file.rooms[room.name] = _Row(str(room.ticket), room.context)


def remove(name: str) -> None:
    """Forget it; one that is not known is fine."""
    with _FILE.changing() as file:
        file.rooms.pop(name, None)


def _room(name: str, row: _Row) -> Room:
    try:
        return Room(name=name, ticket=RoomTicket.parse(row.ticket), context=row.context)
    except MistypedTicket as error:
        raise UsageError(
            f"the ticket of room {name!r} in {os.fspath(_FILE.path)} is wrong: {error.what}",
            hint="mend it there",
        ) from None
