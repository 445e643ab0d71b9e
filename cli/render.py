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

from cli.units import show_duration, show_size
from transfer.events import (
    Event,
    Notice,
    Progress,
    RouteChosen,
    Stored,
    Summary,
    TicketReady,
    Unfinished,
    Waiting,
)
from transfer.paths import printable as escaped

EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""
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
    """Shows nothing but the ticket, without which a send is good for nothing.

    Args:
        out: where the ticket goes, stdout as a rule; None: nowhere.
    """

    def __init__(self, out: TextIO | None) -> None:
        self._out = out

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
    """A line of progress every 10 s on stderr, and one for each thing that happens. The summary is the last."""

    def __init__(self, out: TextIO | None, err: TextIO, clock: Clock = time.monotonic) -> None:
        super().__init__(out)
        self._err = err
        self._clock = clock
        self._said = clock()
        self._said_moved = 0
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
        elif isinstance(event, Waiting):
            fresh = not isinstance(self._now, Waiting) or self._now.what != event.what
            if event.on == "owner":  # what was under way goes on for a moment
                fresh = self._paused != event.what
                self._paused = event.what
            self._now, self._until = event, deadline(event, self._clock())
            if fresh:
                self._progress()
        elif isinstance(event, Stored):
            self._stored = event
        elif text := told(event, self._stored):
            self._paused = ""
            self._line(text)
        self._ended = isinstance(event, Summary)
        self.tick()

    def tick(self) -> None:
        if not self._ended and self._clock() - self._said >= EVERY:
            self._progress()

    def _progress(self) -> None:
        now = self._clock()
        if isinstance(self._now, Waiting):
            self._line(waiting(self._now, self._until, now))
        elif self._now is not None:
            moved = self._now.done - self._now.kept
            self._line(moving(self._now, (moved - self._said_moved) / max(now - self._said, 0.001)))
            self._said_moved = moved
        self._said = now

    def _line(self, text: str) -> None:
        self._err.write(text + "\n")
        self._err.flush()


def choose(out: TextIO | None, err: TextIO, *, json: IO[bytes] | None, quiet: bool) -> View:
    """The view that fits.

    Args:
        out: where a ticket goes. json: where NDJSON goes, if it is wanted.
    """
    from cli.live import obeys

    if json is not None:
        return Ndjson(json)
    if quiet:
        return Quiet(out)
    if not obeys(err):
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


def moving(event: Progress, speed: float) -> str:
    """`12.3 MB of 45.6 MB (27 %), 40 of 200 files, 4.1 MB/s, 8 s left, s3`. speed: bytes per second."""
    parts = [show_size(event.done)]
    if event.total is not None:
        share = 100 * event.done // event.total if event.total else 100
        parts[0] += f" of {show_size(event.total)} ({share} %)"
    if event.files > 1:
        parts.append(of_files(event))
    parts.append(f"{show_size(speed)}/s")
    if event.total is not None and speed > 0:
        parts.append(f"{show_duration((event.total - event.done) / speed)} left")
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
    if isinstance(event, Unfinished):
        return f"going on: {line_of(event)}"
    return None


def line_of(job: Unfinished) -> str:
    """`qw3e…  send   12.3 MB of 45.6 MB  2026-11-21 08:12 UTC  report.pdf`: in a list, or alone."""
    done = show_size(job.done) + ("" if job.total is None else f" of {show_size(job.total)}")
    running = ", another run works on it" if job.running else ""
    return f"{job.job}  {job.side:5}  {done:20}  {moment(job.begun)}  {printable(job.label)}{running}"


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
        return f"stored: anyone with the ticket can fetch it until {until} ({facts})"
    first, more = event.paths[:3], len(event.paths) - 3
    names = ", ".join(map(printable, first)) + (f" and {more} more" if more > 0 else "")
    return f"fetched: wrote {names or 'it to stdout'}, verified ({facts})"


def moment(seconds: float) -> str:
    """seconds: since 1970; shown to the minute, in the zone of whoever reads."""
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(seconds)).strip()
