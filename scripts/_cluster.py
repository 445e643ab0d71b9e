"""A clustered bus on loopback, and a transfer across it: what scripts/cluster shows, and what the chaos tests break.

leaf-a ── core-0 ── leaf-b        each leaf: one broker, one client; no JetStream of its own
    └──── core-1 ────┘            the core: three servers, JetStream on three replicas
    └──── core-2 ────┘            beside it: one S3 store
"""

from __future__ import annotations

import asyncio
import contextlib
import filecmp
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer.broker.streams import EVENTS
from transfer.local import credentials, ports, probe, store
from transfer.local.folder import Folder, write_private
from transfer.local.programs import find
from transfer.permissions import BROKER
from transfer.permissions import permissions as permissions_of

CORES = ("core-0", "core-1", "core-2")
LEAVES = ("leaf-a", "leaf-b")
BROKERS = {"broker-a": "leaf-a", "broker-b": "leaf-b"}
CLIENTS = {"ann": "leaf-a", "bob": "leaf-b"}
DOMAIN = "core"
READY_WITHIN = 60.0
"""Seconds in which a busy machine has all of it up."""
STOPPED_WITHIN = 20.0
XFER = (sys.executable, "-P", "-m", "cli")


class Failed(Exception):
    """It did not come up, or did not do what it shows."""


class Cluster:
    """Everything lives in one folder and one table of processes; `close` ends both, by process id."""

    def __init__(self, folder: Path) -> None:
        self.folder = Folder.at(folder)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._undo = contextlib.ExitStack()
        self.folder.make()
        (self.folder.root / "aws").mkdir(exist_ok=True)
        self._store_ports = self._undo.enter_context(ports.claimed(self.folder.ports))
        block = self._undo.enter_context(ports.claimed(self.folder.root / "nats-ports.json"))
        numbers = iter(block.all())
        self._ports = {name: next(numbers) for name in (*CORES, *LEAVES)}
        self._routes = {name: next(numbers) for name in CORES}
        self._leaf_ports = {name: next(numbers) for name in CORES}
        for user in CLIENTS:
            credentials.new_key(self.folder, user)
        self._users = credentials.ensure(self.folder)
        self._password = secrets.token_hex(16)
        rules = 'admins = ["ann"]\n'
        write_private(self.folder.rules, rules.encode())

    # --- what runs

    def up(self) -> None:
        """Start it all and wait until it answers from both leaves. Raises Failed."""
        for name in (*CORES, "store", *LEAVES, *BROKERS):
            self.start(name)
        asyncio.run(self.answers())

    def start(self, name: str) -> None:
        """Start one of them, perhaps again."""
        log = os.open(self.folder.root / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.processes[name] = subprocess.Popen(
                self._argv(name),
                cwd=None if name in BROKERS else self.folder.root,
                env=self._broker_env(name) if name in BROKERS else _environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for us; we stop them in order
            )
        finally:
            os.close(log)

    def kill(self, name: str) -> None:
        """SIGKILL, and wait for its end."""
        self.processes[name].kill()
        self.processes[name].wait()

    def close(self) -> None:
        """Stop what still runs; the brokers first, while what they talk to is there."""
        brokers = [process for name, process in self.processes.items() if name in BROKERS]
        for some in (brokers, [p for p in self.processes.values() if p not in brokers]):
            for process in some:
                process.terminate()
            for process in some:
                try:
                    process.wait(STOPPED_WITHIN)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        store.sweep_sockets(self.folder, self._store_ports)
        self._undo.close()

    async def answers(self) -> None:
        """Wait until both clients are answered, from both leaves, with store and bus in order. Raises Failed."""
        try:
            async with asyncio.timeout(READY_WITHIN):
                await probe.store_answers("127.0.0.1", self._store_ports.s3)
                for user, leaf in CLIENTS.items():
                    seed = self.folder.seed(user)
                    await probe.nats_answers("127.0.0.1", self._ports[leaf])
                    await probe.broker_answers(self.url(leaf), seed, user)
        except TimeoutError:
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            logs = self.folder.root
            raise Failed(
                f"not up within {READY_WITHIN:g} s (ended: {ended}); see the logs in {logs}"
            ) from None

    async def replicas(self) -> dict[str, int]:
        """Of each stream, on how many servers it is."""
        from transfer import bus

        seed = self.folder.seed(BROKER)
        client = await bus.connect(self.url("core-0"), seed, BROKER, "cluster")
        try:
            streams = await client.jetstream().streams_info()
            return {str(s.config.name): s.config.num_replicas or 1 for s in streams}
        finally:
            await client.close()

    # --- where it is

    def url(self, *names: str) -> str:
        """Of these servers, for NATS_URL."""
        return ",".join(f"nats://127.0.0.1:{self._ports[name]}" for name in names)

    @property
    def s3_endpoint(self) -> str:
        return store.endpoint(self._store_ports)

    def client_env(self, user: str, home: Path, *names: str) -> dict[str, str]:
        """For commands of `user`, whose state is in `home`. names: servers; its leaf unless told otherwise."""
        return {
            **_environment(),
            "XFER_HOME": str(home),
            "XFER_USER": user,
            "NATS_URL": self.url(*(names or (CLIENTS[user],))),
            "NATS_CREDS": str(self.folder.seed(user)),
        }

    # --- how it is configured

    def _argv(self, name: str) -> list[str]:
        if name in BROKERS:
            return [sys.executable, "-P", "-m", "transfer.broker"]
        if name == "store":
            return store.argv(self.folder, self._store_ports)
        config = self._core(name) if name in CORES else self._leaf(name)
        path = self.folder.root / f"{name}.conf"
        write_private(path, json.dumps(config, indent=1).encode())
        return [find("nats-server"), "-c", path.name]

    def _server(self, name: str) -> dict[str, object]:
        users = [{"nkey": public, "permissions": _permissions(user)} for user, public in self._users.items()]
        return {
            "server_name": name,
            "listen": f"127.0.0.1:{self._ports[name]}",
            "max_payload": 1 << 20,
            "authorization": {"users": users},
        }

    def _core(self, name: str) -> dict[str, object]:
        routes = [f"nats-route://server:{self._password}@127.0.0.1:{port}" for port in self._routes.values()]
        ours = {"user": "server", "password": self._password}
        return {
            **self._server(name),
            "jetstream": {"store_dir": name, "domain": DOMAIN},
            "cluster": {
                "name": "core",
                "listen": f"127.0.0.1:{self._routes[name]}",
                "authorization": ours,
                "routes": routes,
            },
            "leafnodes": {"listen": f"127.0.0.1:{self._leaf_ports[name]}", "authorization": ours},
        }

    def _leaf(self, name: str) -> dict[str, object]:
        """Without JetStream of its own. A server lets neither `$JS.API` nor `$KV` cross to another JetStream domain, and
        calls these two different; what is said here to either is therefore mapped to the core's by its name."""
        urls = [f"nats-leaf://server:{self._password}@127.0.0.1:{p}" for p in self._leaf_ports.values()]
        return {
            **self._server(name),
            "leafnodes": {"remotes": [{"urls": urls}]},
            "mappings": {"$JS.API.>": f"$JS.{DOMAIN}.API.>", "$KV.>": f"$JS.{DOMAIN}.API.$KV.>"},
        }

    def _broker_env(self, name: str) -> dict[str, str]:
        return {
            **_environment(),
            "NATS_URL": self.url(BROKERS[name]),
            "NATS_CREDS": str(self.folder.seed(BROKER)),
            "XFER_REPLICAS": "3",
            "XFER_SWEEP_EVERY": "2",
            "XFER_RULES": str(self.folder.rules),
            "XFER_S3_ENDPOINT": self.s3_endpoint,
            "XFER_BUCKET": store.BUCKET,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder.aws_credentials),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def _permissions(user: str) -> dict[str, Any]:
    """Those of `xfer up`, and for the broker what a leaf makes of its subjects, since mapped ones are what is looked at."""
    permissions: dict[str, Any] = permissions_of(user)
    if user == BROKER:
        permissions["publish"]["allow"].append(f"$JS.{DOMAIN}.API.>")
    return permissions


def _environment() -> dict[str, str]:
    """Ours without what would lead elsewhere."""
    strangers = ("XFER_", "NATS_", "AWS_", "WEED_")
    return {k: v for k, v in os.environ.items() if not k.startswith(strangers)}


def cross(cluster: Cluster, source: Path, via: str, sender: str, receiver: str) -> str:
    """Send `source` from one leaf to the other, compare. Returns the line to show. Raises Failed."""
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(dir=cluster.folder.root))
    send = _run(cluster.client_env(sender, work / "home-here"), "send", "--json", "--via", via, source)
    try:
        assert send.stdout is not None
        ticket = next(said["ticket"] for said in map(json.loads, send.stdout) if said["event"] == "ticket")
        fetch = _run(
            {**cluster.client_env(receiver, work / "home-there"), "XFER_TICKET": ticket},
            "fetch",
            "--json",
            "-o",
            f"{work / 'out'}{os.sep}",
        )
        said = fetch.communicate(timeout=READY_WITHIN)[0]
        if fetch.returncode or send.wait(READY_WITHIN):
            raise Failed(f"the transfer ended with {send.returncode} and {fetch.returncode}")
    finally:
        send.kill()
        send.communicate()
    if not filecmp.cmp(source, work / "out" / source.name, shallow=False):
        raise Failed("the bytes differ")
    route = json.loads(said.splitlines()[-1])["route"]
    took = time.monotonic() - started
    path = f"{CLIENTS[sender]} → core → {CLIENTS[receiver]}"
    return f"{sender} to {receiver}, {path}: {source.stat().st_size:,} bytes by {route} in {took:.1f} s, identical"


def _run(env: Mapping[str, str], *args: str | Path) -> subprocess.Popen[str]:
    (Path(env["XFER_HOME"]).parent / "out").mkdir(exist_ok=True)
    return subprocess.Popen(
        [*XFER, *map(str, args)], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )


def main() -> None:
    def stop(_number: int, _frame: object) -> None:
        sys.exit(143)

    signal.signal(signal.SIGTERM, stop)
    folder = Path(tempfile.mkdtemp(prefix="xfer-cluster-"))
    cluster = Cluster(folder)
    try:
        started = time.monotonic()
        cluster.up()
        print(f"up        3 servers, 2 leaves, 2 brokers, 1 store in {time.monotonic() - started:.1f} s")
        replicas = asyncio.run(cluster.replicas())
        print("streams   " + ", ".join(f"{name} ×{count}" for name, count in sorted(replicas.items())))
        if replicas.get(EVENTS) != 3:
            raise Failed("the streams are not on three servers")
        source = folder / "file.bin"
        source.write_bytes(os.urandom(3_000_000))
        print("transfer  " + cross(cluster, source, "webrtc", "ann", "bob"))
        print("transfer  " + cross(cluster, source, "s3", "bob", "ann"))
        for name in ("core-1", "broker-a"):
            cluster.kill(name)
        print("killed    core-1, broker-a")
        print("transfer  " + cross(cluster, source, "s3", "ann", "bob"))
    except (Failed, subprocess.TimeoutExpired) as error:
        sys.exit(f"cluster: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
        print("stopped   everything that was started")


if __name__ == "__main__":
    main()
