"""Counts what has moved and tells the listener, at most five times a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from transfer.chunks import Manifest
from transfer.events import Listener, Notice, Progress, RouteChosen, RouteName, WaitedFor, Waiting
from transfer.fileparts import FileParts
from transfer.model import FrameId, FrameSet, Kind

EVERY = 0.2
"""Seconds between two progress events."""


class Meter:
    """One transfer's counters.

    done: raw bytes that are safe at the far end (or written here). wire: encoded bytes that crossed
    the network. resent: chunks that crossed it more than once. kept, kept_bytes: chunks that an earlier run had moved.
    under_way: raw and encoded bytes that have crossed it in pieces which are not whole yet, asked for whenever it is told.
    held: why its owner has it wait, for people; whatever else is waited for does not count then.
    concurrency, level: requests at once and zstd's level, as they are just now; None where they mean nothing.
    """

    def __init__(self, listener: Listener, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener, self._clock = listener, clock
        self._started = clock()
        self._told = 0.0
        self._news = False
        self._waiting: tuple[str, float] = ("", 0.0)
        self._shown = self._wire_shown = 0
        self._together = False
        self._crossed: dict[str, FrameSet] = {}
        self.route: RouteName | None = None
        self.total: int | None = None
        self.files = 0
        self.done = 0
        self.wire = 0
        self.resent = 0
        self.kept = 0
        self.kept_bytes = 0
        self._parts: FileParts | None = None
        self.held = ""
        self.under_way: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.concurrency: int | None = None
        self.level: int | None = None

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    def choose(self, route: RouteName, reason: str) -> None:
        self.route = route
        self._listener(RouteChosen(route=route, reason=reason))

    def crossed(self, frame: FrameId, length: int, to: str = "") -> None:
        """An encoded frame of that many bytes went over the network. to: whom, where there are several."""
        self.wire += length
        if frame.kind is Kind.CHUNK:
            crossed = self._crossed.setdefault(to, FrameSet())
            self.resent += frame in crossed
            crossed.add(frame.kind, frame.index, frame.index + 1)

    def learn(self, manifest: Manifest) -> None:
        """What is to be moved. Before the first chunk is."""
        self.total, self.files = manifest.total, manifest.files
        self._parts = FileParts(manifest) if manifest.total is not None else None

    def found(self, frame: FrameId, length: int) -> None:
        """It is safe at the far end (or written here) already, with so many raw bytes.

        Not told by itself: what is told first is where this run begins, and not a rate of it.
        """
        if frame.kind is Kind.CHUNK and not any(frame in crossed for crossed in self._crossed.values()):
            self.kept += 1
            self.kept_bytes += length
        self._safe(frame, length)

    def moved(self, frame: FrameId, length: int) -> None:
        """It is safe, and was not before. length: raw bytes."""
        self._safe(frame, length)
        if not self._together and self._clock() - self._told >= EVERY:
            self.tell()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What moves within is told of at its end: what was one piece under way is safe in one step."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
            if self._news and self._clock() - self._told >= EVERY:
                self.tell()

    def _safe(self, frame: FrameId, length: int) -> None:
        self.done += length
        self._news = True
        if self._parts is not None and frame.kind is Kind.CHUNK:
            self._parts.add(frame.index)

    def look(self) -> None:
        """Something may be under way."""
        if self._clock() - self._told >= EVERY and self.done + self.under_way()[0] > self._shown:
            self.tell()

    def tell(self) -> None:
        raw, wire = self.under_way()
        self._told = self._clock()
        self._news, self._shown = False, self.done + raw
        # What a part sends once more has crossed it before, though it counts with the part only when that is whole.
        self._wire_shown = max(self._wire_shown, self.wire + wire)
        self._listener(
            Progress(
                done=self.done,
                total=self.total,
                wire=self._wire_shown,
                files=self.files,
                route=self.route,
                concurrency=self.concurrency,
                level=self.level,
                under_way=raw,
                kept=self.kept_bytes,
                files_done=self._parts.whole if self._parts is not None else None,
                moving=self._parts.newest() if self._parts is not None and self.files > 1 else [],
            )
        )

    def waiting(self, what: str, left: float | None, on: WaitedFor | None = None) -> None:
        """Nothing moves because of `what`, in one word `on`; told when it changes and once a second."""
        if self.held:
            what, left, on = self.held, None, "owner"
        now = self._clock()
        if self._waiting[0] != what or now - self._waiting[1] >= 1:
            self._waiting = (what, now)
            if self._news:  # nothing more may come for a long while
                self.tell()
            self._listener(Waiting(what=what, left=left, on=on))

    def notice(self, text: str, *, warning: bool = False) -> None:
        """warning: as of `Notice`."""
        self._listener(Notice(text=text, warning=warning))
