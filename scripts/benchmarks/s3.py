"""How fast large transfers through the S3 store are, beside s5cmd, rclone and the AWS CLI on the same store and files.

Links are made with network namespaces and a user-space relay (root, Linux); elsewhere only loopback is measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

from cli.units import parse_size
from scripts.benchmarks.rig import datasets, memory, peers, rows, watch
from scripts.benchmarks.rig.datasets import MIB
from scripts.benchmarks.rig.link import SHAPES, machines_congestion, why_not
from scripts.benchmarks.rig.matrix import Budget, measure_file
from scripts.benchmarks.rig.report import Results
from scripts.benchmarks.rig.rows import Failed, Row
from scripts.benchmarks.rig.world import World, world
from transfer.errors import UsageError

RESULTS = Path("bench-results")
GIB = 1 << 30
AMOUNTS = {
    "loopback": {"random": GIB, "json": GIB, "tree": 20_000, "tar": GIB},
    "400": {"random": GIB, "json": GIB, "tree": 20_000, "tar": GIB},
    "lossy": {"random": 16 * MIB, "json": 16 * MIB, "tree": 500, "tar": 16 * MIB},
    "50": {"random": 96 * MIB, "json": 144 * MIB, "tree": 4_000, "tar": 144 * MIB},
}
"""Bytes, of a tree files; so that no tool takes much longer than 30 s a way, nor the slowest a minute with loss."""
QUICK = {
    "loopback": {"random": 192 * MIB, "json": 128 * MIB, "tree": 1_000, "tar": 64 * MIB},
    "400": {"random": 64 * MIB, "json": 64 * MIB, "tree": 300},
    "lossy": {"random": 4 * MIB},
    "50": {"random": 8 * MIB, "json": 8 * MIB},
}
QUICK_SECONDS, QUICK_RUN = 470.0, 60.0
"""When the last tool begins, and how long it may take each way: all ends within 10 minutes."""
LONGEST_RUN, LONGEST_OF_SIZE = 900.0, 7200.0
ROW_LINKS = {
    "stream": tuple(SHAPES),
    "resume": ("loopback", "400"),
    "live": ("400", "50"),
    "events": ("loopback", "400"),
    "memory": ("loopback",),
    "hole": ("loopback",),
}
QUICK_LINKS = {
    "stream": tuple(SHAPES),
    **dict.fromkeys(("resume", "events", "memory"), ("loopback",)),
    "live": ("400",),
}
ROWS = ("matrix", *ROW_LINKS)
ROW_SIZES = {"resume": GIB, "live": 1088 * MIB, "events": 640 * MIB, "memory": GIB, "hole": 2 * 10**12}
QUICK_ROW_SIZES = {"resume": 192 * MIB, "live": 128 * MIB, "events": 64 * MIB, "memory": 192 * MIB}
SLOW = "50"
"""The link on which `live` is measured once and without a peer: no machine is the limit there, and one way takes 3 minutes."""
STREAM_SECONDS = 4.0
"""Of the link's rate; on a lossy link a hundredth of that many bytes, on loopback STREAM_BYTES."""
STREAM_BYTES = GIB


def main() -> None:
    args = _arguments()
    signal.signal(signal.SIGTERM, _stop)
    reason = why_not()
    if reason:
        args.links = [name for name in args.links if not SHAPES[name].rate]
        args.congestion = machines_congestion()
        print(f"loopback only, under the machine's own congestion control: {reason}", file=sys.stderr)
    found = Results(RESULTS, quick=args.quick, congestion=args.congestion, only_loopback=reason)
    with tempfile.TemporaryDirectory(prefix="xfer-bench-", dir=args.work) as scratch:
        _Bench(args, found, Path(scratch)).run()
    print(found.text())
    print(found.plot())
    sys.exit(1 if found.failed else 0)


class _Bench:
    """One run. scratch: for everything that it makes; gone afterwards."""

    def __init__(self, args: argparse.Namespace, found: Results, scratch: Path) -> None:
        self._args, self._found, self._scratch = args, found, scratch
        self._data = (args.work or scratch) / "data"
        self._amounts = QUICK if args.quick else AMOUNTS
        self._sizes = QUICK_ROW_SIZES if args.quick else ROW_SIZES
        self._budget = Budget(QUICK_SECONDS, QUICK_RUN) if args.quick else Budget(None, LONGEST_RUN)

    def run(self) -> None:
        for name in self._args.links:
            with world(SHAPES[name], self._args.congestion, self._scratch / name) as place:
                self._found.add_link(place)
                if "matrix" in self._args.rows:
                    self._matrix(place)
                for row in self._args.rows:
                    if name in (QUICK_LINKS if self._args.quick else ROW_LINKS).get(row, ()):
                        self._row(place, row)
            self._found.write()  # with the link's counters

    def _matrix(self, place: World) -> None:
        tools = peers.tools(place.servers, place.folder, self._args.only)
        wanted = self._args.only or peers.NAMES
        if missing := [name for name in wanted if name not in [tool.name for tool in tools]]:
            print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        self._found.add_tools(tools)
        amounts = self._amounts[place.shape.name]
        for kind in self._args.files:
            if kind in amounts:
                data = datasets.make(kind, amounts[kind], self._data)
                self._found.add_data(data)
                self._found.add_cells(measure_file(place, tools, data, self._args.rounds, self._budget))

    def _row(self, place: World, name: str) -> None:
        row = Row(name, place.shape.name)
        if self._budget.spent:
            print(f"  {row.link:8} {name}: no time left", file=sys.stderr)
            return
        try:
            row.figures = self._figures(place, name)
        except (Failed, OSError) as error:
            row.failure = str(error)
        print(f"  {row.link:8} {name}: {row.failure or row.figures}", file=sys.stderr, flush=True)
        self._found.add_row(row)

    def _figures(self, place: World, name: str) -> dict[str, object]:
        rounds, longest = min(self._args.rounds, 3), self._budget.longest
        if name == "stream":
            size = place.shape.payload * STREAM_SECONDS / (100 if place.shape.loss else 1)
            return rows.stream(place, rounds, int(size) or STREAM_BYTES)
        (ours,) = peers.tools(place.servers, place.folder, [peers.OURS])
        scarce = name == "memory" and self._args.size is not None
        size = self._args.size if scarce else self._sizes[name]
        if scarce:
            memory.check_room(self._scratch, size)
        if name == "hole":
            data = memory.hole(size, self._data)
            return memory.peaks_of_hole(place, ours, data, LONGEST_OF_SIZE)
        data = datasets.make("random", size, self._data)
        if name == "resume":
            return rows.resume(place, ours, data, longest)
        if name == "live":
            if place.shape.name == SLOW:
                return rows.live(place, ours, None, data, 1, longest)
            others = [t for t in peers.tools(place.servers, place.folder, ["s5cmd"]) if not self._args.quick]
            return rows.live(place, ours, others[0] if others else None, data, rounds, longest)
        if name == "events":
            return watch.latencies(place, ours, data, rounds, longest)
        return memory.peaks(place, ours, data, LONGEST_OF_SIZE if scarce else longest, scarce=scarce)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench s3", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="smaller files, one round: ends within 10 minutes"
    )
    parser.add_argument("--links", type=_names(SHAPES), default=list(SHAPES), help=f"of {','.join(SHAPES)}")
    kinds = datasets.KINDS
    parser.add_argument("--files", type=_names(kinds), default=list(kinds), help=f"of {','.join(kinds)}")
    parser.add_argument("--only", type=_names(peers.NAMES), default=[], help=f"of {','.join(peers.NAMES)}")
    parser.add_argument("--rows", type=_names(ROWS), default=list(ROWS), help=f"of {','.join(ROWS)}")
    parser.add_argument("--rounds", type=int, help="of which the medians are taken [5; quick: 1]")
    parser.add_argument("--congestion", default="cubic", help="TCP congestion control of everything [cubic]")
    parser.add_argument("--size", type=_size, help="of the data of the row `memory`, as 20G [1 GiB]")
    parser.add_argument(
        "--work", type=Path, help="where files are kept, for the next run too [a temporary folder]"
    )
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 5)
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
