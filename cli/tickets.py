"""Tickets at rest: written to a file that only its owner reads; read from argv, a file, stdin, a variable."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from transfer.errors import NO_ROOM, DiskFull, MissingPath, MistypedTicket, UnsupportedVersion, UsageError
from transfer.ticket import RoomTicket, Ticket

if TYPE_CHECKING:
    from cli.given import Given

Kind = TypeVar("Kind", Ticket, RoomTicket)

_MAX_TICKET = 4096
"""Bytes read from a ticket file; a ticket has 54."""
TWICE = "the ticket is given twice, as argument and with --ticket-file"


def check_target(path: Path) -> None:
    """See now, and not when the job exists, that a ticket can be written there. Raises UsageError.

    Only a plain file is ever replaced: through a link or a device the ticket would end up elsewhere. And only
    one that is empty or holds a ticket: whoever mistook the option's meaning named the file to send. What it
    holds moves to `kept_aside`, of which the same is true.
    """
    if not path.parent.is_dir():
        raise UsageError(
            f"--ticket-file {str(path)!r}: its folder is not there", hint="make the folder first"
        )
    if _held(path):
        _held(kept_aside(path))


def kept_aside(path: Path) -> Path:
    """Where a ticket goes whose file gets another one: it may be all that leads to what was sent before."""
    return path.with_name(f"{path.name}~")


def _held(path: Path) -> bytes:
    """The ticket in there; empty if it is not there or empty. Raises UsageError."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UsageError(
                f"--ticket-file {str(path)!r} is not a plain file", hint="name a file that is new or yours"
            )
        with path.open("rb") as file:
            held = file.read(_MAX_TICKET)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UsageError(
            f"--ticket-file {str(path)!r}: {error.strerror}", hint="name a file elsewhere"
        ) from None
    if held and not _is_ticket(held):
        raise UsageError(
            f"--ticket-file {str(path)!r} is there and holds something else than a ticket",
            hint="name a new file, or remove that one",
        )
    return held


def _is_ticket(raw: bytes) -> bool:
    for kind in (Ticket, RoomTicket):
        with contextlib.suppress(MistypedTicket):
            with contextlib.suppress(UnsupportedVersion):  # a newer xfer's
                kind.parse(raw.decode("ascii", errors="replace"))
            return True
    return False


def write_ticket(path: Path, ticket: str) -> None:
    """Put the ticket there, mode 0600, whole or not at all; another one that is there is kept aside.

    Raises UsageError, DiskFull.
    """
    held = ""
    with contextlib.suppress(UsageError):  # it came between, and is no ticket to be kept
        held = _held(path).decode("ascii", errors="replace").strip()
    if held and held != ticket:
        _put(kept_aside(path), held)
    _put(path, ticket)


def _put(path: Path, ticket: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii"
        ) as file:
            file.write(ticket + "\n")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        what = f"the ticket cannot be written to {str(path)!r}: {error.strerror}"
        if error.errno in NO_ROOM:
            raise DiskFull(what, hint="free some space and run the same command again") from error
        raise UsageError(what, hint="name a file elsewhere") from error


def read_ticket(text: str | None, file: str | None, kind: type[Kind] = Ticket) -> Kind:  # type: ignore[assignment]
    """The ticket from its text or from a file (`-`: stdin). kind: a job's or a room's.

    Raises:
        UsageError: neither is given. MissingPath: no such file. MistypedTicket: it is none.
    """
    if text is not None:
        return kind.parse(text)
    if file is None:
        variable = "XFER_TICKET" if kind is Ticket else "XFER_ROOM_TICKET"
        raise UsageError("no ticket", hint=f"give it as argument, in {variable} or with --ticket-file")
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(_MAX_TICKET)
        else:
            with open(file, "rb") as source:
                raw = source.read(_MAX_TICKET)
    except OSError as error:
        raise MissingPath(f"the ticket file {file!r} cannot be read: {error.strerror}") from error
    return kind.parse(raw.decode("ascii", errors="replace"))


def room_named(given: Given, room: str | None, file: str | None) -> str | None:
    """The room that --room names, or whose ticket --room-file holds. Raises UsageError, and as `read_ticket`."""
    twice = "the room is given twice, with --room and --room-file"
    room, file = given.text_or_file("room", room, "room_file", file, twice=twice)
    return room if file is None else str(read_ticket(None, file, RoomTicket))
