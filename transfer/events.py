"""What a transfer tells whoever watches it: frozen data without secrets (but for the ticket itself).

`cli/render.py` turns these into bars, lines or NDJSON; the library renders nothing. As NDJSON each
is one object with `event` and `v`. Within version 1 fields may be added, never renamed or dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

RouteName = Literal["webrtc", "s3"]


class Event(msgspec.Struct, frozen=True, tag_field="event", kw_only=True):
    v: int = 1


class TicketReady(Event, frozen=True, tag="ticket"):
    """The job exists; this text is what its receiver needs. ticket: null where it went to a file instead."""

    job: str
    ticket: str | None


class Waiting(Event, frozen=True, tag="waiting"):
    """Nothing moves, and why. left: seconds until something else is tried; None: no limit."""

    what: str
    left: float | None = None


class RouteChosen(Event, frozen=True, tag="route"):
    """Bytes go this way from now on. reason: why, for people."""

    route: RouteName
    reason: str


class Progress(Event, frozen=True, tag="progress"):
    """done and total count raw bytes; total is None while unknown. wire counts bytes that crossed the network."""

    done: int
    total: int | None
    wire: int
    files: int
    route: RouteName | None


class Notice(Event, frozen=True, tag="notice"):
    """Something worth a line that does not end the transfer: a skipped pipe, an escaped name."""

    text: str


class Stored(Event, frozen=True, tag="stored"):
    """S3 alone can serve the whole job from now on. expires: seconds since 1970."""

    job: str
    segments: int
    expires: float


class Receipt(Event, frozen=True, tag="receipt"):
    """A receiver holds every byte, verified and synced. digest: hex."""

    job: str
    receiver: str
    digest: str


class Summary(Event, frozen=True, tag="summary"):
    """How it ended. outcome: `receipt`, `stored` (send) or `fetched`. resent: chunks that crossed the network twice."""

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


class Failure(Event, frozen=True, tag="error"):
    """The error that ends the run. code: the exit code. next: what to do."""

    code: int
    kind: str
    message: str
    next: str


AnyEvent = TicketReady | Waiting | RouteChosen | Progress | Notice | Stored | Receipt | Summary | Failure
Listener = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """The listener of those who do not listen."""
