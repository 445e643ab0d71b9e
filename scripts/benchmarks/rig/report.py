"""What was measured, as JSON that later runs add to, and as tables with goals met or missed."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .datasets import Dataset
from .goals import Goal, judge
from .matrix import Cell
from .peers import ENVIRONMENT, OURS, Tool
from .rows import Row
from .world import World

FORMAT = 1
PLOT = Path(__file__).with_name("plot.py")


class Results:
    """All of it is in `path` after each step, so that a run that is cut short keeps what it has.

    Quick runs, and those under another congestion control than cubic, have files of their own: s3-quick-bbr.json.
    What an earlier run measured under the same conditions stays until it is measured again.
    """

    def __init__(self, folder: Path, *, quick: bool, congestion: str, only_loopback: str | None) -> None:
        """only_loopback: why there were no links; None if there were."""
        marks = ["quick"] * quick + [congestion] * (congestion != "cubic")
        self._path = folder / ("-".join(["s3", *marks]) + ".json")
        self._head: dict[str, Any] = {
            "subject": "s3",
            "format": FORMAT,
            "quick": quick,
            "congestion": congestion,
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        }
        self._only_loopback = only_loopback
        self._new: set[tuple[str, str, str]] = set()
        earlier = self._earlier()
        self._links: dict[str, dict[str, Any]] = earlier.get("links", {})
        self._data: dict[str, dict[str, Any]] = earlier.get("data", {})
        self._tools: dict[str, str] = earlier.get("tools", {})
        self._cells = [Cell(**cell) for cell in earlier.get("cells", [])]
        self._rows = [Row(**row) for row in earlier.get("rows", [])]

    def add_link(self, world: World) -> None:
        shape = world.shape
        self._links[shape.name] = {
            "shape": str(shape),
            "rate": shape.rate,
            "rtt": shape.rtt,
            "loss_percent": shape.loss,
            "queue": shape.queue,
            "payload": shape.payload,
            "congestion": world.congestion,
            "counters": world.counters,  # filled when the link ends
        }
        self.write()

    def add_tools(self, tools: Sequence[Tool]) -> None:
        self._tools |= {tool.name: tool.version for tool in tools}

    def add_data(self, data: Dataset) -> None:
        facts = {"size": data.size, "files": data.files, "zstd_3_ratio": round(data.ratio, 2)}
        self._data[f"{data.kind}, {data.size / 1e6:,.0f} MB"] = facts

    def add_cells(self, cells: list[Cell]) -> None:
        measured = {_key(cell) for cell in cells}
        self._new |= {key[:3] for key in measured}
        sizes = {(_key(cell)[:3], cell.size) for cell in cells}
        same = {key for key, _ in sizes}
        self._cells = (
            [  # nothing compares with what another tool was measured with at another size
                cell
                for cell in self._cells
                if _key(cell) not in measured
                and (_key(cell)[:3] not in same or (_key(cell)[:3], cell.size) in sizes)
            ]
            + cells
        )
        self.write()

    def add_row(self, row: Row) -> None:
        self._new.add((row.link, row.name, ""))
        self._rows = [r for r in self._rows if (r.name, r.link) != (row.name, row.link)] + [row]
        self.write()

    def write(self) -> None:
        result = self._head | {
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "only_loopback": self._only_loopback,
            "links": self._links,
            "tools": self._tools,
            "data": self._data,
            "cells": [asdict(cell) for cell in self._cells],
            "rows": [asdict(row) for row in self._rows],
            "goals": [asdict(goal) for goal in self.goals()],
        }
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    def goals(self) -> list[Goal]:
        return judge(self._cells, self._rows, self._links)

    @property
    def failed(self) -> bool:
        """Whether this run could not measure something that it should have; goals missed are no failure."""
        cells = any(cell.failure for cell in self._cells if _key(cell)[:3] in self._new)
        return cells or any(row.failure for row in self._rows if (row.link, row.name, "") in self._new)

    def text(self) -> str:
        """What this run measured, as tables of medians; the goals by all that is there."""
        lines = [
            f"{self._head['cores']} cores, TCP {self._head['congestion']} but where a tool asks for another"
        ]
        if self._only_loopback:
            lines.append(f"no links but loopback: {self._only_loopback}")
        lines += [f"{name}: {version}" for name, version in self._tools.items()]
        lines += [f"{name}: zstd -3 ratio {facts['zstd_3_ratio']}" for name, facts in self._data.items()]
        for key in dict.fromkeys(_key(cell)[:3] for cell in self._cells):
            if key in self._new:
                group = [cell for cell in self._cells if _key(cell)[:3] == key]
                lines += ["", *_table(self._links[key[0]], group)]
        lines += ["", *(_row(row) for row in self._rows if (row.link, row.name, "") in self._new)]
        lines += ["", *(["the goals are for the full sizes:"] if self._head["quick"] else [])]
        lines += [_goal(goal) for goal in self.goals()]
        return "\n".join(lines)

    def plot(self) -> str:
        """Draw the picture beside the JSON, in the peers' environment, which has matplotlib. Says how that went."""
        picture = self._path.with_suffix(".png")
        command = [ENVIRONMENT / "bin" / "python", PLOT, self._path, picture]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except OSError:
            return f"no picture: {ENVIRONMENT} is not there"
        except subprocess.CalledProcessError as error:
            return f"no picture: {error.stderr.strip().splitlines()[-1]}"
        return f"written to {self._path} and {picture}"

    def _earlier(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if all(found.get(name) == value for name, value in self._head.items()) else {}


def _key(cell: Cell) -> tuple[str, str, str, str]:
    return cell.link, cell.file, cell.way, cell.tool


def _table(link: dict[str, Any], group: list[Cell]) -> list[str]:
    first = group[0]
    files = f", {first.files} files" if first.files > 1 else ""
    title = f"{link['shape']}, TCP {link['congestion']}: {first.file}, {first.size / 1e6:,.0f} MB{files}, {first.way}"
    peers = [statistics.median(cell.seconds) for cell in group if cell.tool != OURS and cell.seconds]
    heading = f"  {'':12}{'median':>9}{'min':>9}{'max':>9}  {'of best peer':>12}{'CPU s/GB':>10}{'peak MB':>9}{'rounds':>8}"
    return [title, heading, *(_line(cell, min(peers, default=None)) for cell in group)]


def _line(cell: Cell, best: float | None) -> str:
    if not cell.seconds:
        return f"  {cell.tool:12} failed: {cell.failure}"
    median = statistics.median(cell.seconds)
    times = "".join(f"{value:8.2f}s" for value in (median, min(cell.seconds), max(cell.seconds)))
    ratio = f"{median / best:12.2f}" if best else f"{'-':>12}"
    cpu, peak = statistics.median(cell.cpu) / cell.size * 1e9, max(cell.peak) / 1e6
    then = f"  then failed: {cell.failure}" if cell.failure else ""
    return f"  {cell.tool:12}{times}  {ratio}{cpu:10.2f}{peak:9.0f}{len(cell.seconds):8d}{then}"


def _row(row: Row) -> str:
    told = ", ".join(f"{name} {value}" for name, value in row.figures.items())
    return f"{row.name}, {row.link}: {f'failed: {row.failure}' if row.failure else told}"


def _goal(goal: Goal) -> str:
    return f"{'met   ' if goal.met else 'MISSED'}  {goal.name}: {goal.got} (goal: {goal.wanted})"
