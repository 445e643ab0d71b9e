"""NATS, a store and as many brokers as are asked for, on loopback; brokers come and go."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from transfer.local import credentials, probe
from transfer.local.folder import write_private

from .callers import memory
from .link import Namespace
from .servers import LOCALHOST, Servers


class Brokers(Servers):
    """users: names and seed files of clients, besides those that all servers have."""

    def __init__(self, folder: Path, users: int, rules: str) -> None:
        """rules: of the brokers, TOML."""
        self._wanted, self._rules, self._metrics = users, rules, 0
        self.users: list[tuple[str, Path]] = []
        self.brokers: list[subprocess.Popen[bytes]] = []
        super().__init__(folder, Namespace(), LOCALHOST)
        self.brokers = self._processes[2:]

    def add(self, *, metrics: int = 0) -> subprocess.Popen[bytes]:
        """One more broker. metrics: its port, which no other may have; 0: none."""
        self._run("broker", self._broker_argv, self._broker_env | {"XFER_METRICS": str(metrics)})
        self.brokers.append(self._processes[-1])
        return self.brokers[-1]

    def end(self, broker: subprocess.Popen[bytes]) -> None:
        broker.terminate()
        broker.wait(20)
        self.brokers.remove(broker)
        self._processes.remove(broker)

    def restart(self, *, metrics: bool = False) -> float:
        """End all brokers, start one. Returns seconds from its start to its first answer."""
        self._metrics = free_port() if metrics else 0
        for broker in list(self.brokers):
            self.end(broker)
        start = time.perf_counter()
        self.add(metrics=self._metrics)
        self.until_answers()
        return time.perf_counter() - start

    def restart_memory(self) -> int:
        """The most bytes that a broker which has just started has had."""
        self.restart()
        return memory(self.brokers[0].pid, "VmHWM")

    def sweep_took(self) -> float:
        """Seconds of the only broker's first pass over the jobs, as its metrics say; start it with `metrics`."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=10) as answer:
                found = re.search(r'duration_seconds\{what="jobs"\} (\S+)', answer.read().decode())
            if found:
                return float(found[1])
            time.sleep(0.2)
        return float("inf")

    @property
    def nats_pid(self) -> int:
        return self._processes[0].pid

    def until_answers(self) -> None:
        user, seed = self.users[0]
        asyncio.run(asyncio.wait_for(probe.broker_answers(self.nats_url, seed, user), 30))

    def _start(self) -> None:
        write_private(self.folder.rules, self._rules.encode())
        for number in range(self._wanted):
            user = f"user{number}"
            credentials.new_key(self.folder, user)
            self.users.append((user, self.folder.seed(user)))
        super()._start()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


def pids(brokers: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    return [broker.pid for broker in brokers]
