"""The figures of direct transfers: medians by row and tool, judged by goals, merged with earlier runs', laid out as tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .goals import Goal

FORMAT = 2
OURS = "xfer"
PARTS = {
    "channel": "The channel alone, between two processes",
    "turn": "The channel through a TURN server (coturn)",
    "setup": "From the answer to the first byte",
    "whole": "Whole commands, both ends started cold",
    "first": "From typing a fetch, its peer waiting, to its first bytes",
    "failover": "From `kill -9` of a fetch at half of the file until its sender has turned to S3",
    "memory": "Peak memory above the interpreter with its imports",
}
"""What a run can measure, and what its table is about."""
SPEED = "MB/s"
"""The unit of which more is better; of all others less."""


@dataclass(frozen=True)
class Wanted:
    """A goal. limit: in the row's unit, at least for a speed and at most for all else; or times as fast as the tool `than`."""

    limit: float
    than: str = ""


@dataclass
class Row:
    """One line of one table. runs: the figures of each tool, one a round, in `unit`.

    more: what else was measured, by tool and name. failures: why a tool has fewer figures, or none.
    measured: when; the code may be another since.
    """

    part: str
    name: str
    unit: str
    wanted: list[Wanted] = field(default_factory=list)
    runs: dict[str, list[float]] = field(default_factory=dict)
    more: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    measured: str = ""

    def take(self, tool: str, figures: Mapping[str, float]) -> None:
        """Of one round; the first is the row's."""
        (_, figure), *rest = figures.items()
        self.runs.setdefault(tool, []).append(round(figure, 4))
        for name, value in rest:
            self.more.setdefault(tool, {}).setdefault(name, []).append(round(value, 4))

    def median(self, tool: str) -> float | None:
        runs = self.runs.get(tool)
        return statistics.median(runs) if runs else None


def row_of(found: Mapping[str, Any]) -> Row:
    """From its JSON."""
    return Row(**{**found, "wanted": [Wanted(**wanted) for wanted in found["wanted"]]})


def judge(row: Row) -> list[Goal]:
    """By the medians; what was not measured is neither met nor missed."""
    return [_judged(row, wanted) for wanted in row.wanted]


def _judged(row: Row, wanted: Wanted) -> Goal:
    more, ours = row.unit == SPEED, row.median(OURS)
    if not wanted.than:
        words = f"at {'least' if more else 'most'} {wanted.limit:g} {row.unit}"
        if ours is None:
            return Goal(row.name, words, "not measured", None)
        met = ours >= wanted.limit if more else ours <= wanted.limit
        return Goal(row.name, words, f"{ours:.3g} {row.unit}", met)
    words = f"{wanted.limit:g} times as fast as {wanted.than}"
    theirs = row.median(wanted.than)
    if ours is None or theirs is None:
        return Goal(row.name, words, "not measured", None)
    times = ours / theirs if more else theirs / ours
    return Goal(row.name, words, f"{times:.2f} times", times >= wanted.limit)


class Tally:
    """All of it is in a file after each row, so that a run that is cut short keeps what it has.

    What an earlier run measured on a like machine stays until it is measured again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._head = {
            "subject": "webrtc",
            "format": FORMAT,
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        }
        earlier = self._earlier()
        self.tools: dict[str, str] = earlier.get("tools", {})
        self.rows = [row_of(row) for row in earlier.get("rows", [])]
        self.left_out: dict[str, str] = {}
        """What this run could not measure, and why."""
        self._new: list[Row] = []

    @property
    def failed(self) -> bool:
        """Whether this run could not measure ours somewhere; a peer's failure and a goal missed are none."""
        return any(OURS in row.failures for row in self._new)

    def add(self, row: Row) -> None:
        row.measured = _now()
        places = {(old.part, old.name): place for place, old in enumerate(self.rows)}
        place = places.get((row.part, row.name), len(self.rows))
        self.rows[place : place + 1] = [row]
        self._new.append(row)
        self.write()

    def write(self) -> None:
        result = self._head | {
            "written": _now(),
            "tools": self.tools,
            "left_out": self.left_out,
            "rows": [asdict(row) for row in self.rows],
            "goals": [asdict(goal) for row in self.rows for goal in judge(row)],
        }
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        self._path.with_suffix(".md").write_text(self.tables(), encoding="utf-8")

    def tables(self) -> str:
        """All that is there, in Markdown, as the README has it."""
        lines = [f"{self._head['cores']} cores, Python {self._head['python']}; medians."]
        for part, title in PARTS.items():
            rows = [row for row in self.rows if row.part == part]
            if rows:
                lines += ["", f"{title}; {rows[0].unit}:", "", *table(rows, self.tools)]
        lines += ["", *(f"Left out: {what}: {why}." for what, why in self.left_out.items())]
        return "\n".join(lines).rstrip("\n") + "\n"

    def _earlier(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if all(found.get(name) == value for name, value in self._head.items()) else {}


def table(rows: Sequence[Row], versions: Mapping[str, str]) -> list[str]:
    """Lines of Markdown. versions: of the tools, for the heading."""
    tools = list(dict.fromkeys(tool for row in rows for tool in (*row.runs, *row.failures)))
    tools.sort(key=lambda tool: tool != OURS)
    heading = ["link", *(versions.get(tool, tool) for tool in tools), "goal"]
    lines = [_cells(heading), "|" + "---|" * len(heading)]
    for row in rows:
        rounds = max((len(runs) for runs in row.runs.values()), default=0)
        few = f" ({rounds} round{'s' if rounds > 1 else ''})" if rounds else ""
        goals = "; ".join(_verdict(goal) for goal in judge(row))
        lines.append(_cells([f"{row.name}{few}", *(_figure(row, tool) for tool in tools), goals]))
    return lines


def told(row: Row) -> str:
    """What was just measured, in a line: medians with the least and the most, goals, failures."""
    cells = []
    for tool, runs in row.runs.items():
        more = "".join(
            f", {name} {statistics.median(values):.3g}" for name, values in row.more.get(tool, {}).items()
        )
        spread = f" ({min(runs):.3g} to {max(runs):.3g})" if len(runs) > 1 else ""
        cells.append(f"{tool} {statistics.median(runs):.3g} {row.unit}{spread}{more}")
    cells += [f"{tool} failed: {failure}" for tool, failure in row.failures.items()]
    goals = "; ".join(_verdict(goal) for goal in judge(row))
    return f"{row.part:8} {row.name}: {' | '.join(cells)} | {goals}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _figure(row: Row, tool: str) -> str:
    median = row.median(tool)
    if median is None:
        return "failed" if tool in row.failures else ""
    return f"{median:.3g}"


def _verdict(goal: Goal) -> str:
    if goal.met is None:
        return f"{goal.wanted}: {goal.got}"
    return f"{goal.wanted}: {'met' if goal.met else 'missed'} ({goal.got})"


def _cells(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', '/') for text in texts)} |"
