"""`xfer up` and `xfer down` with real servers: what is told, what is mended, what stays private."""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import msgspec
import nats
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from helpers import at_a_terminal

from transfer import api, bus
from transfer.errors import BusUnreachable, NotAllowed
from transfer.local import listening
from transfer.local.folder import Folder
from transfer.local.listening import Listening
from transfer.seal import hash_token
from transfer.ticket import Ticket

if TYPE_CHECKING:
    from tests.conftest import Servers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="local servers need Linux or macOS")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., "Servers"]
SOON = 15.0
"""Seconds in which what must happen has happened, on a busy machine."""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Servers that a test may break, started by somebody whose shell points elsewhere."""
    base = tmp_path_factory.mktemp("mine")
    elsewhere = {
        "AWS_ACCESS_KEY_ID": "AKIAELSEWHERE",
        "AWS_SECRET_ACCESS_KEY": "elsewhere",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "NATS_URL": "nats://127.0.0.1:9",
        "XFER_BUCKET": "elsewhere",
        "http_proxy": "http://127.0.0.1:9",
        "S3_BUCKET": "elsewhere",
    }
    start, stop = request.getfixturevalue("start_servers"), request.getfixturevalue("stop_servers")
    running = start(base / "home", base / "data", **elsewhere)
    yield running
    stop(running)


def children(folder: Path) -> dict[str, int]:
    known = json.loads((folder / "children.json").read_text())
    return {name: child["pid"] for name, child in known.items()}


def alive(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(shown.stdout.strip()) and not shown.stdout.startswith("Z")


def until(true: Callable[[], bool], what: str, within: float = SOON) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.05)


def s3(servers: Servers, *, access: str | None = None, secret: str | None = None) -> Any:
    """A client with the given keys, else with those of the servers."""
    keys = configparser.ConfigParser()
    keys.read(servers.dir / "aws_credentials")
    return boto3.client(
        "s3",
        endpoint_url=servers.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=access or keys["default"]["aws_access_key_id"],
        aws_secret_access_key=secret or keys["default"]["aws_secret_access_key"],
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )


async def ask(servers: Servers, verb: str, request: api.Request) -> bytes:
    client = await bus.connect(servers.nats_url, servers.creds, "local", "test")
    try:
        answer = await client.request(bus.api_subject("local", verb), msgspec.json.encode(request), 5)
        return answer.data
    finally:
        await client.close()


async def test_up_says_what_runs_where_and_all_three_answer(servers: Servers) -> None:
    assert servers.creds == servers.dir / "credentials" / "local.nk"
    assert servers.bucket in [found["Name"] for found in s3(servers).list_buckets()["Buckets"]]
    info = msgspec.json.decode(await ask(servers, "info", api.Info()), type=api.BrokerInfo)
    assert info.bucket == servers.bucket


def test_up_writes_the_context_and_makes_it_current(servers: Servers, xfer: Run) -> None:
    shown = json.loads(xfer("context", "ls", "--json", env=servers.env).stdout)
    assert [(c["name"], c["nats_url"], c["user"], c["current"]) for c in shown] == [
        ("local", servers.nats_url, "local", True)
    ]


def test_a_second_up_on_the_same_folder_says_so_and_exits_11(servers: Servers, xfer: Run) -> None:
    for more in ([], ["--detach"]):
        second = xfer("up", "--dir", servers.dir, *more, env=servers.env)
        assert second.returncode == 11
        assert "run already, and the context local points to them" in second.stderr
        assert f"stop them with `xfer down --dir {servers.dir}`" in second.stderr
        assert second.stdout == ""


def test_a_second_up_mends_the_context_that_other_servers_took(
    servers: Servers, xfer: Run, tmp_path: Path
) -> None:
    """As after `xfer up --dir D2; xfer down --dir D2`."""
    gone = ("--nats-url", "nats://127.0.0.1:9", "--user", "local", "--nats-creds", "gone.nk")
    env = {**servers.env, "XFER_HOME": str(tmp_path / "home")}
    for more in ([], ["--detach"]):
        assert xfer("context", "add", "local", *gone, env=env).returncode == 0
        second = xfer("up", "--dir", servers.dir, *more, env=env)
        assert second.returncode == 11
        assert "before it meant nats://127.0.0.1:9" in second.stderr
        shown = json.loads(xfer("context", "show", "--json", env=env).stdout)
        assert (shown["nats_url"], shown["nats_creds"]) == (servers.nats_url, str(servers.creds))


def test_files_with_secrets_are_private(servers: Servers) -> None:
    assert stat.S_IMODE(servers.dir.stat().st_mode) == 0o700
    secret = ["aws_credentials", "s3.json", "nats.conf", "credentials/local.nk", "credentials/broker.nk"]
    logs = [f"logs/{name}.log" for name in ("nats", "store", "broker")]
    for name in (*secret, *logs, "up.lock"):
        assert stat.S_IMODE((servers.dir / name).stat().st_mode) == 0o600, name


@linux
def test_secrets_stand_in_no_argument_and_no_environment_and_no_log(servers: Servers) -> None:
    keys = configparser.ConfigParser()
    keys.read(servers.dir / "aws_credentials")
    secrets = [
        keys["default"]["aws_secret_access_key"].encode(),
        *((servers.dir / "credentials" / f"{user}.nk").read_bytes().strip() for user in ("local", "broker")),
    ]
    pids = [*children(servers.dir).values(), servers.process.pid]
    seen = [Path(f"/proc/{pid}/{what}").read_bytes() for pid in pids for what in ("cmdline", "environ")]
    seen += [log.read_bytes() for log in (servers.dir / "logs").iterdir()]
    for secret in secrets:
        assert len(secret) > 20
        assert not any(secret in text for text in seen)


@linux
def test_every_port_is_on_loopback(servers: Servers) -> None:
    sockets = set()
    for pid in children(servers.dir).values():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(entry)
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    listening = [row[1] for row in rows if row[3] == "0A" and row[9] in sockets]
    assert len(listening) >= 6
    assert all(address.startswith("0100007F:") for address in listening), listening


@pytest.mark.parametrize(
    "subject",
    [
        "_INBOX_broker.>",
        "_INBOX_other.>",
        "xfer.peer.other.>",
        "xfer.api.>",
        "xfer.>",
        ">",
        "$SRV.>",
        "$JS.>",
        "$KV.>",
    ],
)
async def test_the_server_lets_no_user_hear_what_is_anothers(servers: Servers, subject: str) -> None:
    refused: asyncio.Queue[str] = asyncio.Queue()
    client = await bus.connect(
        servers.nats_url, servers.creds, "local", "test", on_refusal=refused.put_nowait
    )
    await client.subscribe(subject)
    assert "subscription" in (await asyncio.wait_for(refused.get(), 5)).lower()
    await client.close()


@pytest.mark.parametrize(
    "subject",
    [
        "xfer.api.other.info",
        "xfer.events.other.j",
        "$JS.API.STREAM.LIST",
        "$KV.xfer_jobs.j.x",
        "$SRV.PING",
        "_INBOX_other.x",
    ],
)
async def test_the_server_lets_no_user_speak_as_another(servers: Servers, subject: str) -> None:
    refused: asyncio.Queue[str] = asyncio.Queue()
    client = await bus.connect(
        servers.nats_url, servers.creds, "local", "test", on_refusal=refused.put_nowait
    )
    await client.publish(subject, b"{}")
    assert "publish" in (await asyncio.wait_for(refused.get(), 5)).lower()
    await client.close()


async def test_a_user_hears_its_own_peers_and_events(servers: Servers) -> None:
    refused: list[str] = []
    client = await bus.connect(servers.nats_url, servers.creds, "local", "test", on_refusal=refused.append)
    for subject in ("xfer.peer.local.j", "xfer.events.local.j"):
        heard = await client.subscribe(subject)
        await client.publish(subject, b"hello")
        assert (await heard.next_msg(5)).data == b"hello"
    await client.publish("xfer.peer.other.j", b"hello")
    await client.flush()
    assert refused == []
    await client.close()


async def test_the_broker_user_needs_no_more_than_it_may(servers: Servers) -> None:
    refused: list[str] = []
    seed = servers.dir / "credentials" / "broker.nk"
    client = await bus.connect(servers.nats_url, seed, "broker", "test", on_refusal=refused.append)
    kv = await client.jetstream().key_value("xfer_jobs")
    await kv.put("test.a", b"1")
    watcher: Any = await kv.watch("test.>")
    assert (await watcher.updates(timeout=5)).value == b"1"
    await watcher.stop()
    assert (await kv.get("test.a")).value == b"1"
    await kv.purge("test.a")
    await client.flush()
    assert refused == []
    await client.close()


async def test_nobody_gets_in_without_a_key(servers: Servers, tmp_path: Path) -> None:
    from transfer.local.credentials import make_nkey

    stranger = tmp_path / "stranger.nk"
    stranger.write_text(make_nkey()[0])
    for creds in (None, stranger):
        with pytest.raises(NotAllowed):
            await bus.connect(servers.nats_url, creds, "local", "test")


def test_aws_keys_of_the_shell_that_started_the_servers_open_nothing(mine: Servers) -> None:
    # SeaweedFS would make an administrator of whoever stands in its environment.
    elsewhere = s3(mine, access=mine.env["AWS_ACCESS_KEY_ID"], secret=mine.env["AWS_SECRET_ACCESS_KEY"])
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        elsewhere.list_buckets()


@pytest.mark.parametrize("name", ["nats", "store", "broker"])
async def test_a_killed_child_is_mended_and_told(mine: Servers, name: str) -> None:
    notices = Path(mine.env["XFER_HOME"]) / "up.stderr"
    before = children(mine.dir)
    told = len(notices.read_text())
    os.kill(before[name], signal.SIGKILL)
    until(lambda: children(mine.dir)[name] != before[name], "a new process")
    assert f"{name} was killed by SIGKILL; starting it again in" in notices.read_text()[told:]

    async def answers() -> bool:
        try:
            msgspec.json.decode(await ask(mine, "info", api.Info()), type=api.BrokerInfo)
            ticket = Ticket.new()
            create = api.Create(job=ticket.job, token_hash=hash_token("t" * 43), size=1, expire=60)
            msgspec.json.decode(await ask(mine, "create", create), type=api.Created)
            begun = await ask(mine, "begin", api.Begin(job=ticket.job, segment=0))
            msgspec.json.decode(begun, type=api.Begun)
        except (nats.errors.Error, msgspec.ValidationError, BusUnreachable, OSError):
            return False
        return True

    deadline = time.monotonic() + SOON
    while not await answers():
        assert time.monotonic() < deadline
    assert {k: v for k, v in children(mine.dir).items() if k != name} == {
        k: v for k, v in before.items() if k != name
    }


@pytest.mark.long
def kept(servers: Servers) -> bytes:
    """The object, as soon as the store has found its volumes again: until then it answers InternalError."""
    deadline = time.monotonic() + SOON
    while True:
        try:
            body: bytes = s3(servers).get_object(Bucket=servers.bucket, Key="kept")["Body"].read()
            return body
        except ClientError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


async def test_jobs_and_objects_survive_down_and_up(
    tmp_path: Path, start_servers: Start, stop_servers: Callable[[Servers], int]
) -> None:
    first = start_servers(tmp_path / "home", tmp_path / "data")
    ticket = Ticket.new()
    token = "t" * 43
    try:
        s3(first).put_object(Bucket=first.bucket, Key="kept", Body=b"k" * 9_000_000)
        created = await ask(
            first, "create", api.Create(job=ticket.job, token_hash=hash_token(token), size=1, expire=3600)
        )
        msgspec.json.decode(created, type=api.Created)
        pids = children(first.dir)
        assert not {os.getpgid(pid) for pid in pids.values()} & {first.process.pid}
    finally:
        os.killpg(first.process.pid, signal.SIGINT)  # as a terminal does
        assert first.process.wait(SOON) == 0
    assert not any(map(alive, pids.values()))
    assert "starting it again" not in (tmp_path / "home" / "up.stderr").read_text()
    second = start_servers(tmp_path / "home", tmp_path / "data")
    try:
        assert (second.nats_url, second.s3_endpoint, second.creds) == (
            first.nats_url,
            first.s3_endpoint,
            first.creds,
        )
        assert kept(second) == b"k" * 9_000_000
        opened = await ask(second, "open", api.Open(job=ticket.job, token=token))
        assert msgspec.json.decode(opened, type=api.Opened).owner == "local"
    finally:
        stop_servers(second)


def test_detached_servers_outlive_the_command_and_end_with_down(tmp_path: Path, xfer: Run) -> None:
    folder = tmp_path / "a, b" / ("long" * 25)  # more than a Unix socket's path or a list of folders bears
    elsewhere = ("--nats-url", "nats://elsewhere:1", "--user", "ann", "--stun", "stun:elsewhere:1")
    assert xfer("context", "add", "local", *elsewhere).returncode == 0
    try:
        up = xfer("up", "--detach", "--json", "--dir", folder)
        assert up.returncode == 0, up.stderr
        said = json.loads(up.stdout)
        assert set(said) == {"nats_url", "s3_endpoint", "bucket", "dir", "credentials_file", "ca"}
        pids = children(folder)
        assert all(map(alive, pids.values()))
        assert "before it meant nats://elsewhere:1" in up.stderr
        context = json.loads(xfer("context", "show", "--json").stdout)
        assert (context["nats_url"], context["user"]) == (said["nats_url"], "local")
        assert context["stun"] == ["stun:elsewhere:1"]
        assert stat.S_IMODE((folder / "logs" / "up.log").stat().st_mode) == 0o600
    finally:
        down = xfer("down", "--dir", folder)
    assert (down.returncode, down.stdout, down.stderr) == (0, "", "")
    assert not any(map(alive, pids.values()))
    code, said = at_a_terminal("down", "--dir", folder, env=os.environ)
    assert (code, said) == (0, f"xfer down: nothing runs in {folder}\n")


@linux
def test_servers_that_let_others_in_go_on_doing_so_until_told_otherwise(tmp_path: Path, xfer: Run) -> None:
    folder = Folder.at(tmp_path / "data")
    folder.make()
    listening.remember(folder, Listening("127.0.0.2", "127.0.0.2"))  # as an earlier `--listen` left it

    def up(*args: str) -> tuple[dict[str, Any], str]:
        started = xfer("up", "--detach", "--json", "--dir", folder.root, *args)
        assert started.returncode == 0, started.stderr
        try:
            return json.loads(started.stdout), started.stderr
        finally:
            assert xfer("down", "--dir", folder.root).returncode == 0

    said, notices = up()
    assert said["nats_url"].startswith("tls://127.0.0.2:")
    assert said["ca"] == str(folder.authority)
    assert "lets others in at 127.0.0.2, as before; `--listen loopback` ends that" in notices
    said, notices = up("--listen", "loopback")
    assert said["nats_url"].startswith("nats://127.0.0.1:")
    assert said["ca"] is None
    assert "others, who used 127.0.0.2, do not reach the servers any more" in notices
    again = f"`xfer up --dir {folder.root} --listen 127.0.0.2 --advertise 127.0.0.2`"
    assert f"{again} lets them in again" in notices
    assert listening.remembered(folder) is None


@linux
def test_no_child_outlives_a_killed_supervisor_and_the_next_up_carries_on(
    tmp_path: Path, start_servers: Start
) -> None:
    first = start_servers(tmp_path / "home", tmp_path / "data")
    pids = children(first.dir)
    assert len(pids) == 3
    first.process.kill()
    first.process.wait()
    until(lambda: not any(map(alive, pids.values())), "all children are gone")
    second = start_servers(tmp_path / "home", tmp_path / "data")
    assert second.nats_url == first.nats_url
    pids = children(second.dir)
    os.kill(pids["store"], signal.SIGSTOP)  # it will not hear SIGTERM, and has 12 s
    second.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        second.process.wait(2)
    second.process.terminate()
    second.process.wait(2)
    until(lambda: not any(map(alive, pids.values())), "a second signal ends all at once")


def test_a_server_that_cannot_start_is_told_with_the_end_of_its_log(tmp_path: Path, xfer: Run) -> None:
    folder = tmp_path / "data"
    (folder / "nats").mkdir(parents=True)
    (folder / "nats" / "jetstream").write_text("a file where NATS wants a folder")
    (folder / "up.lock").touch()
    for more in ([], ["--detach"]):
        up = xfer("up", "--dir", folder, *more)
        assert up.returncode == 1
        assert "the local nats ended with code 1" in up.stderr
        assert "jetstream" in up.stderr.lower()
    assert "nothing runs" in at_a_terminal("down", "--dir", folder, env=os.environ)[1]
