"""Whole commands from peer to peer, all started cold: `xfer send` and `xfer fetch`, and the tools beside them.

magic-wormhole has a mailbox server of its own here, croc a relay; without one of its own at each end, which its
senders open by default, because on one machine that takes the relay's ports. The relay is beside the sender, so that
everything crosses the link once, and the sender is there before its receiver.
"""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from . import stream
from .link import CLIENT, SERVER, Link, Namespace, Shape, namespace
from .measure import Ran, Running
from .servers import LOCALHOST, XFER, Servers, clean_environment

ENVIRONMENT = Path("bench-results/.peers-webrtc")
"""Made by scripts/bench from webrtc.peers.txt and webrtc.peers.go.mod."""
OURS, WORMHOLE, CROC = "xfer", "magic-wormhole", "croc"
PROGRAMS = {WORMHOLE: "wormhole", CROC: "croc"}
CROC_PORTS = 5
"""One for the talk and, as it comes, four for the data."""
STARTS_WITHIN = 20.0


def program(tool: str) -> Path:
    return ENVIRONMENT.absolute() / "bin" / PROGRAMS[tool]


def why_not(tool: str) -> str | None:
    """Why that tool cannot be measured; None if it can."""
    if tool == OURS or program(tool).exists():
        return None
    needs = " (it is built with go)" if tool == CROC else ""
    return f"{tool} is not installed in {ENVIRONMENT}{needs}"


def version(tool: str) -> str:
    """As it says, in a line."""
    command = [str(XFER if tool == OURS else program(tool)), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment())
    return (said.stdout.strip() or said.stderr.strip()).splitlines()[-1]


class Place:
    """Two ends with a link between them, and at the far one the servers that the tools need. folder: for all they keep."""

    def __init__(
        self,
        near: Namespace,
        far: Namespace,
        hosts: tuple[str, str],
        folder: Path,
        tools: Collection[str] = (),
    ) -> None:
        """hosts: addresses of the two. tools: besides ours."""
        self.near, self.far, self.folder = near, far, folder
        self._near_host, self._far_host = hosts
        self._count = itertools.count(1)
        self._stack = contextlib.ExitStack()
        try:
            self._servers = self._stack.enter_context(
                contextlib.closing(Servers(folder / "servers", far, self._far_host))
            )
            self._mailbox = self._start_mailbox() if WORMHOLE in tools else ""
            self._croc = self._start_croc() if CROC in tools else ""
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def run(self, tool: str, file: Path, within: float) -> float:
        """Seconds from starting the first of its two ends until both have ended. Raises OSError."""
        return {OURS: self._xfer, WORMHOLE: self._wormhole, CROC: self._run_croc}[tool](file, within)

    def send(self, file: Path, *options: str, home: str = "home-send", **env: str) -> Running:
        """A sender of ours whose state is in that folder. env: more of its environment."""
        argv = [str(XFER), "send", "--json", *options, str(file)]
        return Running(argv, self.environment(home) | env, self.near)

    def fetch(self, ticket: str, target: Path, *, home: str = "home-fetch", **env: str) -> Running:
        argv = [str(XFER), "fetch", "--json", ticket, "-o", f"{target}{os.sep}"]
        return Running(argv, self.environment(home) | env, self.far)

    def environment(self, home: str) -> dict[str, str]:
        """For a command of ours whose state is in that folder."""
        return self._servers.client_environment(self.folder / home)

    def target(self) -> Path:
        """An empty folder; what an earlier run left there is gone."""
        target = self.folder / "target"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return target

    def turn(self) -> int:
        """Another number each time."""
        return next(self._count)

    def _xfer(self, file: Path, within: float) -> float:
        """The fetch starts when the ticket is shown."""
        target = self.target()
        with killed(self.send(file, "--via", "webrtc")) as sending:
            ticket = sending.event("ticket", STARTS_WITHIN)["ticket"]
            ends = [self.fetch(ticket, target).end(within), sending.end(within)]
        return _whole(ends, sending.started, file, target)

    def _wormhole(self, file: Path, within: float) -> float:
        """Both start at once, with a code that both know."""
        target = self.target()
        common = [str(program(WORMHOLE)), "--relay-url", self._mailbox, "--transit-helper", ""]
        code = f"{self.turn()}-bench-mark"
        env = {**clean_environment(), "PYTHONWARNINGS": "ignore"}
        send = [*common, "send", "--hide-progress", "--no-qr", "--code", code, str(file)]
        receive = [
            *common,
            "receive",
            "--hide-progress",
            "--accept-file",
            "-o",
            str(target / file.name),
            code,
        ]
        with killed(Running(send, env, self.near)) as sending:
            ends = [Running(receive, env, self.far).end(within), sending.end(within)]
        return _whole(ends, sending.started, file, target)

    def _run_croc(self, file: Path, within: float) -> float:
        """The receiver starts when the sender has shown the code: the relay takes who comes first for the sender."""
        target = self.target()
        code = f"{self.turn():04}-bench-mark"
        common = [str(program(CROC)), "--yes", "--ignore-stdin", "--relay", self._croc]
        env = {**clean_environment(), "CROC_CONFIG_DIR": str(self.folder), "CROC_SECRET": code}
        send = [*common, "send", "--no-local", "--code", code, str(file)]
        with killed(Running(send, env, self.near)) as sending:
            sending.says("Code is:", STARTS_WITHIN)
            receiving = Running([*common, "--overwrite", "--out", str(target)], env, self.far)
            ends = [receiving.end(within), sending.end(within)]
        return _whole(ends, sending.started, file, target)

    def _start_mailbox(self) -> str:
        """Its URL, once it listens."""
        host = self._far_host
        (port,) = _free(1, self.far, host)
        server = [
            str(ENVIRONMENT.absolute() / "bin" / "twist"),
            "wormhole-mailbox",
            "--port",
            f"tcp:{port}:interface={host}",
            "--channel-db",
            str(self.folder.absolute() / "mailbox.sqlite"),
        ]
        self._serve("the mailbox server", server, self.far, (host, port))
        return f"ws://{host}:{port}/v1"

    def _start_croc(self) -> str:
        """The address of its relay, once it listens."""
        host = self._near_host
        ports = _free(CROC_PORTS, self.near, host)
        relay = [str(program(CROC)), "relay", "--host", host, "--ports", ",".join(map(str, ports))]
        self._serve("croc's relay", relay, self.near, (host, ports[0]))
        return f"{host}:{ports[0]}"

    def _serve(self, name: str, argv: list[str], where: Namespace, address: tuple[str, int]) -> None:
        """Runs until `close`; returns once it listens. Raises OSError."""
        log = self._stack.enter_context((self.folder / f"{Path(argv[0]).name}.log").open("wb"))
        with where.inside():
            server = subprocess.Popen(
                argv,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**clean_environment(), "CROC_CONFIG_DIR": str(self.folder.absolute())},
            )

            def end() -> None:
                server.terminate()
                server.wait(10)

            self._stack.callback(end)
            deadline = time.monotonic() + STARTS_WITHIN
            while server.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(address, 1):
                    return
                time.sleep(0.1)
        raise OSError(f"{name} did not start")


@contextlib.contextmanager
def place(
    shape: Shape,
    folder: Path,
    link: Path | None,
    tools: Collection[str] = (),
    congestion: str = "cubic",
) -> Iterator[Place]:
    """link: the program, for a shape with a rate. tools: besides ours. congestion: of all TCP on a link."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        near = far = Namespace()
        hosts = (LOCALHOST, LOCALHOST)
        if shape.rate:
            assert link is not None
            name = f"xfer-direct-{os.getpid()}"
            near = stack.enter_context(namespace(f"{name}-a", congestion))
            far = stack.enter_context(namespace(f"{name}-b", congestion))
            stack.enter_context(contextlib.closing(Link(shape, near, far, link)))
            hosts = (CLIENT, SERVER)
            if (used := stream.congestion(near, far, SERVER)) != congestion:
                raise OSError(f"TCP is under {used} and not under {congestion}")
        yield stack.enter_context(contextlib.closing(Place(near, far, hosts, folder, tools)))


def _free(count: int, where: Namespace, host: str) -> list[int]:
    """Ports."""
    with where.inside(), contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server((host, 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in free]


@contextlib.contextmanager
def killed(running: Running) -> Iterator[Running]:
    """Ended with the context if it did not end by itself."""
    try:
        yield running
    finally:
        running.kill()


def alike(file: Path, target: Path) -> None:
    """Raises OSError."""
    if not filecmp.cmp(file, target / file.name, shallow=False):
        raise OSError("what arrived differs")


def good(ran: Ran) -> Ran:
    """Raises OSError with its failure."""
    if ran.failure:
        raise OSError(ran.failure)
    return ran


def _whole(ends: list[Ran], started: float, file: Path, target: Path) -> float:
    ended = time.perf_counter()
    for end in ends:
        good(end)
    alike(file, target)
    return ended - started
