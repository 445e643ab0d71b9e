"""What the tests of batches share: a spool to send from, a room that keeps its items, a sender that can die."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from transfer.batch.report import Report
from transfer.batch.run import Asked, Pause, run
from transfer.batch.selection import Item, Rules, from_folder
from transfer.batch.state import Order, OrderFile, State
from transfer.errors import JobGone, SourceChanged, XferError
from transfer.source import facts_of
from transfer.ticket import Ticket


class Killed(BaseException):
    """The process dies here."""


class Room:
    """The servers: they outlive every run. posted: (name, content) in the order of arrival."""

    def __init__(self) -> None:
        self.stored: dict[str, list[tuple[str, bytes]]] = {}
        self.posted: dict[str, list[tuple[str, bytes]]] = {}
        self.void: set[str] = set()
        self.receipts: dict[str, float] = {}
        self.gone: set[str] = set()

    @property
    def arrived(self) -> list[tuple[str, bytes]]:
        return [each for files in self.posted.values() for each in files]

    def of(self, name: str) -> list[bytes]:
        return [content for each, content in self.arrived if each == name]

    def receive(self) -> None:
        self.receipts |= {job: 1000.0 + number for number, job in enumerate(self.posted)}


class FakeSender:
    """step: called at every point between two effects; it may kill. trouble: of an order, before anything is done."""

    def __init__(
        self,
        room: Room,
        step: Callable[[], None] = lambda: None,
        trouble: Callable[[Order], XferError | None] = lambda _order: None,
    ) -> None:
        self.room, self.step, self.trouble = room, step, trouble
        self.asked: list[tuple[str, str]] = []

    async def send(self, order: Order) -> None:
        job = order.ticket.job
        self.asked.append(("again" if order.again else "send", job))
        await asyncio.sleep(0)
        if error := self.trouble(order):
            raise error
        self.step()
        if job in self.room.void:
            raise JobGone("it is void")
        if job not in self.room.stored:
            self.room.stored[job] = [content_of(file) for file in order.files]
        self.step()
        self.room.posted[job] = self.room.stored[job]
        self.step()

    async def recover(self, order: Order) -> bool:
        job = order.ticket.job
        self.asked.append(("recover", job))
        self.step()
        if job in self.room.stored:
            self.room.posted[job] = self.room.stored[job]
            self.step()
            return True
        self.room.void.add(job)
        self.step()
        return False

    async def receipt(self, ticket: Ticket) -> float | None:
        self.asked.append(("receipt", ticket.job))
        if ticket.job in self.room.gone:
            raise JobGone("gone")
        return self.room.receipts.get(ticket.job)


def content_of(file: OrderFile) -> tuple[str, bytes]:
    """Raises SourceChanged if it is not the one that was ordered."""
    try:
        found = facts_of(os.lstat(file.path))
    except FileNotFoundError:
        found = None
    if found != file.facts:
        raise SourceChanged(f"{file.name!r} changed")
    return os.fsdecode(file.name), Path(file.path).read_bytes()


class Spool:
    """A folder, its state and its room."""

    def __init__(self, top: Path) -> None:
        self.root, self.db, self.report = top / "spool", top / "batch.db", top / "report.json"
        self.root.mkdir()
        self.room = Room()

    def write(self, name: str, content: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(content)

    def state(self) -> State:
        return State(self.db, "room", os.path.realpath(self.root))

    def run(self, sender: FakeSender | None = None, **asked: Any) -> dict[str, dict[str, Any]]:
        """The report's lines by path. asked: also `rules`, `items` or `waits`."""
        given = asked.pop("rules", Rules())
        items = asked.pop("items", lambda _pause: from_folder(self.root, given))
        waits = asked.pop("waits", lambda: "")
        asyncio.run(self._run(sender or FakeSender(self.room), items, Asked(**asked), waits))
        return self.told()

    def told(self) -> dict[str, dict[str, Any]]:
        return {line["path"]: line for line in json.loads(self.report.read_bytes())["files"]}

    async def _run(
        self,
        sender: FakeSender,
        items: Callable[[Pause], Iterator[Item]],
        asked: Asked,
        waits: Callable[[], str] = lambda: "",
    ) -> None:
        with closing(self.state()) as state, Report(self.report, "room", state.root) as report:
            await run(asked, state, items, sender, report, waits)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def outcomes(lines: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {path: line["outcome"] for path, line in lines.items()}


# crashes that are worth naming; the model below finds the others


def killed(room: Room, at: int) -> FakeSender:
    left = iter(range(at, -1, -1))

    def step() -> None:
        if next(left) == 0:
            raise Killed

    return FakeSender(room, step)


def removing(spool: Spool) -> None:
    """A run died between noting that it removes `a` and doing it."""
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    with closing(spool.state()) as state:
        spool.run()
        state.removing(b"a")
