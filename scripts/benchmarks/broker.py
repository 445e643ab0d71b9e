"""The broker under load: how quickly it answers, what a request costs it, and what it does when asked for too much.

NATS, the store, the brokers and the clients that ask share this machine. Rates are offered, not waited for: an answer's
time counts from the moment its request was due, so that a broker which falls behind cannot hide it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from scripts.benchmarks.rig.brokers import Brokers, pids
from scripts.benchmarks.rig.callers import Callers, Load, memory, processor
from scripts.benchmarks.rig.goals import Goal
from scripts.benchmarks.rig.share import available, share
from scripts.benchmarks.rig.signed import stored_job
from transfer import api
from transfer.ticket import Ticket

RESULTS = Path("bench-results/broker.json")
USERS, CLIENTS = 200, 200
CREATES, STATUSES, OVERLOAD = 1000, 3000, 10
"""Requests a second; times the rate of creations."""
AFTER = 3.0
"""Seconds after an overload until the broker must be as quick as before."""
OPEN_JOBS = 10_000
URLS, SIGNED = 64, 40
SATURATED = 64
SHARE = 0.3
"""Cores of each broker, so that two of them, NATS and the clients have enough."""
TURNS = 5
"""Of one broker and two."""
PARTS = ("jobs", "rates", "overload", "urls", "two", "restart")
RULES = """
[quota]
bytes_per_day = "1000TB"
open_jobs = 100000000

[quota.total]
stored_bytes = "100000TB"
"""
"""Limits that nobody reaches: quotas are counted, as they are where it matters."""


@dataclass
class Row:
    """figures: by name. goals: of some of them."""

    name: str
    figures: dict[str, float | str] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)

    def goal(self, what: str, limit: float, unit: str, *, least: bool = False) -> None:
        found = self.figures[what]
        assert isinstance(found, (int, float))
        met = found >= limit if least else found <= limit
        words = f"{what} {'at least' if least else 'at most'} {limit:g} {unit}"
        self.goals.append(Goal(self.name, words, f"{found:.4g} {unit}", met))


class Questions:
    """What the clients ask. jobs: ids of those created, by user."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[str]] = {}
        self._at = 0

    def create(self, user: str) -> tuple[str, bytes]:
        job = Ticket.new().job
        self.jobs.setdefault(user, []).append(job)
        request = api.Create(job=job, token_hash=secrets.token_hex(32), size=1_000_000, expire=86400.0)
        return "create", msgspec.json.encode(request)

    def status(self, user: str) -> tuple[str, bytes]:
        jobs = self.jobs[user]
        self._at += 1
        return "status", msgspec.json.encode(api.Status(job=jobs[self._at % len(jobs)]))


class Bench:
    def __init__(self, servers: Brokers, seconds: float) -> None:
        self._servers, self._seconds = servers, seconds
        self._questions = Questions()
        self.rows: list[Row] = []

    async def rates(self) -> None:
        async with self._callers() as callers:
            await callers.offer(200, 3, self._questions.create)
            await self._rate(callers, "creations", CREATES, self._seconds, self._questions.create, 0.050)
            lost = await self._lost(callers)
            self.rows[-1].figures["lost"] = lost
            self.rows[-1].goal("lost", 0, "jobs")
            await self._rate(
                callers, "status requests", STATUSES, self._seconds / 2, self._questions.status, 0.020
            )

    async def overload(self) -> None:
        """Ten times the rate, then the rate again."""
        async with self._callers() as callers:
            before = await callers.offer(CREATES, 10, self._questions.create)
            questions = Questions()
            rate = OVERLOAD * CREATES
            with self._costs() as cost:
                load = await callers.offer(rate, 30, questions.create)
            row = self._row(f"overload, {rate} creations/s offered", load, cost)
            row.figures["answered ok a second"] = len(load.seconds.get("ok", ())) / load.span
            row.figures["busy p99 ms"] = 1e3 * load.quantile(0.99, "busy")
            row.figures["offered a second"] = load.asked / load.span
            row.goal("without answer", 0, "requests")
            row.goal("busy p99 ms", 1000, "ms")
            await asyncio.sleep(AFTER)
            after = await callers.offer(CREATES, 10, self._questions.create)
            quick = self._row("creations after the overload", after, None)
            quick.figures["p99 ms before it"] = 1e3 * before.quantile(0.99)
            quick.goal("p99 ms", 1e3 * max(0.050, 1.5 * before.quantile(0.99)), "ms")
            quick.goal("errors", 0, "answers")

    async def urls(self) -> None:
        user, seed = self._servers.users[0]
        async with stored_job(self._servers.nats_url, seed, user, URLS) as (broker, sealer):
            took = []
            for _ in range(SIGNED):
                start = time.perf_counter()
                await broker.sign_gets(sealer, list(range(URLS)))
                took.append(time.perf_counter() - start)
                await asyncio.sleep(0.05)
        row = Row(f"{URLS} GET URLs signed in one request")
        row.figures |= {"median ms": 1e3 * statistics.median(took), "max ms": 1e3 * max(took)}
        row.goal("median ms", 40, "ms")
        self._say(row)

    async def two(self) -> None:
        """As many as they can, with one broker and with two: on shared cores, then each with a share of its own."""
        await self._two("", lambda _broker: contextlib.nullcontext())
        if not available():
            print("two brokers with a share of their own: skipped, this user may make no control groups")
            return
        await self._two(f", each has {SHARE:g} of a core", lambda broker: share(broker.pid, SHARE))

    async def _two(
        self, note: str, given: Callable[[subprocess.Popen[bytes]], AbstractContextManager[None]]
    ) -> None:
        """In turns: how fast the machine is changes from minute to minute."""
        shares = []
        async with self._callers() as callers:
            for _ in range(TURNS):
                with given(self._servers.brokers[0]):
                    one = await self._saturated(callers, f"one broker, saturated{note}")
                    extra = self._servers.add()
                    with given(extra):
                        await asyncio.sleep(3)
                        two = await self._saturated(callers, f"two brokers, saturated{note}")
                if extra.poll() is not None:
                    raise RuntimeError("the second broker has ended")
                self._servers.end(extra)
                shares.append(two / one)
        row = self.rows[-1]
        row.figures["of one broker's, median"] = statistics.median(shares)
        row.figures["of one broker's, each turn"] = " ".join(f"{share:.2f}" for share in shares)
        row.goal("of one broker's, median", 0.95, "", least=True)

    async def jobs(self) -> None:
        """What open jobs cost."""
        empty = await asyncio.to_thread(self._servers.restart_memory)
        async with self._callers() as callers:
            made = sum(map(len, self._questions.jobs.values()))
            if made < OPEN_JOBS:
                await callers.offer(CREATES, (OPEN_JOBS - made) / CREATES + 0.1, self._questions.create)
        made = sum(map(len, self._questions.jobs.values()))
        began = await asyncio.to_thread(self._servers.restart, metrics=True)
        took = await asyncio.to_thread(self._servers.sweep_took)
        broker = self._servers.brokers[0].pid
        row = Row(f"{made} open jobs")
        row.figures |= {
            "MB in the broker": memory(broker, "VmHWM") / 1e6,
            "MB above an idle one": (memory(broker, "VmHWM") - empty) / 1e6,
            "s a sweep": took,
            "s to its first answer": began,
        }
        row.goal("MB in the broker", 150, "MB")
        row.goal("s a sweep", 5, "s")
        self._say(row)

    async def restart(self) -> None:
        took = [await asyncio.to_thread(self._servers.restart) for _ in range(5)]
        row = Row("a broker's start, to its first answer")
        row.figures |= {"median s": statistics.median(took), "max s": max(took)}
        row.goal("max s", 2, "s")
        self._say(row)

    def _callers(self) -> Callers:
        return Callers(self._servers.nats_url, self._servers.users, CLIENTS)

    async def _rate(
        self,
        callers: Callers,
        what: str,
        rate: int,
        seconds: float,
        question: Callable[[str], tuple[str, bytes]],
        limit: float,
    ) -> None:
        with self._costs() as cost:
            load = await callers.offer(rate, seconds, question)
        row = self._row(f"{rate} {what}/s by {CLIENTS} clients for {seconds:g} s", load, cost)
        row.goal("p99 ms", 1e3 * limit, "ms")
        row.goal("errors", 0, "answers")
        row.goal("without answer", 0, "requests")

    async def _lost(self, callers: Callers) -> int:
        """Jobs that were created and are not there."""
        jobs = {user: list(ids) for user, ids in self._questions.jobs.items()}

        def question(user: str) -> tuple[str, bytes]:
            return "status", msgspec.json.encode(api.Status(job=jobs[user].pop()))

        # Connections take turns, and so do users: as many of each as were created.
        load = await callers.offer(1500, min(map(len, jobs.values())) * len(jobs) / 1500, question)
        return load.asked - len(load.seconds.get("ok", ()))

    async def _saturated(self, callers: Callers, name: str) -> float:
        with self._costs() as cost:
            rate = await callers.saturate(SATURATED, self._seconds / 8, self._questions.create)
        asked = rate * self._seconds / 8
        row = Row(
            name, {"answers a second": rate, "CPU ms a request, brokers": 1e3 * cost["brokers"] / asked}
        )
        row.figures["CPU ms a request, NATS"] = 1e3 * cost["NATS"] / asked
        row.figures["CPU ms a request, clients"] = 1e3 * cost["clients"] / asked
        self._say(row)
        return rate

    @contextmanager
    def _costs(self) -> Iterator[dict[str, float]]:
        """Processor seconds while the block runs."""
        groups = {
            "brokers": pids(self._servers.brokers),
            "NATS": [self._servers.nats_pid],
            "clients": [os.getpid()],
        }
        before = {name: sum(map(processor, group)) for name, group in groups.items()}
        cost: dict[str, float] = {}
        yield cost
        cost.update({name: sum(map(processor, group)) - before[name] for name, group in groups.items()})

    def _row(self, name: str, load: Load, cost: dict[str, float] | None) -> Row:
        row = Row(name)
        row.figures |= {
            "p50 ms": 1e3 * load.median(),
            "p99 ms": 1e3 * load.quantile(0.99),
            "max ms": 1e3 * load.quantile(1.0),
            "errors": sum(len(took) for outcome, took in load.seconds.items() if outcome != "ok"),
            "without answer": load.unanswered,
            "outcomes": ", ".join(f"{outcome} {count}" for outcome, count in sorted(load.outcomes.items())),
        }
        for group, seconds in (cost or {}).items():
            row.figures[f"CPU ms a request, {group}"] = 1e3 * seconds / max(1, load.asked)
        self._say(row)
        return row

    def _say(self, row: Row) -> None:
        self.rows.append(row)
        shown = "; ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.figures.items()
        )
        print(f"{row.name}: {shown}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, comma-separated [all]")
    parser.add_argument("--seconds", type=float, default=60, help="of the rates [60]")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    gc.set_threshold(100_000, 50, 50)  # our own pauses would count as the broker's
    with tempfile.TemporaryDirectory() as folder:
        servers = Brokers(Path(folder) / "servers", USERS, RULES)
        try:
            bench = Bench(servers, options.seconds)
            for part in PARTS:
                if part in parts:
                    asyncio.run(getattr(bench, part)())
        finally:
            servers.close()
    _report(bench.rows)
    return 0


def _report(rows: list[Row]) -> None:
    goals = [goal for row in rows for goal in row.goals]
    print()
    for goal in goals:
        print(f"{'met   ' if goal.met else 'MISSED'}  {goal.name}: {goal.wanted}: {goal.got}")
    result: dict[str, Any] = {
        "subject": "broker",
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    sys.exit(main())
