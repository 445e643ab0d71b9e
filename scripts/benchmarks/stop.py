"""How long a run that is asked to stop takes to leave: what is safe is on record by then, and the same command ends well.

Each row is one kind of run, stopped by SIGINT and SIGTERM in turns at a random moment after its first bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmarks.rig.link import Namespace
from scripts.benchmarks.rig.measure import Running, run
from scripts.benchmarks.rig.mortal import Mortal
from scripts.benchmarks.rig.servers import XFER

RESULTS = Path("bench-results/stop.json")
GOAL = 2.0
"""Seconds. Met or missed, the exit code is 0: machines differ."""
SIZE = 120_000_000
RATE = "20M"
AT_MOST = 1.5
"""Seconds after its first bytes, at which it is stopped at the latest."""
AT_WORK = 1.5
"""Seconds after its start from which on one that does not tell is taken to be at it."""
LONGEST = 120.0
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@dataclass
class Row:
    """seconds: from the signal to the end of the process, one a run."""

    name: str
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Bench:
    def __init__(self, folder: Path, runs: int, seed: int) -> None:
        self._folder, self._runs, self._dice = folder, runs, random.Random(seed)
        self._servers = Mortal(folder / "servers")
        self._env = {side: self._servers.client_environment(folder / side) for side in ("sender", "receiver")}
        self.rows: list[Row] = []

    def close(self) -> None:
        self._servers.close()

    def all(self) -> None:
        self._row("send, store", lambda source: self._send(source, "s3"))
        self._row("send, direct", lambda source: self._send(source, "webrtc"))
        self._row("fetch, store", lambda source: self._fetch(source, "s3"))
        self._row("fetch, direct", lambda source: self._fetch(source, "webrtc"))
        self._row("batch", self._batch)

    def _row(self, name: str, stopped: Callable[[Path], tuple[float, str]]) -> None:
        row = Row(name)
        for number in range(self._runs):
            source = self._folder / f"{len(self.rows)}-{number}"
            source.mkdir()
            (source / "data.bin").write_bytes(self._dice.randbytes(SIZE))
            seconds, wrong = stopped(source)
            row.seconds.append(seconds)
            row.wrong += [wrong] if wrong else []
        self.rows.append(row)
        took = f"median {statistics.median(row.seconds):.2f} s, max {max(row.seconds):.2f} s"
        print(f"{name:14} {took}{'; ' if row.wrong else ''}{'; '.join(row.wrong)}", flush=True)

    def _stop(self, running: Running, *, tells: bool = True) -> tuple[float, str]:
        """Seconds until it was gone, and what was wrong with its end. tells: how far it is."""
        if tells:
            running.until(lambda event: event["event"] == "progress" and event["done"] > 0)
        else:
            time.sleep(AT_WORK)
        time.sleep(self._dice.uniform(0, AT_MOST))
        how = self._dice.choice([signal.SIGINT, signal.SIGTERM])
        began = time.perf_counter()
        running.signal(how)
        ran = running.end(LONGEST)
        seconds = running.started + ran.seconds - began
        if ran.code != CODES[how]:
            return seconds, f"{how.name}: exit {ran.code}, {ran.stderr[-200:]}"
        last = ran.events[-1]
        if "carry on" not in last.get("next", ""):
            return seconds, f"{how.name}: it does not say how to go on: {last}"
        return seconds, ""

    def _send(self, source: Path, via: str) -> tuple[float, str]:
        words = [XFER, "send", "--json", "--via", via, str(source / "data.bin")]
        running = self._start("sender", [*words, "--bwlimit", RATE])
        ticket = str(running.event("ticket")["ticket"])
        fetch = [XFER, "fetch", ticket, "-o", f"{source}/out/"]
        other = self._start("receiver", fetch) if via == "webrtc" else None
        with _ended(other):
            seconds, wrong = self._stop(running)
            again = run(words, self._env["sender"], Namespace(), LONGEST)
        if via == "s3":
            self._fetched(fetch)
        return seconds, wrong or again.failure or _same(source)

    def _fetch(self, source: Path, via: str) -> tuple[float, str]:
        send = self._start("sender", [XFER, "send", "--json", "--via", via, str(source / "data.bin")])
        with _ended(send):
            ticket = str(send.event("ticket")["ticket"])
            if via == "s3":
                send.event("stored")
            words = [XFER, "fetch", "--json", ticket, "-o", f"{source}/out/"]
            seconds, wrong = self._stop(self._start("receiver", [*words, "--bwlimit", RATE]))
            again = run(words, self._env["receiver"], Namespace(), LONGEST)
        return seconds, wrong or again.failure or _same(source)

    def _batch(self, source: Path) -> tuple[float, str]:
        (source / "spool").mkdir()
        (source / "spool" / "data.bin").hardlink_to(source / "data.bin")
        room = run([XFER, "room", "new", source.name], self._env["sender"], Namespace(), LONGEST)
        words = [
            XFER,
            "batch",
            "--json",
            "--min-age",
            "0s",
            "--room-file",
            str(source / "room"),
            str(source / "spool"),
        ]
        (source / "room").write_text(room.stdout)
        seconds, wrong = self._stop(self._start("sender", [*words, "--bwlimit", RATE]), tells=False)
        again = run(words, self._env["sender"], Namespace(), LONGEST)
        self._fetched([XFER, "fetch", "--room-file", str(source / "room"), "-o", f"{source}/out/"])
        return seconds, wrong or again.failure or _same(source)

    def _start(self, side: str, words: list[str]) -> Running:
        return Running(words, self._env[side], Namespace())

    def _fetched(self, words: list[str]) -> None:
        run(words, self._env["receiver"], Namespace(), LONGEST)


@contextmanager
def _ended(other: Running | None) -> Iterator[None]:
    try:
        yield
    finally:
        if other is not None:
            other.end(LONGEST)


def _same(source: Path) -> str:
    found = [path for path in (source / "out").rglob("data.bin") if path.is_file()]
    if len(found) != 1 or found[0].read_bytes() != (source / "data.bin").read_bytes():
        return "what came in the end is not what was sent"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench stop", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each kind [10]")
    parser.add_argument("--seed", type=int, default=1, help="of the moments [1]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xfer-stop-") as folder:
        bench = Bench(Path(folder), options.runs, options.seed)
        try:
            bench.all()
        finally:
            bench.close()
    for row in bench.rows:
        met = max(row.seconds) <= GOAL and not row.wrong
        print(f"{'met   ' if met else 'MISSED'}  {row.name}: gone within {GOAL:g} s: {max(row.seconds):.2f}")
    result = {
        "subject": "stop",
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "rows": [
            {"name": row.name, "seconds": row.seconds, "wrong": row.wrong, "goal": GOAL} for row in bench.rows
        ],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {RESULTS}")
    if wrong := [f"{row.name}: {each}" for row in bench.rows for each in row.wrong]:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
