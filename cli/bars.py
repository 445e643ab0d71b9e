"""A transfer on a terminal: one bar for all of it, a line for each of the few files that move, what it waits for."""

from __future__ import annotations

import os
import time
from collections import deque
from types import TracebackType
from typing import TextIO

from cli.exits import coloured
from cli.live import Live, Row, Size, Span, cells, reflows, shorten, size_of, wrap
from cli.render import Clock, Quiet, deadline, of_files, told, waiting
from cli.units import show_size
from transfer.events import Event, FileProgress, Progress, Stored, Summary, TicketReady, Waiting
from transfer.paths import printable

OVER = 10.0
"""Seconds that the rate shown is an average of."""
BAR = (8, 60)
"""Cells of the bar, at least and at most."""
SMALL_BAR = 12
WIDE = 50
"""Columns from which on each file has a bar, too."""
_DONE, _REST, _FAINT, _ROUTE = "36", "2", "2", "35"


class Bars(Quiet):
    """Only its last line stays, and what is said meanwhile."""

    def __init__(
        self, out: TextIO | None, err: TextIO, clock: Clock = time.monotonic, *, size: Size | None = None
    ) -> None:
        """size: columns and rows, asked again and again; None: those of the terminal."""
        super().__init__(out)
        self._err, self._clock = err, clock
        self._size = size or (lambda: size_of(err))
        self._live = Live(err, self._size, coloured=coloured(err), reflows=reflows(os.environ))
        self._signs = Signs(err.encoding or "utf-8")
        self._rate = Rate()
        self._now: Progress | None = None
        self._event: Waiting | None = None
        self._until: float | None = None
        self._stored: Stored | None = None
        self._ended = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.clear()

    def __call__(self, event: Event) -> None:
        if self._ended:
            return
        if isinstance(event, TicketReady):
            self._live.clear()  # stdout may be this terminal
            super().__call__(event)
        elif isinstance(event, Progress):
            first = self._now is None or self._event is not None
            self._now, self._event = event, None
            self._rate.note(event.done - event.kept, self._clock())
            if first:
                self.tick()
        elif isinstance(event, Waiting):
            self._event, self._until = event, deadline(event, self._clock())
            self.tick()
        elif isinstance(event, Stored):
            self._stored = event
        elif text := told(event, self._stored):
            self._live.clear()
            self._ended = isinstance(event, Summary)
            width = self._live.width
            self._err.write("\n".join(wrap(self._signs.shown(text), width, "  ")) + "\n")
            self._err.flush()

    def tick(self) -> None:
        width = self._live.width
        if self._ended:
            return
        if self._event is not None:
            text = self._signs.shown(waiting(self._event, self._until, self._clock()))
            lines = (shorten(line, width, self._signs.dots) for line in wrap(text, width))
            self._live.draw([[(line, "")] for line in lines])
        elif self._now is not None:
            speed = self._rate.speed(self._clock())
            self._live.draw(rows_of(self._now, speed, width, self._signs))


class Rate:
    """Bytes per second, over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._moves = False

    def note(self, done: int, now: float) -> None:
        self._moves = self._moves or (bool(self._seen) and done > self._seen[0][1])
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - OVER:
            self._seen.popleft()

    def speed(self, now: float) -> float | None:
        """None as long as nothing has moved."""
        if not self._moves or now <= self._seen[0][0]:
            return None
        return (self._seen[-1][1] - self._seen[0][1]) / (now - self._seen[0][0])


class Signs:
    """What the terminal's encoding can show: bars and dots of its own, names with escapes for the rest."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        try:
            "━─…".encode(encoding)
            self.done, self.rest, self.dots = "━", "─", "…"
        except UnicodeEncodeError:
            self.done, self.rest, self.dots = "#", "-", "..."

    def shown(self, text: str) -> str:
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)

    def bar(self, done: int, total: int, width: int) -> list[Span]:
        full = width if done >= total else width * done // total
        return [(self.done * full, _DONE), (self.rest * (width - full), _REST)]


def rows_of(event: Progress, speed: float | None, width: int, signs: Signs) -> list[Row]:
    """The bar of everything, then the files that move. speed: bytes per second. width: cells."""
    return [_total(event, speed, width, signs), *(_file(each, width, signs) for each in event.moving)]


def _total(event: Progress, speed: float | None, width: int, signs: Signs) -> Row:
    """What is least needed is left out where it does not fit; what is known of the rest stands in this order."""
    sizes = "/".join(show_size(count) for count in (event.done, event.total) if count is not None)
    fields: dict[str, Span] = {"size": (sizes, "")}
    if event.total is not None:
        fields["share"] = (_share(event.done, event.total), "")
    if event.files > 1:
        fields["files"] = (of_files(event), "")
    if speed is not None:
        fields["speed"] = (f"{show_size(speed)}/s", "")
        if event.total is not None:
            fields["left"] = (_clock((event.total - event.done) / speed) if speed > 0 else "-:--", _FAINT)
    if event.route is not None:
        fields["route"] = (event.route, _ROUTE)
    bar = BAR[0] if event.total is not None else 0
    for name in ("route", "share", "left", "speed", "files"):
        if bar + sum(2 + cells(text) for text, _ in fields.values()) <= width:
            break
        fields.pop(name, None)
    row: list[Span] = []
    if event.total is not None:
        taken = sum(2 + cells(text) for text, _ in fields.values())
        row += signs.bar(event.done, event.total, max(0, min(BAR[1], width - taken)))
    for text, style in fields.values():
        row += [("  " if row else "", ""), (text, style)]
    return _cut(row, width)


def _file(each: FileProgress, width: int, signs: Signs) -> Row:
    """A bar of its own where there is room, its share, and the end of its path."""
    bar = [*signs.bar(each.done, each.size, SMALL_BAR), ("  ", "")] if width >= WIDE else []
    row: list[Span] = [("  ", ""), *bar, (f"{_share(each.done, each.size):>4}  ", "")]
    name = signs.shown(printable(each.path, limit=len(each.path)))
    room = width - sum(cells(text) for text, _ in row)
    return _cut([*row, (shorten(name, room, signs.dots), _FAINT)], width)


def _cut(row: list[Span], width: int) -> Row:
    """Whatever happens, no wider than the terminal."""
    cut: list[Span] = []
    for text, style in row:
        while cells(text) > width:
            text = text[:-1]
        width -= cells(text)
        cut.append((text, style))
    return cut


def _share(done: int, total: int) -> str:
    return f"{100 * done // total if total else 100} %"


def _clock(seconds: float) -> str:
    """`00:08`, `1:02:03`, `3 d`: never wide."""
    left = round(seconds)
    if left >= 100 * 3600:
        return f"{left // 86400} d"
    minutes, hours = left // 60 % 60, left // 3600
    return f"{hours}:{minutes:02}:{left % 60:02}" if hours else f"{minutes:02}:{left % 60:02}"
