"""One run of a batch: alone, connected, told to whoever watches."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from cli.render import waiting
from cli.run import run, same_command
from transfer import config
from transfer.batch.alone import alone, lock_path
from transfer.batch.report import Line, Outcome, Report, Sums, cells
from transfer.batch.room_sender import RoomSender
from transfer.batch.run import Asked, Pause
from transfer.batch.run import run as run_whole
from transfer.batch.selection import Item
from transfer.batch.state import State
from transfer.events import Event, Listener, Waiting

EVERY = 10.0
"""Seconds between two signs of life where there is no terminal."""
_SILENT: frozenset[Outcome] = frozenset({"unchanged", "left"})


class Scope(NamedTuple):
    """room: its name for people. room_id, root: what the state is about. lock: held on all hosts that name it. wait: for it."""

    room: str
    room_id: str
    root: str
    lock: str | None
    wait: bool


class Sending(Protocol):
    def __call__(self, *, listener: Listener) -> AbstractAsyncContextManager[RoomSender]: ...


def run_batch(
    asked: Asked,
    scope: Scope,
    items: Callable[[Pause], Iterator[Item]],
    sending: Sending,
    *,
    report: Path | None,
    json: bool,
    quiet: bool,
) -> Counter[Outcome]:
    """How many files had which outcome. Raises as `transfer.batch.run.run`; Locked."""
    sums = Sums()
    telling = _Telling(sums, json=json, quiet=quiet)
    state_dir = config.state_dir()

    async def work(report: Report) -> None:
        path = lock_path(state_dir / "locks", scope.room_id, scope.root)
        async with (
            alone(path, "sends this batch to that room", wait=scope.wait, on_wait=telling.locked_out),
            sending(listener=telling.heard) as sender,
            sender.alone(scope.lock, wait=scope.wait),
        ):
            with contextlib.closing(State(state_dir / "batch.db", scope.room_id, scope.root)) as state:
                await run_whole(asked, state, items, sender, report, lambda: telling.waits)

    with Report(report, scope.room, scope.root, telling.line, sums) as kept:
        try:
            run(lambda: work(kept), resume=same_command())
        finally:
            telling.end()
    return sums.counts


class _Telling:
    """On a terminal a line for each file that something was done about; else only a sign of life; NDJSON with `json`.

    sums: as they stand when it is called.
    """

    def __init__(self, sums: Sums, *, json: bool, quiet: bool) -> None:
        self._sums = sums
        self._json, self._quiet, self._tty = json, quiet, sys.stderr.isatty()
        self._said = time.monotonic()
        self._begun = False
        self.waits = ""  # what for, at the moment

    def line(self, line: Line) -> None:
        self.waits = ""
        if self._json:
            self._tell_json("file", msgspec.to_builtins(line))
        elif self._tty and not self._quiet and line.outcome not in _SILENT:
            outcome, size, _, path = cells(line)
            sys.stderr.write(f"{outcome:9}  {size:>9}  {path}\n")
        self._tick()

    def locked_out(self, what: str) -> None:
        self.heard(Waiting(what=what))

    def heard(self, event: Event) -> None:
        self.waits = event.what if isinstance(event, Waiting) else ""
        if isinstance(event, Waiting) and not self._json and not self._quiet:
            if self._tty:
                sys.stderr.write(f"{waiting(event, None, 0.0)}\n")
            self._tick()

    def end(self) -> None:
        if self._json:
            self._tell_json("batch", {"counts": dict(self._sums.counts), "bytes": self._sums.bytes})
        elif not self._quiet and (self._tty or self._begun):
            sys.stderr.write(f"{self._sums}\n")

    def _tick(self) -> None:
        if self._tty or self._json or self._quiet or time.monotonic() - self._said < EVERY:
            return
        self._said, self._begun = time.monotonic(), True
        sys.stderr.write(f"{self._sums}\n")

    def _tell_json(self, event: str, fields: dict[str, object]) -> None:
        sys.stdout.write(msgspec.json.encode({"event": event, "v": 1, **fields}).decode() + "\n")
        sys.stdout.flush()
