"""Network namespaces of our own, and a link between two of them with a rate, a delay, a queue and loss (`link.c`)."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("link.c")
CLIENT, SERVER, NETWORK = "10.78.0.1", "10.78.0.2", "10.78.0.0/24"
"""Addresses of the two ends; nobody else is in their namespaces."""
DEVICE = "link"
FRAME, PAYLOAD = 1538, 1448
"""Bytes on the wire of a full TCP segment over Ethernet, and what it carries: MTU 1500, TCP timestamps."""
_CLONE_NEWNET = 0x40000000
"""Source: Linux, sched.h."""


@dataclass(frozen=True)
class Shape:
    """A link. rate: bit/s on the wire; 0: none, it is the machine's loopback. rtt: seconds.

    loss, reorder, duplicate: per cent of the packets, each way. mtu: bytes of an IP packet.
    buffer: what waits at its head before the tail is dropped, in round trips of the rate.
    """

    name: str
    rate: float = 0.0
    rtt: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    mtu: int = 1500
    buffer: float = 1.0

    @property
    def payload(self) -> float:
        """Bytes of TCP payload that it can carry a second."""
        return self.rate / 8 * PAYLOAD / FRAME

    @property
    def queue(self) -> int:
        """Bytes that wait at its head before the tail is dropped."""
        return max(int(self.rate / 8 * self.rtt * self.buffer), 100 * FRAME)

    def __str__(self) -> str:
        if not self.rate:
            return self.name
        loss = f", {self.loss:.3g} % loss each way" if self.loss else ""
        reorder = f", {self.reorder:.3g} % out of order" if self.reorder else ""
        duplicate = f", {self.duplicate:.3g} % twice" if self.duplicate else ""
        mtu = f", MTU {self.mtu}" if self.mtu != 1500 else ""
        buffer = f", a queue of {self.buffer:.2g} round trips" if self.buffer != 1.0 else ""
        return f"{self.rate / 1e6:.4g} Mbit/s, {self.rtt * 1e3:.0f} ms{loss}{reorder}{duplicate}{mtu}{buffer}"


LOOPBACK = Shape("loopback")
SHAPES = {
    shape.name: shape
    for shape in (
        LOOPBACK,
        Shape("400", 400e6, 0.040),
        Shape("lossy", 400e6, 0.040, 1.0),
        Shape("50", 50e6, 0.080),
    )
}


def why_not() -> str | None:
    """Why there can be no namespaces and links here; None if there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid():
        return "only root makes network namespaces"
    for program in ("ip", "cc"):
        if shutil.which(program) is None:
            return f"there is no `{program}`"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    return None


@dataclass(frozen=True)
class Namespace:
    """A network namespace. name: as `ip netns` knows it; None: the one that we are in.

    by_route: the congestion control that its routes must ask for, where its default could not be set.
    """

    name: str | None = None
    by_route: str | None = None

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, the processes it starts and the sockets it opens are in there until the context ends."""
        if self.name is None:
            yield
            return
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(home)

    def route(self, network: str, device: str, *table: str) -> None:
        """Have a route ask for the congestion control, where that is needed."""
        if self.by_route and self.name:
            what = (*table, network, "dev", device, "congctl", self.by_route)
            _ip("-n", self.name, "route", "replace", *what)

    def sent(self) -> int:
        """Bytes that it has put on the link so far, IP headers included."""
        with self.inside():
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
                name, _, fields = line.partition(":")
                if name.strip() == DEVICE:
                    return int(fields.split()[8])
        return 0


@contextlib.contextmanager
def namespace(name: str, congestion: str) -> Iterator[Namespace]:
    """A fresh one with its loopback up, all TCP in it under that congestion control; gone when the context ends.

    Nothing is remembered of earlier connections (tcp_no_metrics_save), so that no tool inherits another's losses.
    A kernel lets a namespace's default be only what net.ipv4.tcp_allowed_congestion_control names; what it does
    not name can still be asked for by a route. That overrules what a program asks for before it connects, and
    not what it asks for once it is connected.
    """
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        made = Namespace(name)
        with made.inside():
            Path("/proc/sys/net/ipv4/tcp_no_metrics_save").write_text("1")
            try:
                Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(congestion)
            except PermissionError:
                made = Namespace(name, by_route=congestion)
                made.route("127.0.0.1", "lo", "table", "local", "local")
        yield made
    finally:
        _ip("netns", "del", name)


def machines_congestion() -> str:
    """What TCP here is under unless told otherwise."""
    try:
        return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    except OSError:
        return "default"


def congestions() -> list[str]:
    """Of TCP's two usual ones those that this kernel has."""
    try:
        known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    except OSError:
        return []
    return [name for name in ("cubic", "bbr") if name in known]


class Link:
    """A running link between two namespaces; `counters` are there after `close`."""

    def __init__(
        self, shape: Shape, client: Namespace, server: Namespace, program: Path, seed: int = 1
    ) -> None:
        """program: see `build`."""
        odds = (shape.loss * 1e4, shape.reorder * 1e4, shape.duplicate * 1e4)
        numbers = (shape.rate, shape.rtt / 2 * 1e6, shape.queue, *odds, seed)
        self.counters: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [program, client.path, server.path, *(str(int(number)) for number in numbers)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert self._process.stdout is not None
            if self._process.stdout.readline() != "ready\n":
                raise OSError("the link did not start")
            for end, address in ((client, CLIENT), (server, SERVER)):
                _ip("-n", str(end.name), "addr", "add", f"{address}/24", "dev", DEVICE)
                _ip(
                    "-n",
                    str(end.name),
                    "link",
                    "set",
                    "dev",
                    DEVICE,
                    "mtu",
                    str(shape.mtu),
                    "txqueuelen",
                    "20000",
                    "up",
                )
                end.route(NETWORK, DEVICE, "src", address)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._process.terminate()
        said, _ = self._process.communicate(timeout=10)
        with contextlib.suppress(ValueError):
            self.counters = json.loads(said)


def build(folder: Path) -> Path:
    """Compile the link into `folder`. Raises CalledProcessError."""
    program = folder / "link"
    subprocess.run(["cc", "-O2", "-o", program, SOURCE], check=True)
    return program


def _enter(namespace: int) -> None:
    """setns(2); Python has it only from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)
