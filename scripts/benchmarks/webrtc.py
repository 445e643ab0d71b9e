"""How fast the peer route is, on loopback and on emulated links (root, Linux), beside plain aiortc and other tools.

Its channel alone, also without the kernel's help and through a TURN server; whole commands; how soon they begin, what
a dead peer costs, their memory. Writes bench-results/webrtc.json and, as tables, webrtc.md.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from cli.units import parse_size
from scripts.benchmarks.rig import datasets, direct, memory, moments, pair, tally, turn
from scripts.benchmarks.rig.direct import CROC, OURS, WORMHOLE, Place
from scripts.benchmarks.rig.link import (
    LOOPBACK,
    Namespace,
    Shape,
    build,
    congestions,
    machines_congestion,
    why_not,
)
from scripts.benchmarks.rig.rows import Failed
from scripts.benchmarks.rig.tally import Row, Tally, Wanted
from scripts.benchmarks.rig.wanted import (
    AIORTC,
    BWLIMIT,
    FAILOVER,
    FAILOVER_GOAL,
    FIRST,
    FIRST_GOAL,
    LINK,
    MEMORY,
    MEMORY_GOAL,
    SETUP_GOAL,
    TRIP,
    ChannelRow,
    WholeRow,
    channel_rows,
    turn_row,
    whole_rows,
)
from transfer.errors import UsageError

CHANNEL = str(Path(__file__).with_name("rig") / "channel.py")
RESULTS = Path("bench-results/webrtc.json")
TOOLS = (OURS, AIORTC, WORMHOLE, CROC)
SLOW, SLOWEST, LONGEST = 90.0, 420.0, 3600.0
"""Seconds after which it is ended: one run of a channel, of whole commands, the row of memory."""
Run = Callable[[], dict[str, float]]
"""Measures once. The first figure is the row's."""


def main() -> None:
    args = _arguments()
    signal.signal(signal.SIGTERM, _stop)
    with tempfile.TemporaryDirectory(prefix="xfer-bench-", dir=args.work) as scratch:
        bench = _Bench(args, Path(scratch))
        bench.run()
    print()
    print(bench.found.tables())
    print(f"written to {RESULTS} and {RESULTS.with_suffix('.md')}")
    sys.exit(1 if bench.found.failed else 0)


class _Bench:
    """One run. scratch: for everything that it makes; gone afterwards."""

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        self._args, self._scratch = args, scratch
        self._no_links = why_not()
        self._link = None if self._no_links else build(scratch)
        self._places = 0
        self.found = Tally(RESULTS)
        self.found.tools |= {OURS: f"xfer {version('xfer')}", AIORTC: f"aiortc {version('aiortc')}"}
        if self._no_links:
            self._leave_out("emulated links", self._no_links)

    def run(self) -> None:
        parts = {
            "channel": self._channel,
            "turn": self._turn,
            "setup": self._setup,
            "whole": self._whole,
            "first": self._first,
            "failover": self._failover,
            "memory": self._memory,
        }
        for part in self._args.parts:
            parts[part]()

    def _channel(self) -> None:
        for row in channel_rows():
            if self._wants(row.name, row.shape):
                self._speeds("channel", row)

    def _turn(self) -> None:
        if reason := turn.why_not():
            self._leave_out("TURN", reason)
            return
        with turn.server() as urls:
            for row in (turn_row(kind, url) for kind, url in urls.items()):
                if self._wants(row.name, row.shape):
                    self._speeds("turn", row)

    def _speeds(self, part: str, wanted: ChannelRow) -> None:
        row = Row(part, wanted.name, tally.SPEED, list(wanted.wanted))
        with pair.ends(wanted.shape, self._link) as where:
            tools = {OURS: _speed(OURS, wanted.size, where, *wanted.ours, *wanted.options)}
            if wanted.plain:
                tools[AIORTC] = _speed(AIORTC, wanted.plain, where, *wanted.options)
            self._turns(row, tools)

    def _setup(self) -> None:
        for shape in (LOOPBACK, TRIP):
            if self._wants(str(shape), shape):
                row = Row("setup", str(shape), "s", [Wanted(SETUP_GOAL)] if shape.rate else [])
                with pair.ends(shape, self._link) as where:
                    self._turns(row, {tool: _set_up(tool, where) for tool in (OURS, AIORTC)})

    def _whole(self) -> None:
        tools = [tool for tool in (OURS, WORMHOLE, CROC) if tool in self._args.only]
        missing = {tool: reason for tool in tools if (reason := direct.why_not(tool))}
        for tool, reason in missing.items():
            self._leave_out(tool, reason)
        tools = [tool for tool in tools if tool not in missing]
        self.found.tools |= {tool: direct.version(tool) for tool in tools if tool != OURS}
        for wanted in whole_rows(congestions(), machines_congestion()):
            if self._wants(wanted.name, wanted.shape):
                self._whole_row(wanted, tools)

    def _whole_row(self, wanted: WholeRow, tools: list[str]) -> None:
        row, file = Row("whole", wanted.name, "s", [wanted.wanted]), self._file(wanted.size)

        def runs(place: Place) -> dict[str, Run]:
            def run(tool: str) -> dict[str, float]:
                return {"s": place.run(tool, file, SLOWEST)}

            return {tool: functools.partial(run, tool) for tool in tools}

        others = [tool for tool in tools if tool != OURS]
        self._at_place(row, wanted.shape, runs, others, wanted.congestion, wanted.rounds)

    def _first(self) -> None:
        if self._wants(str(LOOPBACK), LOOPBACK):
            row, file = Row("first", str(LOOPBACK), "s", [Wanted(FIRST_GOAL)]), self._file(FIRST)
            self._at_place(
                row, LOOPBACK, lambda place: {OURS: lambda: {"s": moments.first_byte(place, file, SLOW)}}
            )

    def _failover(self) -> None:
        for name, shape, options in (
            (f"{LOOPBACK}, {FAILOVER / 1e6:g} MB, --bwlimit {BWLIMIT}", LOOPBACK, ("--bwlimit", BWLIMIT)),
            (f"{LINK}, {FAILOVER / 1e6:g} MB", LINK, ()),
        ):
            if self._wants(name, shape):
                row, file = Row("failover", name, "s", [Wanted(FAILOVER_GOAL)]), self._file(FAILOVER)

                def runs(
                    place: Place, file: Path = file, options: tuple[str, ...] = options
                ) -> dict[str, Run]:
                    return {OURS: lambda: {"s": moments.failover(place, file, SLOW, *options)}}

                self._at_place(row, shape, runs)

    def _memory(self) -> None:
        size = self._args.size
        name = f"{LOOPBACK}, {size / 1e9:g} GB random"
        if not self._wants(name, LOOPBACK) or OURS not in self._args.only:
            return
        rows = [Row("memory", f"{which}, {name}", "MB", [Wanted(MEMORY_GOAL)]) for which in ("send", "fetch")]
        try:
            memory.check_room(self._scratch, size)
            with direct.place(LOOPBACK, self._folder(), None) as place:
                for row, peak in zip(rows, moments.peaks(place, self._file(size), LONGEST), strict=True):
                    row.runs[OURS] = [round(peak, 1)]
        except (Failed, OSError) as error:
            for row in rows:
                row.failures[OURS] = str(error)
        for row in rows:
            self._add(row)

    def _at_place(
        self,
        row: Row,
        shape: Shape,
        runs: Callable[[Place], Mapping[str, Run]],
        others: Collection[str] = (),
        congestion: str = "cubic",
        rounds: int | None = None,
    ) -> None:
        """others: the tools that the place must serve besides ours. rounds: at most."""
        try:
            with direct.place(shape, self._folder(), self._link, others, congestion) as place:
                self._turns(row, runs(place), rounds)
        except OSError as error:  # the place's own
            row.failures[OURS] = str(error)
            self._add(row)

    def _turns(self, row: Row, tools: Mapping[str, Run], rounds: int | None = None) -> None:
        """In turns, so that a slow moment of the machine hits all. A tool that failed is not run again."""
        chosen = {tool: run for tool, run in tools.items() if tool in self._args.only}
        for _ in range(min(self._args.rounds, rounds or self._args.rounds)):
            for tool, run in chosen.items():
                if tool not in row.failures:
                    try:
                        row.take(tool, run())
                    except (OSError, ValueError) as error:
                        row.failures[tool] = str(error)
        self._add(row)

    def _folder(self) -> Path:
        self._places += 1
        return self._scratch / f"place-{self._places}"

    def _file(self, size: int) -> Path:
        return datasets.make("random", size, self._scratch / "data").path

    def _wants(self, name: str, shape: Shape) -> bool:
        return self._args.rows in name and not (shape.rate and self._no_links)

    def _leave_out(self, what: str, why: str) -> None:
        self.found.left_out[what] = why
        print(f"left out: {what}: {why}", file=sys.stderr)

    def _add(self, row: Row) -> None:
        self.found.add(row)
        print(tally.told(row), flush=True)


def _speed(tool: str, size: int, where: tuple[Namespace, Namespace], *options: str) -> Run:
    def run() -> dict[str, float]:
        ran = _ran(tool, size, where, *options)
        return {tally.SPEED: size / ran["seconds"] / 1e6, "CPU s": ran["cpu"], "set-up s": ran["setup"]}

    return run


def _set_up(tool: str, where: tuple[Namespace, Namespace]) -> Run:
    return lambda: {"s": _ran(tool, 0, where)["setup"]}


def _ran(tool: str, size: int, where: tuple[Namespace, Namespace], *options: str) -> dict[str, float]:
    return pair.run(lambda role: [CHANNEL, tool, role, str(size), *options], *where, SLOW)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench webrtc", description=__doc__)
    parts, tools = ",".join(tally.PARTS), ",".join(TOOLS)
    parser.add_argument(
        "--parts", type=_names(tally.PARTS), default=list(tally.PARTS), help=f"of {parts} [all]"
    )
    parser.add_argument("--only", type=_names(TOOLS), default=list(TOOLS), help=f"of {tools} [all]")
    parser.add_argument("--rows", default="", help="those whose name holds this [all]")
    parser.add_argument("--rounds", type=int, default=5, help="of which the medians are taken [5]")
    parser.add_argument(
        "--size", type=_size, default=MEMORY, help="of the file of the part `memory`, as 10G [2G]"
    )
    parser.add_argument("--work", type=Path, help="where files are made [the system's temporary folder]")
    args = parser.parse_args()
    if args.work:
        args.work = args.work.absolute()
        os.makedirs(args.work, mode=0o700, exist_ok=True)
    return args


def _stop(_signum: int, _frame: object) -> NoReturn:
    """So that what was made is undone."""
    sys.exit(128 + signal.SIGTERM)


def _size(text: str) -> int:
    try:
        return parse_size(text, option="--size", command="send")
    except UsageError as error:
        raise argparse.ArgumentTypeError(error.what) from None


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        strangers = [name for name in names if name not in known]
        if strangers:
            raise argparse.ArgumentTypeError(f"{', '.join(strangers)}: choose of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()
