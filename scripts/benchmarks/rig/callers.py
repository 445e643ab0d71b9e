"""Many clients that ask a broker at a rate, whether it answers or not, and note how long each answer took."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfer import bus
from transfer.bus import api_subject, inbox_prefix

TICK = 0.002
"""Seconds between two looks at what is due."""
LATE = 10.0
"""Seconds after which an answer counts as none: what a client waits."""
Question = tuple[str, bytes]
"""A verb and a body."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Load:
    """What came of a rate. seconds: of the answers, by outcome («ok», or an error's code), from when each was due.

    unanswered: requests without an answer within LATE. span: seconds in which all were due.
    """

    asked: int = 0
    span: float = 0.0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    unanswered: int = 0
    bodies: list[bytes] = field(default_factory=list)

    def quantile(self, share: float, outcome: str = "ok") -> float:
        """Seconds; infinite where nothing came."""
        took = sorted(self.seconds.get(outcome, ()))
        return took[min(len(took) - 1, int(share * len(took)))] if took else float("inf")

    def median(self, outcome: str = "ok") -> float:
        took = self.seconds.get(outcome)
        return statistics.median(took) if took else float("inf")

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(Counter({outcome: len(took) for outcome, took in self.seconds.items()}))


class Callers:
    """Connections of some users; use it as an async context manager."""

    def __init__(self, url: str, users: Sequence[tuple[str, Path]], count: int) -> None:
        """users: names and seed files. count: connections."""
        self._url, self._users, self._count = url, users, count
        self._clients: list[tuple[str, Any]] = []
        self._due: dict[str, float] = {}
        self._load = Load()
        self._keep = False

    async def __aenter__(self) -> Callers:
        for user, seed in itertools.islice(itertools.cycle(self._users), self._count):
            client = await bus.connect(self._url, seed, user, "bench")
            await client.subscribe(f"{inbox_prefix(user)}.b{len(self._clients)}.*", cb=self._heard)
            await client.flush()
            self._clients.append((user, client))
        return self

    async def __aexit__(self, *_ended: object) -> None:
        for _, client in self._clients:
            await client.close()

    async def offer(
        self, rate: float, seconds: float, question: Callable[[str], Question], *, keep: bool = False
    ) -> Load:
        """Ask `rate` times a second. question: of a user. keep: the answers' bodies as well."""
        self._load, self._due, self._keep = Load(), {}, keep
        total, said = int(rate * seconds), 0
        turn: Iterator[tuple[int, tuple[str, Any]]] = itertools.cycle(enumerate(self._clients))
        start = time.perf_counter()
        while said < total:
            now = time.perf_counter()
            while said < total and start + said / rate <= now:
                at, (user, client) = next(turn)
                verb, body = question(user)
                reply = f"{inbox_prefix(user)}.b{at}.{said}"
                self._due[reply] = start + said / rate
                await client.publish(api_subject(user, verb), body, reply=reply)
                said += 1
            await asyncio.sleep(TICK)
        self._load.asked, self._load.span = said, time.perf_counter() - start
        deadline = time.perf_counter() + LATE
        while self._due and time.perf_counter() < deadline:  # noqa: ASYNC110 (some may never come)
            await asyncio.sleep(0.02)
        self._load.unanswered = len(self._due)
        return self._load

    async def saturate(self, outstanding: int, seconds: float, question: Callable[[str], Question]) -> float:
        """Answers a second with so many questions always under way."""
        answered, end = 0, time.perf_counter() + seconds

        async def one(number: int) -> None:
            nonlocal answered
            user, client = self._clients[number % len(self._clients)]
            while time.perf_counter() < end:
                verb, body = question(user)
                await client.request(api_subject(user, verb), body, timeout=LATE)
                answered += 1

        start = time.perf_counter()
        await asyncio.gather(*map(one, range(outstanding)))
        return answered / (time.perf_counter() - start)

    async def _heard(self, message: Any) -> None:
        due = self._due.pop(message.subject, None)
        if due is None:
            return
        took = time.perf_counter() - due
        outcome = (message.headers or {}).get("Nats-Service-Error-Code", "ok")
        if took > LATE:
            self._load.unanswered += 1
        else:
            self._load.seconds.setdefault(outcome, []).append(took)
        if self._keep:
            self._load.bodies.append(message.data)


def processor(pid: int) -> float:
    """Seconds that a process has had, user and system. Source: proc(5), fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int, what: str = "VmRSS") -> int:
    """Bytes that a process has in memory; what: VmHWM for the most it ever had. Source: proc(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"process {pid} has no {what}")
