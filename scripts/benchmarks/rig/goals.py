"""The project's own goals for the S3 route, beside what was measured. Met or missed, the exit code is 0: machines differ."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .matrix import Cell
from .peers import OURS
from .rows import Row


@dataclass(frozen=True)
class Goal:
    """name: what. wanted, got: as texts. met: None where it could not be measured."""

    name: str
    wanted: str
    got: str
    met: bool | None


class Table:
    """The matrix by link, file, way and tool."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._cells = {(c.link, c.file, c.way, c.tool): c for c in cells}

    def ours(self, link: str, file: str, way: str) -> Cell | None:
        return self._with_result(link, file, way, OURS)

    def tool(self, link: str, file: str, way: str, name: str) -> Cell | None:
        return self._with_result(link, file, way, name)

    def best(self, link: str, file: str, way: str) -> Cell | None:
        """The fastest of the others."""
        peers = [
            c for (*where, tool), c in self._cells.items() if tool != OURS and where == [link, file, way]
        ]
        return min((c for c in peers if c.seconds), key=lambda c: statistics.median(c.seconds), default=None)

    def _with_result(self, *key: str) -> Cell | None:
        found = self._cells.get((key[0], key[1], key[2], key[3]))
        return found if found and found.seconds else None


def judge(cells: Iterable[Cell], rows: Sequence[Row], links: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """links: by name, with `rate` and `loss_percent` and `payload` (bytes a second)."""
    table = Table(cells)
    shaped = [name for name, link in links.items() if link["rate"]]
    clean = [name for name in shaped if not links[name]["loss_percent"]]
    lossy = [name for name in shaped if links[name]["loss_percent"]]
    found: list[Goal] = []
    for way in ("up", "down"):
        found += _at_most_of_best(table, "loopback", "random", way, 0.9)
    found += _cpu(table)
    for file, times in (("json", 3.0), ("tar", 1.7)):
        for link in shaped:
            for way in ("up", "down"):
                found += _times_faster(table, link, file, way, times)
    for link in clean:
        for way in ("up", "down"):
            found += _share_of_rate(table, link, way, float(links[link]["payload"]))
    for link in lossy:
        found += _times_faster(table, link, "random", "up", 2.0)
    for link in links:
        for way in ("up", "down"):
            found += _times_faster(table, link, "tree", way, 5.0)
    for row in rows:
        found += _of_row(row)
    return found


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _at_most_of_best(table: Table, link: str, file: str, way: str, share: float) -> Iterator[Goal]:
    name, wanted = f"{file}, {link}, {way}", f"at most {share:g} of the best peer's time"
    ours, best = table.ours(link, file, way), table.best(link, file, way)
    if ours and best:
        got = _median(ours.seconds) / _median(best.seconds)
        yield Goal(name, wanted, f"{got:.2f} of {best.tool}", got <= share)


def _times_faster(table: Table, link: str, file: str, way: str, times: float) -> Iterator[Goal]:
    name, wanted = f"{file}, {link}, {way}", f"at least {times:g} times as fast as the best peer"
    ours, best = table.ours(link, file, way), table.best(link, file, way)
    if ours and best:
        got = _median(best.seconds) / _median(ours.seconds)
        yield Goal(name, wanted, f"{got:.2f} times {best.tool}", got >= times)


def _cpu(table: Table) -> Iterator[Goal]:
    ours, other = (table.tool("loopback", "random", "up", name) for name in (OURS, "s5cmd"))
    if ours and other:
        got = _median(ours.cpu) / _median(other.cpu)
        per = _median(ours.cpu) / ours.size * 1e9
        text = f"{got:.2f} ({per:.2f} CPU s/GB)"
        yield Goal("CPU, random, loopback, up", "at most 0.7 of s5cmd's", text, got <= 0.7)


def _share_of_rate(table: Table, link: str, way: str, payload: float) -> Iterator[Goal]:
    if ours := table.ours(link, "random", way):
        got = ours.size / _median(ours.seconds) / payload
        yield Goal(f"random, {link}, {way}", "at least 0.93 of what TCP can carry", f"{got:.3f}", got >= 0.93)


def _of_row(row: Row) -> Iterator[Goal]:
    figures = row.figures
    if row.failure or row.name not in _ROW_GOALS:
        return
    for what, wanted, figure, limit in _ROW_GOALS[row.name]:
        if limit is None:  # parts: twice the concurrency that the run had in the end
            limit = 2.0 * (figures.get("concurrency") or 4)
        got = figures[figure]
        yield Goal(f"{what}, {row.link}", wanted.format(limit=limit), f"{got}", got <= limit)


_ROW_GOALS: dict[str, list[tuple[str, str, str, float | None]]] = {
    "resume": [
        (
            "stored parts sent again after kill -9 at 60 %",
            "at most {limit:g}",
            "stored parts sent again",
            None,
        ),
        ("time of the rerun", "at most {limit:g} of a full send", "share of full", 0.5),
    ],
    "live": [("fetch started with send", "both done within {limit:g} of one way", "share of one way", 1.15)],
    "events": [
        ("progress event to a watcher, p99", "under {limit:g} ms", "p99 ms", 500.0),
        ("progress events a second", "at most {limit:g}", "most a second", 5.0),
    ],
    **{
        row: [
            (f"peak of send above its imports{of}", "at most {limit:g} MB", "send above imports MB", 150.0),
            (f"peak of fetch above its imports{of}", "at most {limit:g} MB", "fetch above imports MB", 150.0),
        ]
        for row, of in (("memory", ""), ("hole", ", 2 TB of zeros"))
    },
}
"""By row: what, the goal in words, the figure that it is about, its limit."""
