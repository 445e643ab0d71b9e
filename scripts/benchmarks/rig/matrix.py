"""Every tool with every file over one link, up and down, in turns."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .datasets import Dataset, remove, same
from .measure import Ran, run
from .peers import CRT, OURS, Command, Tool
from .world import World

WAYS = ("up", "down")
SLOW = 120.0
"""Seconds after which a tool is so far behind that its median does not matter."""
ROOM = 1 << 29
"""Bytes that may stay in the store between two tools."""


@dataclass
class Cell:
    """One tool, file, link and way. size: bytes; cpu: seconds; peak: bytes; one item a round in each list.

    facts: what our own summary events say besides. failure: why it was given up; what it had until then counts.
    """

    link: str
    file: str
    tool: str
    way: str
    size: int
    files: int
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None
    argv: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """It is not worth another round."""
        return self.failure is not None or max(self.seconds, default=0.0) > SLOW

    def take(self, ran: Ran) -> bool:
        """Whether it is a result."""
        self.failure = ran.failure
        if self.failure is None:
            self.seconds.append(ran.seconds)
            self.cpu.append(ran.cpu)
            self.peak.append(ran.peak)
            if self.tool == OURS:
                self.facts.append(
                    {k: v for k, v in ran.summary.items() if k not in ("job", "paths", "digest")}
                )
        return self.failure is None


class Budget:
    """seconds: after which no run is begun any more; None: they all are. longest: seconds that one may take."""

    def __init__(self, seconds: float | None, longest: float) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self.longest = longest

    @property
    def spent(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end


def measure_file(
    world: World, tools: Sequence[Tool], data: Dataset, rounds: int, budget: Budget
) -> list[Cell]:
    """In turns, the first one another each round, so that a slow moment of the machine hits all alike.

    A tool that fails, or that took longer than SLOW, is not run again with this file over this link. The first
    round's downloads are compared. A tree that came down stays until the link is taken down: ext4 searches around
    inodes that were freed in the last minutes, so the next tool would pay for the removal. Returns what was begun
    before the time was over.
    """
    cells = {
        (tool.name, way): Cell(world.shape.name, data.kind, tool.name, way, data.size, data.files)
        for tool in tools
        for way in WAYS
    }
    kept = 0
    for number in range(rounds):
        data.warm()
        first = number % len(tools)
        for tool in (*tools[first:], *tools[:first]):
            up, down = (cells[tool.name, way] for way in WAYS)
            if up.over or down.over:
                continue
            if budget.spent:
                print(f"  {up.link:8} {up.file:6} {tool.name}: no time left", file=sys.stderr)
                continue
            _up_and_down(world, tool, data, up, down, budget, compare=number == 0)
            kept += data.size
            if kept > ROOM:
                world.servers.empty()
                kept = 0
    world.servers.empty()
    return [cell for cell in cells.values() if cell.argv]


def _up_and_down(
    world: World, tool: Tool, data: Dataset, up: Cell, down: Cell, budget: Budget, *, compare: bool
) -> None:
    ran = _run(world, tool.up(data.path), up, budget)
    if ran is None:
        return
    if tool.name == OURS:
        tool.ticket = ran.ticket
    target = Path(tempfile.mkdtemp(prefix="target-", dir=world.folder))
    try:
        good = _run(world, tool.down(data.path, target), down, budget) is not None
        if good and compare and not same(data.path, target / data.path.name):
            down.failure = "what came down is not what went up"
    finally:
        if data.files == 1:
            remove(target)


def _run(world: World, command: Command, cell: Cell, budget: Budget) -> Ran | None:
    """None if it failed."""
    cell.argv = shown(command.argv, world.folder)
    ran = run(command.argv, command.env, world.client, budget.longest)
    good = cell.take(ran)
    told = f"{ran.seconds:7.2f} s  {ran.cpu:6.2f} CPU s  {ran.peak / 1e6:4.0f} MB" if good else cell.failure
    print(f"  {cell.link:8} {cell.file:6} {cell.way:4}  {cell.tool:11} {told}", file=sys.stderr, flush=True)
    return ran if good else None


def shown(argv: Sequence[str], folder: Path) -> list[str]:
    """A command line without this machine's paths."""
    words = [Path(word).name if word in (argv[0], str(CRT)) else word for word in argv]
    return [word.replace(str(folder), "WORLD").replace(str(folder.parent), "WORK") for word in words]
