"""Peers behind NATs: who can meet directly does, who cannot goes over a relay, and else the store takes over."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from behind_nat import (
    PASSWORD,
    PORT,
    SERVER,
    SILENT,
    USER,
    Kind,
    Private,
    Public,
    in_namespace,
    inside,
    ip,
    privates,
    why_not,
)
from helpers import MIB, Two

from tests.leaks import leaks_in
from transfer.events import RouteChosen
from transfer.transports.webrtc import DEADLINE

if TYPE_CHECKING:
    from tests.conftest import Servers

pytestmark = [pytest.mark.root, pytest.mark.long]
SIZE = 6 * MIB
STUN = ("--stun", f"stun:{SERVER}:{PORT}")
FEW = 20_000
"""Bytes that checks of addresses may cost, and a payload may not."""


@pytest.fixture(scope="session")
def public(
    tmp_path_factory: pytest.TempPathFactory,
    start_servers: Callable[..., Servers],
    stop_servers: Callable[[Servers], int],
) -> Iterator[Public]:
    """The worker's public network, with servers and a relay."""
    reason = why_not("turnserver")
    if reason:
        pytest.skip(reason)
    made = Public(tmp_path_factory.mktemp("public"))
    try:
        made.serve(start_servers, stop_servers)
        made.relay()
        yield made
    finally:
        made.close()


class Far(Two):
    """A sender and a receiver in namespaces of their own. Both use a saved context.

    a, b: the networks behind NATs. sender, receiver: namespaces. met: seconds from the start of the fetch until
    the sender had chosen its first route. took: until both had ended.
    """

    a: Private
    b: Private
    sender: str
    receiver: str
    met: float
    took: float

    def use(self, *options: object) -> None:
        """What the context says of STUN and TURN, on both sides."""
        for env in (self.here, self.there):
            nats = ("--nats-url", env["NATS_URL"], "--nats-creds", env["NATS_CREDS"])
            subprocess.run(
                [sys.executable, "-P", "-m", "cli", "context", "add", "far", *nats, *map(str, options)],
                env=env, cwd=self.tmp, check=True, capture_output=True,
            )  # fmt: skip
            env["XFER_CONTEXT"] = "far"

    def relayed(self, transport: str, password: str = PASSWORD) -> None:
        """`use` with the relay, and the STUN server."""
        (self.tmp / "password").write_text(password)
        url = f"turn:{SERVER}:{PORT}?transport={transport}"
        self.use(*STUN, "--turn", url, "--turn-user", USER, "--turn-password-file", self.tmp / "password")

    def cross(self, *options: object, size: int = SIZE, take: tuple[object, ...] = ()) -> list[RouteChosen]:
        """Send and fetch one file, with these options. The routes that the sender chose."""
        source = self.file("payload", size)
        sending = self.send(source, "--wait", "30s", *options, prefix=inside(self.sender))
        ticket = sending.ticket
        started = time.monotonic()
        fetching = self.fetch(ticket, *take, "--overwrite", prefix=inside(self.receiver))
        sending.event(RouteChosen)
        self.met = time.monotonic() - started
        assert fetching.summary.bytes == size
        assert sending.summary.bytes == size
        self.took = time.monotonic() - started
        assert (self.out / "payload").read_bytes() == source.read_bytes()
        return [event for event in sending.events if isinstance(event, RouteChosen)]


@pytest.fixture
def far(public: Public, tmp_path: Path) -> Iterator[Callable[[Kind], Far]]:
    """far(kind): the sender and the receiver each behind a NAT of that kind."""
    with contextlib.ExitStack() as stack:

        def make(kind: Kind) -> Far:
            a, b = stack.enter_context(privates(public, kind))
            (tmp_path / "out").mkdir()
            made = Far(
                tmp=tmp_path, here=a.environment(tmp_path / "home-a"), there=b.environment(tmp_path / "home-b"),
                out=tmp_path / "out", started=[],
            )  # fmt: skip
            made.a, made.b, made.sender, made.receiver = a, b, a.host, b.host
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def lan(far: Callable[[Kind], Far]) -> Far:
    """The sender and the receiver in one network, behind the same NAT."""
    made = far("cone")
    made.receiver = made.a.neighbour()
    return made


def direct(chosen: list[RouteChosen]) -> bool:
    return [event.route for event in chosen] == ["webrtc"]


# --- across NATs


@pytest.mark.parametrize("via", ["webrtc", "auto"])
def test_behind_cones_a_stun_server_is_enough_and_carries_no_payload(
    far: Callable[[Kind], Far], via: str
) -> None:
    pair = far("cone")
    pair.use(*STUN)
    assert direct(pair.cross("--via", via))
    sent = pair.a.counted()
    assert sent["direct"] > SIZE
    assert sent["relay_udp"] < 1000
    assert sent["relay_tcp"] == 0
    assert sent["servers"] < SIZE / 10
    assert sent["other"] < FEW, "checks of the other side's private address may leave, and no more"


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_behind_symmetric_nats_it_goes_through_the_relay(far: Callable[[Kind], Far], transport: str) -> None:
    pair = far("symmetric")
    pair.relayed(transport)
    assert direct(pair.cross("--via", "webrtc"))
    sent = pair.a.counted()
    assert sent[f"relay_{transport}"] > SIZE
    assert sent["direct"] < FEW
    assert sent["servers"] < SIZE / 10


def test_without_any_path_the_store_takes_over_soon(far: Callable[[Kind], Far]) -> None:
    """UDP from peer to peer gets nowhere between two symmetric NATs, and there is no relay."""
    pair = far("symmetric")
    pair.use(*STUN)
    (chosen,) = pair.cross("--fetches", "1")
    assert (chosen.route, chosen.reason) == ("s3", "no network path to the peer was found in time")
    assert pair.met < DEADLINE - 2, "it was not the deadline that ended the search"
    sent = pair.a.counted()
    assert sent["direct"] < FEW
    assert sent["servers"] > SIZE


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_the_password_of_the_relay_is_in_no_log_at_its_most_verbose(
    far: Callable[[Kind], Far], tmp_path: Path, right: bool
) -> None:
    """One that the relay refuses leads to the store."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import logging\nlogging.basicConfig(level=logging.DEBUG)\n"
    )
    pair = far("symmetric")
    password = PASSWORD if right else f"not-{PASSWORD}"
    pair.relayed("udp", password)
    for env in (pair.here, pair.there):
        env["PYTHONPATH"] = os.pathsep.join((str(tmp_path / "site"), env["PYTHONPATH"]))
        env["PYTHONASYNCIODEBUG"] = "1"
    assert direct(pair.cross("--fetches", "1", size=MIB)) == right
    for process in pair.started:
        said = process.stderr + process.stdout.decode()
        assert "aioice" in said, "the log is on"
        assert password not in said
        assert not leaks_in(process.stderr), "what urllib3 and botocore log is redacted too"
        assert "Traceback" not in said


# --- in one network


def test_on_a_lan_without_stun_nothing_but_the_servers_is_spoken_to_outside(lan: Far) -> None:
    lan.use()
    before = lan.a.counted()
    assert direct(lan.cross("--via", "webrtc"))
    sent = {name: count - before[name] for name, count in lan.a.counted().items()}
    assert sent.pop("servers") < SIZE / 10
    assert sent == {"relay_udp": 0, "relay_tcp": 0, "direct": 0, "other": 0, "router": 0}


@pytest.mark.parametrize("name", [False, True], ids=["address", "name"])
def test_a_silent_stun_server_delays_nothing(lan: Far, name: bool) -> None:
    """Neither servers that do not answer nor a resolver that does not know them; with several, on a host with few threads."""
    resolver = Path("/etc/netns")
    for host in (lan.sender, lan.receiver):
        (resolver / host).mkdir(parents=True)
        (resolver / host / "resolv.conf").write_text(f"nameserver {SILENT}\n")
    try:
        lan.use()
        assert direct(lan.cross("--via", "webrtc", size=MIB))
        met, took = lan.met, lan.took
        servers = [f"stun:stun{n}.example" if name else f"stun:{SILENT}:{PORT + n}" for n in range(12)]
        lan.use(*[word for server in servers for word in ("--stun", server)])
        assert direct(lan.cross("--via", "webrtc", size=MIB))
    finally:
        for host in (lan.sender, lan.receiver):
            shutil.rmtree(resolver / host)
        with contextlib.suppress(OSError):
            resolver.rmdir()
    assert lan.a.counted()["other"] > 0, "they were asked"
    assert lan.met < met + 2
    assert lan.took < took + 2


def test_only_the_chosen_interface_carries_the_payload(lan: Far) -> None:
    lan.use()
    ip(
        "link",
        "add",
        "eth1",
        "netns",
        lan.sender,
        "type",
        "veth",
        "peer",
        "name",
        "eth1",
        "netns",
        lan.receiver,
    )
    for number, host in enumerate((lan.sender, lan.receiver), 1):
        in_namespace(host, f"ip link set eth1 up; ip addr add 10.9.0.{number}/24 dev eth1")
    for number, choice in enumerate(("eth0", "10.9.0.1")):
        theirs = ("eth0", "eth1")[number]
        before = {name: crossed(lan.sender, name) for name in ("eth0", "eth1")}
        chosen = lan.cross("--via", "webrtc", "--interface", choice, take=("--interface", theirs))
        assert direct(chosen)
        sent = {name: crossed(lan.sender, name) - before[name] for name in before}
        assert sent[theirs] > SIZE
        assert sent[("eth1", "eth0")[number]] < SIZE / 10


def crossed(host: str, device: str) -> int:
    """Bytes that the host has sent over that device."""
    said = subprocess.run(
        [*inside(host), "cat", f"/sys/class/net/{device}/statistics/tx_bytes"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(said.stdout)
