"""The stage that a scenario plays on: servers of its own that may be broken, and wires to them for both sides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
from wires import Wire, Wires

from transfer.local.children import stamp
from transfer.local.probe import broker_answers

if TYPE_CHECKING:
    from tests.conftest import Servers

SIDES = ("sender", "receiver")
SERVERS = ("nats", "store", "broker")
SWEEPS = {"XFER_SWEEP_EVERY": "1"}
"""Seconds between two sweeps of the broker, so that a test can wait for one."""

ANSWERS_WITHIN, GONE_WITHIN = 60.0, 40.0


class Stage:
    """servers: an `xfer up` that is on, or was until a moment ago. wires: side and server (nats, store) to the wire there."""

    def __init__(
        self, base: Path, start: Callable[..., Servers], stop: Callable[[Servers], int], **env: str
    ) -> None:
        self.base = base
        self._start, self._stop = start, stop
        self._env = {**SWEEPS, **env}
        self.servers = self._start(base / "home", base / "data", **self._env)
        self._wires = Wires()
        self.wires: dict[tuple[str, str], Wire] = {
            (side, server): self._wires.to(self._port(server)) for side in SIDES for server in ("nats", "store")
        }  # fmt: skip
        self.hurt = False
        self._leaving = False

    @property
    def running(self) -> bool:
        """Not if it is on its way down."""
        return not self._leaving and not self.gone

    @property
    def gone(self) -> bool:
        return self.servers.process.poll() is not None

    def up(self) -> None:
        """`xfer up` again on the same folder, once the last one is gone; blocks until it serves."""
        self.servers.process.wait(GONE_WITHIN)
        self._leaving = False
        if self.servers.process.stdout is not None:
            self.servers.process.stdout.close()
        self.servers = self._start(self.base / "home", self.base / "data", **self._env)
        for (_, server), wire in self.wires.items():
            wire.target = self._port(server)

    def refreshed(self) -> None:
        """Everything whole again; a supervisor whose children died waits longer from time to time, so it starts anew."""
        self.mend()
        if self.hurt:
            if self.running:
                self._stop(self.servers)
            self.up()
        self.hurt = False

    def answering(self) -> None:
        """Everything whole and, at once or once the supervisor has mended it, with an answer."""
        self.mend()
        if not self.running:
            self.up()
        asking = broker_answers(self.servers.nats_url, self.servers.creds, "local")
        asyncio.run(asyncio.wait_for(asking, ANSWERS_WITHIN))

    def mend(self) -> None:
        for wire in self.wires.values():
            wire.rate = wire.tap = None
            wire.mend()
        if self.running:
            for name in SERVERS:
                self.signal(name, signal.SIGCONT)

    def signal(self, name: str, signum: signal.Signals) -> bool:
        """To a server, or to `xfer up` itself. False if it is not there just now."""
        self.hurt = self.hurt or signum is not signal.SIGCONT
        if name == "up":
            there = self.running
            if there:
                self.servers.process.send_signal(signum)
                self._leaving = signum is not signal.SIGCONT
            return there
        with contextlib.suppress(FileNotFoundError, KeyError, msgspec.DecodeError, ProcessLookupError):
            child = msgspec.json.decode((self.servers.dir / "children.json").read_bytes())[name]
            if child["stamp"] and stamp(child["pid"]) == child["stamp"]:
                os.kill(child["pid"], signum)
                return True
        return False

    def environment(self, side: str, home: Path, **more: str) -> dict[str, str]:
        """For commands of that side."""
        return {
            **self.servers.env,
            "NATS_URL": f"nats://{self.wires[side, 'nats'].url}",
            "NATS_CREDS": str(self.servers.creds),
            "XFER_USER": "local",
            "XFER_HOME": str(home),
            "http_proxy": f"http://{self.wires[side, 'store'].url}",
            **more,
        }

    def log(self, name: str) -> str:
        return (self.servers.dir / "logs" / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        try:
            self.mend()
            if not self.gone:
                self._stop(self.servers)
        finally:
            self._wires.close()
            if self.servers.process.stdout is not None:
                self.servers.process.stdout.close()
            shutil.rmtree(self.base, ignore_errors=True)

    def _port(self, server: str) -> int:
        port = urlsplit(self.servers.nats_url if server == "nats" else self.servers.s3_endpoint).port
        assert port is not None
        return port


def pids_with(mark: str) -> list[str]:
    """Command lines of running processes that have that text in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found
