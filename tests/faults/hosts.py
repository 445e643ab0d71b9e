"""Two hosts on one machine: network namespaces with a link between them (root only)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).parent
RATE = "10mbit"
"""Of the link between the hosts: slow enough that a cut at 95 % of a transfer hits it."""
XFER = [sys.executable, "-P", "-m", "cli"]


def why_not() -> str | None:
    """Why namespaces cannot be made here, or None."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "needs the ip and tc commands (iproute2)"
    return None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """`near` holds the servers and the sender, `far` the receiver.

    The link between them carries what peers say to each other directly; the far host reaches the
    servers by forwarders of its own (`connect`), which stand for its way to the internet.
    """

    def __init__(self, name: str, net: str, env: Mapping[str, str], folder: Path) -> None:
        """net: the first three numbers of their network's addresses."""
        self.near, self.far, self.net = f"{name}n", f"{name}f", net
        self.env, self.folder = env, folder
        self._ports: list[int] = []
        self._forwarders: list[subprocess.Popen[str]] = []

    def run(self, host: str, *args: str | Path, **more: object) -> subprocess.Popen[str]:
        """Start `xfer ARGS` on that host; stdout and stderr are pipes unless said otherwise."""
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        process: subprocess.Popen[str] = subprocess.Popen(
            ["ip", "netns", "exec", host, *XFER, *map(str, args)],
            env=dict(self.env),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            text=True,
            **options,
        )
        return process

    def serve(self, *urls: str) -> None:
        """Make these servers of the near host reachable from the far one, under the same addresses."""
        for url in urls:
            port = urlsplit(url).port
            assert port is not None
            self._ports.append(port)
            self._forward(self.near, "out", str(self.folder / f"{port}.sock"), str(port))
        self.connect()

    def connect(self) -> None:
        """Give the far host its way to the servers (back)."""
        for port in self._ports:
            self._forward(self.far, "in", str(port), str(self.folder / f"{port}.sock"))

    def disconnect(self) -> None:
        """Take it away: connections break, new ones are refused."""
        for forwarder in [f for f in self._forwarders if "in" in f.args]:  # type: ignore[operator]
            forwarder.kill()
            forwarder.wait()
            self._forwarders.remove(forwarder)

    def cut(self) -> None:
        """The link between the two peers goes down."""
        _ip("-n", self.far, "link", "set", "peer", "down")

    def mend(self) -> None:
        _ip("-n", self.far, "link", "set", "peer", "up")

    def move(self) -> None:
        """The far host is on another network from now on: its address is gone, and it has a new one."""
        _ip("-n", self.far, "addr", "flush", "dev", "peer", "scope", "global")
        _ip("-n", self.far, "addr", "add", f"{self.net}.77/24", "dev", "peer")

    def close(self) -> None:
        for forwarder in self._forwarders:
            forwarder.kill()
            forwarder.wait()
        for host in (self.near, self.far):
            found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout
            for pid in found.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", host], capture_output=True)

    def _forward(self, host: str, way: str, first: str, second: str) -> None:
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, str(HERE / "forward.py"), way, first, second],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdout.close()
        self._forwarders.append(process)


@contextlib.contextmanager
def two_hosts(env: Mapping[str, str], folder: Path, *, ipv6: bool = False) -> Iterator[Hosts]:
    """A near and a far host with a link (10.79.x.0/24, or fd79:x::/64 and no IPv4) between them."""
    name = f"xf{os.getpid() % 100_000}"
    number = os.getpid() % 250
    net, bits, more = (f"fd79:{number}:", "64", ("nodad",)) if ipv6 else (f"10.79.{number}", "24", ())
    dot = ":" if ipv6 else "."
    hosts = Hosts(name, net, env, folder)
    try:
        for host in (hosts.near, hosts.far):
            _ip("netns", "add", host)
            _ip("-n", host, "link", "set", "lo", "up")
        _ip(
            "link",
            "add",
            "peer",
            "netns",
            hosts.near,
            "type",
            "veth",
            "peer",
            "name",
            "peer",
            "netns",
            hosts.far,
        )
        for host, end in ((hosts.near, 1), (hosts.far, 2)):
            _ip("-n", host, "addr", "add", f"{net}{dot}{end}/{bits}", "dev", "peer", *more)
            _ip("-n", host, "link", "set", "peer", "up")
            shape = [
                "tc",
                "-n",
                host,
                "qdisc",
                "add",
                "dev",
                "peer",
                "root",
                "tbf",
                "rate",
                RATE,
                "burst",
                "64kb",
            ]
            subprocess.run([*shape, "latency", "400ms"], check=True, capture_output=True)
        yield hosts
    finally:
        hosts.close()
