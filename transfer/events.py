"""What a transfer tells whoever watches it: frozen data without secrets (but for the ticket itself).

`cli/render.py` turns these into bars, lines or NDJSON; the library renders nothing. As NDJSON each
is one object with `event` and `v`. Within version 1 fields may be added, never renamed or dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

RouteName = Literal["webrtc", "s3"]
WaitedFor = Literal["receiver", "receipt", "sender", "owner", "bus", "broker", "store"]


class Event(msgspec.Struct, frozen=True, tag_field="event", kw_only=True):
    v: int = 1


class TicketReady(Event, frozen=True, tag="ticket"):
    """The job exists; this text is what its receiver needs. ticket: null where it went to a file instead."""

    job: str
    ticket: str | None


class Waiting(Event, frozen=True, tag="waiting"):
    """Nothing moves, and why. left: seconds until something else is tried; None: no limit. on: `what` in one word."""

    what: str
    left: float | None = None
    on: WaitedFor | None = None


class RouteChosen(Event, frozen=True, tag="route"):
    """Bytes go this way from now on. reason: why, for people."""

    route: RouteName
    reason: str


class FileProgress(msgspec.Struct, frozen=True):
    """A file of which a part is safe. path: within the transfer; what is no UTF-8 in it stands as lone surrogates. Bytes."""

    path: str
    done: int
    size: int


class Progress(Event, frozen=True, tag="progress"):
    """done and total count raw bytes; total is None while unknown. wire counts bytes that crossed the network.

    under_way: raw bytes beyond those done that have left, or come, in pieces which are not whole yet; it falls when such a
    piece must begin anew. kept: bytes of done that an earlier run had moved.
    concurrency: requests to the store at once. level: zstd's, 0 for none. Both adapt; None where they mean nothing.
    files_done: how many files are whole; None while unknown, and for a stream. moving: of the files of which a part is
    safe, the few that grew last, the newest first.
    """

    done: int
    total: int | None
    wire: int
    files: int
    route: RouteName | None
    concurrency: int | None = None
    level: int | None = None
    under_way: int = 0
    kept: int = 0
    files_done: int | None = None
    moving: list[FileProgress] = []


class Notice(Event, frozen=True, tag="notice"):
    """Something worth a line that does not end the transfer. warning: what was sent or written is not what was asked
    for (a skipped pipe, an escaped name), or somebody has to mend something, and not only how it goes (a connection that
    was lost and is back)."""

    text: str
    warning: bool = False


class Stored(Event, frozen=True, tag="stored"):
    """S3 alone can serve the whole job from now on. expires: seconds since 1970. room: whose members it is for, by the
    room's name here; null if it is for whoever has the ticket."""

    job: str
    segments: int
    expires: float
    room: str | None = None


class Receipt(Event, frozen=True, tag="receipt"):
    """A receiver holds every byte, verified and synced. digest: hex."""

    job: str
    receiver: str
    digest: str


class Summary(Event, frozen=True, tag="summary"):
    """How it ended. outcome: `receipt`, `stored` (send) or `fetched`.

    resent: chunks that crossed the network twice. kept: chunks that did not cross it, as an earlier run had moved them.
    concurrency, level: as in Progress, at the end.
    """

    job: str
    outcome: Literal["receipt", "stored", "fetched"]
    bytes: int
    wire: int
    seconds: float
    route: RouteName | None
    files: int
    chunks: int
    resent: int
    digest: str
    paths: list[str] = []
    kept: int = 0
    concurrency: int | None = None
    level: int | None = None


class Posted(Event, frozen=True, tag="posted"):
    """The job's ticket lies in a room, as this item. room: its name here."""

    job: str
    room: str
    number: int


class ItemBegun(Event, frozen=True, tag="item"):
    """An item of a room is fetched from here on, until its summary or `item_failed`. bytes: None if unknown.

    user: who posted it. host, sent (seconds since 1970): as the sender says.
    """

    number: int
    job: str
    label: str
    files: int
    bytes: int | None
    user: str
    host: str
    sent: float


class ItemFailed(Event, frozen=True, tag="item_failed"):
    """It was not fetched; others may be. code, message, next: as in Failure."""

    number: int
    job: str
    label: str
    code: int
    message: str
    next: str


class RoomSummary(Event, frozen=True, tag="room"):
    """How fetching from a room ended. gone: items that expired, or were cancelled, before they were fetched. nothing: why
    nothing was there to fetch; null if something was."""

    items: int
    bytes: int
    failed: int
    gone: int
    seconds: float
    nothing: str | None = None


class Unfinished(Event, frozen=True, tag="unfinished"):
    """A transfer that this host has begun and not ended. done, total: raw bytes; total is null while unknown.

    number: its row in the ledger. begun: seconds since 1970. running: another run works on it just now.
    """

    number: int
    job: str
    side: Literal["send", "fetch"]
    label: str
    done: int
    total: int | None
    begun: float
    running: bool


class Failure(Event, frozen=True, tag="error"):
    """The error that ends the run. code: the exit code. next: what to do."""

    code: int
    kind: str
    message: str
    next: str


AnyEvent = (
    TicketReady
    | Waiting
    | RouteChosen
    | Progress
    | Notice
    | Stored
    | Receipt
    | Summary
    | Posted
    | ItemBegun
    | ItemFailed
    | RoomSummary
    | Unfinished
    | Failure
)
Listener = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """The listener of those who do not listen."""
