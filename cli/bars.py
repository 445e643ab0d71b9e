"""A transfer on a terminal: one bar for all of it, a row for each of the few files that move, what it waits for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress as Tasks
from rich.progress import Task, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.render import Clock, Quiet, deadline, far_of, of_files, told, waiting
from cli.units import show_duration, show_size
from cli.wrap import shorten, wrap
from transfer.events import Event, FileProgress, Progress, Stored, Summary, TicketReady, Waiting
from transfer.paths import printable

BAR = (8, 60)
"""Cells of the bar, at least and at most."""
SMALL_BAR = 12
WIDE = 50
"""Columns from which on each file has a bar, too."""
_GAP = 2
STILL = 3.0
"""Seconds without a byte after which that is said, and no speed of before."""


class Bars(Quiet):
    """Only its last line stays, and what is said meanwhile."""

    def __init__(
        self, out: TextIO | None, err: TextIO, clock: Clock = time.monotonic, *, width: int | None = None
    ) -> None:
        """width: columns; None: as wide as the terminal is just then."""
        super().__init__(out)
        self._clock = clock
        self._console = Console(
            file=err, width=width, force_terminal=True, highlight=False, markup=False, emoji=False
        )
        self._dots = "..." if self._console.options.ascii_only else "…"
        # Of what this run moves: what an earlier one had moved is no speed.
        self._tasks = Tasks(console=self._console, auto_refresh=False, get_time=clock)
        self._tasks.add_task("")
        self._live: Live | None = None
        self._now: Progress | None = None
        self._moved: float = clock()
        self._event: Waiting | None = None
        self._until: float | None = None
        self._stored: Stored | None = None
        self._ended = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def __call__(self, event: Event) -> None:
        if self._ended:
            return
        if isinstance(event, TicketReady):
            self._clear()  # stdout may be this terminal
            super().__call__(event)
        elif isinstance(event, Progress):
            first = self._now is None or self._event is not None
            if self._now is None or first or far_of(event) != far_of(self._now):
                self._moved = self._clock()
            self._now, self._event = event, None
            total = None if event.total is None else event.total - event.kept
            task = self._tasks.tasks[0]
            self._tasks.update(task.id, total=total, completed=far_of(event) - event.kept)
            if first:
                self.tick()
        elif isinstance(event, Waiting):
            self._event, self._until = event, deadline(event, self._clock())
            self.tick()
        elif isinstance(event, Stored):
            self._stored = event
        elif text := told(event, self._stored):
            if isinstance(event, Summary):
                self._clear()
                self._ended = True
            lines = wrap(self._shown(text), self._console.width, self._console, "  ")
            self._console.print("\n".join(lines), soft_wrap=True)

    def tick(self) -> None:
        if self._ended or (self._now is None and self._event is None):
            return
        if self._live is not None:
            self._live.refresh()
            return
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,  # the ticket, too, would go to stderr
            redirect_stderr=False,
            get_renderable=self._picture,
        )
        self._live.start(refresh=True)

    def _clear(self) -> None:
        """Leave nothing. A Live that began again would erase as many rows above it as it had."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _picture(self) -> RenderableType:
        width = self._console.width
        if self._event is not None:
            text = self._shown(waiting(self._event, self._until, self._clock()))
            return _row(
                Text("\n".join(self._short(line, width) for line in wrap(text, width, self._console)))
            )
        if self._now is None:
            return ""
        total = _total(self._now, self._tasks.tasks[0], width, self._clock() - self._moved)
        return Group(total, *(self._file(each, width) for each in self._now.moving))

    def _file(self, each: FileProgress, width: int) -> RenderableType:
        """A bar of its own where there is room, its share, and the end of its path."""
        share = f"{_share(each.done, each.size):>5}"
        bar = [_bar(each.done, each.size, SMALL_BAR)] if width >= WIDE else []
        taken = len(share) + _GAP + (SMALL_BAR + 2 * _GAP if bar else 0)
        name = self._shown(printable(each.path, limit=len(each.path)))
        blank = [Text("")] if bar else []
        return _row(*blank, *bar, Text(share), Text(self._short(name, width - taken), style="dim"))

    def _short(self, text: str, width: int) -> str:
        return shorten(text, width, self._dots)

    def _shown(self, text: str) -> str:
        """With escapes for what the terminal's encoding cannot show, as its stream would write them."""
        encoding = self._console.encoding
        return text.encode(encoding, "backslashreplace").decode(encoding)


def _total(event: Progress, task: Task, width: int, still: float) -> RenderableType:
    """What is least needed is left out where it does not fit. task: its speed, and the time left. still: as of `_fields`."""
    far, total = far_of(event), event.total
    fields = dict(_fields(event, task, still))
    least = BAR[0] if total is not None else 0
    for name in ("route", "share", "left", "speed", "files"):
        if least + _taken(fields) <= width:
            break
        fields.pop(name, None)
    room = min(BAR[1], width - _taken(fields))
    bar = [_bar(far, total, room)] if total is not None and room > 0 else []
    return _row(*bar, *fields.values())


def _fields(event: Progress, task: Task, still: float) -> Iterator[tuple[str, Text]]:
    """still: seconds since something moved."""
    far, total = far_of(event), event.total
    yield "size", Text("/".join(show_size(count) for count in (far, total) if count is not None))
    if total is not None:
        yield "share", Text(_share(far, total), style="progress.percentage")
    if event.files > 1:
        yield "files", Text(of_files(event))
    speed = task.finished_speed or task.speed
    if still >= STILL and far != total:
        yield "speed", Text("0 B/s", style="progress.data.speed")
        yield "left", Text(f"no byte for {show_duration(still)}")
    elif speed is not None:
        yield "speed", Text(f"{show_size(speed)}/s", style="progress.data.speed")
        if total is not None:
            yield "left", TimeRemainingColumn(compact=True).render(task)
    if event.route is not None:
        yield "route", Text(event.route)


def _taken(fields: dict[str, Text]) -> int:
    return sum(_GAP + text.cell_len for text in fields.values())


def _bar(done: int, total: int, width: int) -> ProgressBar:
    return ProgressBar(total=total, completed=done, width=width)


def _row(*cells: RenderableType) -> RenderableType:
    """Side by side, and cut off where there is no room at all."""
    row = Table.grid(padding=(0, _GAP, 0, 0))
    for _ in cells:
        row.add_column(no_wrap=True, overflow="crop")
    row.add_row(*cells)
    return row


def _share(done: int, total: int) -> str:
    return f"{100 * done // total if total else 100} %"
