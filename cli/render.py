"""Ways to show a transfer: bars on a terminal, lines elsewhere, NDJSON for programs, nothing when quiet.

stdout carries only the ticket (at once), payload or NDJSON; everything else goes to stderr. Time is
an argument: `tick` is called a few times a second and each view has its clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Protocol, Self, TextIO

import msgspec

from cli.units import moment, show_duration, show_size
from transfer.events import (
    Event,
    ItemBegun,
    ItemFailed,
    Notice,
    Posted,
    Progress,
    Receipt,
    RoomSummary,
    RouteChosen,
    Stored,
    Summary,
    TicketReady,
    Unfinished,
    Waiting,
)
from transfer.paths import printable as escaped

EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal; a transfer that takes less says none at all."""
Clock = Callable[[], float]


class View(Protocol):
    """A listener with a beginning and an end. The end comes also after an error or a signal."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, event: Event) -> None: ...

    def tick(self) -> None:
        """Time has passed. Cheap; meant to be called several times a second."""


class Quiet:
    """Shows nothing but the ticket, without which a send is good for nothing, and which items of a room failed.

    Args:
        out: where the ticket goes, stdout as a rule; None: nowhere. err: where errors go; None: another shows them.
    """

    def __init__(self, out: TextIO | None, err: TextIO | None = None) -> None:
        self._out, self._errors = out, err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: Event) -> None:
        if isinstance(event, TicketReady) and event.ticket is not None and self._out is not None:
            self._out.write(event.ticket + "\n")
            self._out.flush()
        elif isinstance(event, ItemFailed) and self._errors is not None:
            self._errors.write(f"{told(event, None)}\n")
            self._errors.flush()

    def tick(self) -> None:
        return None


class Ndjson(Quiet):
    """One JSON object a line, flushed, every event. out: a binary stream."""

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__(None)
        self._bytes = out
        self._encoder = msgspec.json.Encoder()

    def __call__(self, event: Event) -> None:
        try:
            line = self._encoder.encode(event)
        except UnicodeEncodeError:  # a path that is not UTF-8: json writes its odd bytes as lone surrogates
            line = json.dumps(msgspec.to_builtins(event), separators=(",", ":")).encode()
        self._bytes.write(line + b"\n")
        self._bytes.flush()


class Lines(Quiet):
    """A line of progress every 10 s on stderr, and one for each thing that happens. The summary is the last.

    terse: for logs. Warnings, a line every 10 s, and the summary only if there was such a line: what is done soon is
    done in silence.
    """

    def __init__(
        self, out: TextIO | None, err: TextIO, clock: Clock = time.monotonic, *, terse: bool = False
    ) -> None:
        super().__init__(out)
        self._terse, self._begun = terse, False
        self._err = err
        self._clock = clock
        self._said = clock()
        self._from: tuple[float, int] | None = None  # since when, and what this run had moved then
        self._now: Progress | Waiting | None = None
        self._until: float | None = None
        self._stored: Stored | None = None
        self._paused = ""
        self._ended = False

    def __call__(self, event: Event) -> None:
        if self._ended:
            return
        super().__call__(event)
        if isinstance(event, Progress):
            self._now, self._until = event, None
            self._from = self._from or (self._clock(), far_of(event) - event.kept)
        elif isinstance(event, Waiting):
            fresh = not isinstance(self._now, Waiting) or self._now.what != event.what
            if event.on == "owner":  # what was under way goes on for a moment
                fresh = self._paused != event.what
                self._paused = event.what
            self._now, self._until = event, deadline(event, self._clock())
            if fresh and not self._terse:
                self._progress()
        elif isinstance(event, Stored):
            self._stored = event
        elif text := told(event, self._stored):
            self._paused = ""
            if not self._terse or self._deserved(event):
                self._line(text)
        self._ended = isinstance(event, Summary)
        self.tick()

    def tick(self) -> None:
        if not self._ended and self._clock() - self._said >= EVERY:
            self._progress()

    def _deserved(self, event: Event) -> bool:
        """Whether a log gets it at once: a warning, or the end of what it has read about."""
        if isinstance(event, ItemFailed):
            return True
        return event.warning if isinstance(event, Notice) else self._begun and isinstance(event, Summary)

    def _progress(self) -> None:
        now = self._clock()
        self._begun = self._begun or self._now is not None
        if isinstance(self._now, Waiting):
            self._line(waiting(self._now, self._until, now))
        elif self._now is not None:
            since, before = self._from or (now, 0)
            self._from = now, far_of(self._now) - self._now.kept
            speed = max(0, self._from[1] - before) / max(now - since, 0.001)
            self._line(moving(self._now, speed))
        self._said = now

    def _line(self, text: str) -> None:
        self._err.write(text + "\n")
        self._err.flush()


def choose(
    out: TextIO | None, err: TextIO, *, json: IO[bytes] | None, quiet: bool, dumb: bool, terse: bool = True
) -> View:
    """The view that fits.

    Args:
        out: where a ticket goes. json: where NDJSON goes, if it is wanted. dumb: a terminal that obeys no controls.
        terse: a log is told little, as of `Lines`.
    """
    if json is not None:
        return Ndjson(json)
    if quiet:
        return Quiet(out, err)
    if not err.isatty():
        return Lines(out, err, terse=terse)
    if dumb:
        return Lines(out, err)
    from cli.bars import Bars

    return Bars(out, err)


def printable(text: str) -> str:
    """What may hold a peer's names, safe for a terminal; a sentence may be longer than a name."""
    return escaped(text, limit=1000)


def deadline(event: Waiting, now: float) -> float | None:
    return None if event.left is None else now + event.left


def waiting(event: Waiting, until: float | None, now: float) -> str:
    """`waiting for a receiver, 42 s left`. until, now: seconds by one clock."""
    left = "" if until is None else f", {max(0, round(until - now))} s left"
    return printable(event.what) + left


def far_of(event: Progress) -> int:
    """How far it is, in raw bytes: what is under way as well, so that it shows before a whole part is stored."""
    return event.done + event.under_way


def standing(event: Event, before: str) -> str:
    """What a run waits for, or else how far it is, as of this event; empty if it does not say. before: as of the last one."""
    if isinstance(event, Waiting):
        return event.what
    if isinstance(event, Progress):
        return f"{_share(event)} done"
    return before if isinstance(event, Notice | Receipt) else ""


def _share(event: Progress) -> str:
    """`12.3 MB of 45.6 MB`."""
    total = "" if event.total is None else f" of {show_size(event.total)}"
    return show_size(far_of(event)) + total


def moving(event: Progress, speed: float) -> str:
    """`12.3 MB of 45.6 MB (27 %), 40 of 200 files, 4.1 MB/s, 8 s left, s3`. speed: bytes per second."""
    far, parts = far_of(event), [_share(event)]
    if event.total is not None:
        parts[0] += f" ({100 * far // event.total if event.total else 100} %)"
    if event.files > 1:
        parts.append(of_files(event))
    parts.append(f"{show_size(speed)}/s")
    if event.total is not None and speed > 0:
        parts.append(f"{show_duration((event.total - far) / speed)} left")
    if event.route is not None:
        parts.append(event.route)
    return ", ".join(parts)


def of_files(event: Progress) -> str:
    """`40 of 200 files`; without the first number where nobody knows it."""
    return (
        f"{event.files} files" if event.files_done is None else f"{event.files_done} of {event.files} files"
    )


def told(event: Event, stored: Stored | None) -> str | None:
    """The line for what happened, if it deserves one. stored: the event that came before a summary."""
    if isinstance(event, Notice):
        return printable(event.text)
    if isinstance(event, RouteChosen):
        return f"route: {event.route} ({printable(event.reason)})"
    if isinstance(event, Summary):
        return ended(event, stored)
    if isinstance(event, Posted):
        return f"posted to {printable(event.room) or 'the room'} as item {event.number}"
    if isinstance(event, ItemBegun):
        size = "" if event.bytes is None else f", {show_size(event.bytes)}"
        return f"item {event.number} of {event.user}@{printable(event.host)}: {printable(event.label)}{size}"
    if isinstance(event, ItemFailed):
        return f"item {event.number} ({printable(event.label)}): {printable(event.message)}; {event.next}"
    if isinstance(event, RoomSummary):
        return came(event)
    if isinstance(event, Unfinished):
        return f"going on: {line_of(event)}"
    return None


def came(event: RoomSummary) -> str:
    """What became of a room's items."""
    if event.nothing is not None:
        return event.nothing
    items = "1 item" if event.items == 1 else f"{event.items} items"
    failed = f", {event.failed} failed" if event.failed else ""
    gone = f", {event.gone} expired before" if event.gone else ""
    return f"{items}, {show_size(event.bytes)} in {show_duration(event.seconds)}{failed}{gone}"


def line_of(job: Unfinished) -> str:
    """`qw3e…  send  12.3 MB of 45.6 MB  2026-11-21 08:12 UTC  report.pdf`: alone; a list of them is a table."""
    running = ", another run works on it" if job.running else ""
    return f"{job.job}  {job.side}  {done_of(job)}  {moment(job.begun)}  {printable(job.label)}{running}"


def done_of(job: Unfinished) -> str:
    return show_size(job.done) + ("" if job.total is None else f" of {show_size(job.total)}")


def ended(event: Summary, stored: Stored | None) -> str:
    """The last line: who has it now, or what was written where."""
    files = "1 file" if event.files == 1 else f"{event.files} files"
    facts = f"{files}, {show_size(event.bytes)} in {show_duration(event.seconds)}"
    if event.route is not None:
        facts += f" by {event.route}"
    if event.outcome == "receipt":
        return f"receipt: somebody has it, verified ({facts})"
    if event.outcome == "stored":
        until = "it expires" if stored is None else moment(stored.expires)
        who = "anyone with the ticket"
        if stored is not None and stored.room is not None:
            who = f"the members of {printable(stored.room)}" if stored.room else "the room's members"
        return f"stored: {who} can fetch it until {until} ({facts})"
    first, more = event.paths[:3], len(event.paths) - 3
    names = ", ".join(map(printable, first)) + (f" and {more} more" if more > 0 else "")
    return f"fetched: wrote {names or 'it to stdout'}, verified ({facts})"
