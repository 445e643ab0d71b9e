"""Two private networks, each behind a NAT of its own, and a public one with the servers and a relay (root only).

All in network namespaces; the kernel's nftables translate and count. The private hosts reach NATS and the
store over the same NATs, at the public host's address.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from scripts.benchmarks.rig.link import Namespace

if TYPE_CHECKING:
    from tests.conftest import Servers

SERVER, SILENT = "203.0.113.1", "203.0.113.99"
"""The public host; and an address where nothing answers, and nothing says so either."""
PORT, USER, PASSWORD = 3478, "ann", "hunter2-of-the-relay"
OF_NAT = {"a": "203.0.113.11", "b": "203.0.113.12"}
Kind = Literal["cone", "symmetric"]
_MASQUERADE = {"cone": "masquerade", "symmetric": "masquerade fully-random"}
"""Linux keeps the source port where it can, for every destination; fully-random draws one for each destination."""
_numbers = itertools.count()


def why_not(*programs: str) -> str | None:
    """Why this cannot be made here; None if it can. programs: what a test needs beside ip and nft."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid():
        return "only root makes network namespaces"
    for program in ("ip", "nft", *programs):
        if shutil.which(program) is None:
            return f"there is no `{program}`"
    name = f"xn{os.getpid()}-probe"
    ip("netns", "add", name)
    try:
        tried = subprocess.run(
            ["ip", "netns", "exec", name, "nft", "-f", "-"],
            input=_nat("cone", (4222, 8333)),
            capture_output=True,
            text=True,
        )
        return f"this kernel has no NAT: {tried.stderr.strip()}" if tried.returncode else None
    finally:
        ip("netns", "del", name)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def _nat(kind: Kind, servers: tuple[int, int]) -> str:
    """What a home router does: what comes unasked is dropped, not refused. Counters say where packets went.

    servers: ports of NATS and of the store.
    """
    return f"""
    table ip nat {{
      chain out {{
        type nat hook postrouting priority srcnat;
        oifname "wan" {_MASQUERADE[kind]}
      }}
    }}
    table ip filter {{
      counter servers {{
      }}
      counter relay_udp {{
      }}
      counter relay_tcp {{
      }}
      counter direct {{
      }}
      counter other {{
      }}
      counter router {{
      }}
      chain in {{
        type filter hook input priority filter; policy drop;
        iifname "lan" counter name router
      }}
      chain through {{
        type filter hook forward priority filter; policy accept;
        iifname "wan" ct state new drop
        oifname != "wan" accept
        ip daddr {SERVER} meta l4proto udp counter name relay_udp accept
        ip daddr {SERVER} tcp dport {PORT} counter name relay_tcp accept
        ip daddr {SERVER} tcp dport {{ {", ".join(map(str, servers))} }} counter name servers accept
        ip daddr {{ {", ".join(OF_NAT.values())} }} counter name direct accept
        counter name other
      }}
    }}
    """


class Public:
    """The public network, with `xfer up` and coturn on one host; `public.servers` after `serve`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"xn{os.getpid()}-{next(_numbers)}"
        self.namespace = Namespace(f"{self.name}p")
        self._relay: subprocess.Popen[bytes] | None = None
        self._stop: Callable[[], object] = lambda: None
        ip("netns", "add", str(self.namespace.name))
        try:
            self.run(
                "ip link set lo up; ip link add net type bridge; ip link set net up; "
                # What goes to private addresses is lost on its way; coturn ends an allocation if there is no way.
                f"ip addr add {SERVER}/24 dev net; ip route add default via {SILENT}; "
                "sysctl -qw net.ipv4.conf.all.route_localnet=1"
            )
        except BaseException:
            self.close()
            raise

    def run(self, script: str) -> None:
        in_namespace(str(self.namespace.name), script)

    def serve(self, start: Callable[..., Servers], stop: Callable[[Servers], int]) -> None:
        """The servers listen on loopback, as ever; what comes for them to the public address is led there."""
        with self.namespace.inside():
            self.servers = start(self.folder / "home", self.folder / "data")
        self._stop = lambda: stop(self.servers)
        nats, store = self.ports
        nft(
            str(self.namespace.name),
            f"""
            table ip nat {{
              chain in {{
                type nat hook prerouting priority dstnat;
                ip daddr {SERVER} tcp dport {{ {nats}, {store} }} dnat to 127.0.0.1
              }}
            }}
            """,
        )

    @property
    def ports(self) -> tuple[int, int]:
        """Of NATS and of the store."""
        nats, store = urlsplit(self.servers.nats_url).port, urlsplit(self.servers.s3_endpoint).port
        assert nats is not None
        assert store is not None
        return nats, store

    def relay(self) -> None:
        """coturn, for STUN and TURN over UDP and TCP."""
        work = self.folder / "coturn"
        work.mkdir()
        with self.namespace.inside(), open(work / "log", "wb") as log:
            self._relay = subprocess.Popen(
                [
                    "turnserver", "-n", "-L", SERVER, "-E", SERVER, "-p", str(PORT), "-a", "-u", f"{USER}:{PASSWORD}",
                    "-r", "xfer.test", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout", "--pidfile", "pid",
                    "--userdb", "db",
                ],
                cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while not self._listens():
            assert self._relay.poll() is None, (work / "log").read_text()
            assert time.monotonic() < deadline, (work / "log").read_text()
            time.sleep(0.05)

    def _listens(self) -> bool:
        with self.namespace.inside():
            return f":{PORT:04X} 00000000:0000 0A" in Path("/proc/thread-self/net/tcp").read_text()

    def close(self) -> None:
        try:
            if self._relay is not None:
                self._relay.kill()
                self._relay.wait()
            self._stop()
        finally:
            forget(str(self.namespace.name))


class Private:
    """A private network with a host, `10.<n>.0.2`, behind a router with a NAT. side: `a` or `b`."""

    def __init__(self, public: Public, side: str, kind: Kind) -> None:
        self.public = public
        number = next(_numbers)
        name = f"xn{os.getpid()}-{number}"
        self.host, self.router = f"{name}h", f"{name}r"
        self.net = f"10.{1 + (side == 'b')}.0"
        self._hosts = [self.host]
        try:
            self._build(f"to-{number}", side, kind)
        except BaseException:
            self.close()
            raise

    def _build(self, port: str, side: str, kind: Kind) -> None:
        for namespace in (self.host, self.router):
            ip("netns", "add", namespace)
            in_namespace(namespace, "ip link set lo up")
        outside = str(self.public.namespace.name)
        ip("link", "add", "wan", "netns", self.router, "type", "veth", "peer", "name", port, "netns", outside)
        self.public.run(f"ip link set {port} master net up")
        in_namespace(
            self.router,
            f"ip link set wan up; ip addr add {OF_NAT[side]}/24 dev wan; ip link add lan type bridge; "
            f"ip link set lan up; ip addr add {self.net}.1/24 dev lan; sysctl -qw net.ipv4.ip_forward=1",
        )
        self._join(self.host)
        nft(self.router, _nat(kind, self.public.ports))

    def neighbour(self) -> str:
        """One more host in this network: its namespace."""
        name = f"{self.host}{len(self._hosts)}"
        ip("netns", "add", name)
        self._hosts.append(name)
        in_namespace(name, "ip link set lo up")
        self._join(name)
        return name

    def _join(self, host: str) -> None:
        number = len(self._hosts) + 1
        port = f"lan{number}"
        ip("link", "add", "eth0", "netns", host, "type", "veth", "peer", "name", port, "netns", self.router)
        in_namespace(self.router, f"ip link set {port} master lan up")
        in_namespace(
            host,
            f"ip link set eth0 up; ip addr add {self.net}.{number}/24 dev eth0; ip route add default via {self.net}.1",
        )

    def counted(self) -> dict[str, int]:
        """Bytes that hosts here have sent out so far, by where to."""
        said = subprocess.run(
            ["ip", "netns", "exec", self.router, "nft", "-j", "list", "counters"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        found = [item["counter"] for item in json.loads(said)["nftables"] if "counter" in item]
        return {counter["name"]: counter["bytes"] for counter in found}

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """For commands here, with the servers at their public address."""
        nats, store = self.public.ports
        return {
            **self.public.servers.env,
            "NATS_URL": f"nats://{SERVER}:{nats}",
            "NATS_CREDS": str(self.public.servers.creds),
            "XFER_USER": "local",
            "XFER_HOME": str(home),
            "http_proxy": f"http://{SERVER}:{store}",
            **more,
        }

    def close(self) -> None:
        for namespace in (*self._hosts, self.router):
            forget(namespace)


def inside(namespace: str) -> tuple[str, ...]:
    """What a command is to begin with in order to run there."""
    return ("ip", "netns", "exec", namespace)


def in_namespace(name: str, script: str) -> None:
    subprocess.run([*inside(name), "sh", "-ec", script], check=True, capture_output=True, text=True)


def nft(name: str, rules: str) -> None:
    subprocess.run([*inside(name), "nft", "-f", "-"], input=rules, check=True, capture_output=True, text=True)


def forget(namespace: str) -> None:
    """End what runs in it, and remove it."""
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout
    for pid in found.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


@contextlib.contextmanager
def privates(public: Public, kind: Kind) -> Iterator[tuple[Private, Private]]:
    """Both sides, with NATs of that kind."""
    with contextlib.ExitStack() as stack:
        made = []
        for side in ("a", "b"):
            made.append(Private(public, side, kind))
            stack.callback(made[-1].close)
        yield made[0], made[1]
