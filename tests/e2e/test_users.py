"""`xfer user`, `xfer invite` and `xfer join` with real servers that listen for others, and so speak TLS."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from helpers import SOON, Background, at_a_terminal, complaint, seconds, write

from transfer import api, bus
from transfer.errors import NotAllowed
from transfer.invite import Invite
from transfer.local import ports
from transfer.local.folder import Folder
from transfer.seal import Sealer
from transfer.ticket import Ticket

if TYPE_CHECKING:
    from tests.conftest import Servers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is not there")
Run = Callable[..., subprocess.CompletedProcess[str]]
HOST = "127.0.0.2"


@pytest.fixture(scope="module")
def open_servers(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Servers]:
    """Servers of this module's own, for others to reach."""
    base = tmp_path_factory.mktemp("open")
    start, stop = request.getfixturevalue("start_servers"), request.getfixturevalue("stop_servers")
    running = start(base / "home", base / "data", XFER_LISTEN=HOST)
    yield running
    stop(running)


def alone(servers: Servers, home: Path) -> dict[str, str]:
    """For a machine of somebody else's."""
    ours = ("XFER_", "NATS_", "AWS_")
    kept = {name: value for name, value in servers.env.items() if not name.startswith(ours)}
    return {**kept, "XFER_HOME": str(home)}


@dataclass
class Person:
    """Somebody with a machine: an XFER_HOME and a folder of its own, and an invite."""

    name: str
    folder: Path
    line: str
    env: dict[str, str]
    started: list[Background]

    def start(self, *args: object, env: Mapping[str, str] | None = None) -> Background:
        log = self.folder / f"stderr.{len(self.started)}"
        new = Background(
            args, env={**self.env, **(env or {})}, cwd=self.folder, log=log, stdin=subprocess.DEVNULL
        )
        self.started.append(new)
        return new

    def xfer(self, *args: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-P", "-m", "cli", *args]
        return subprocess.run(
            argv, env=self.env, cwd=self.folder, input=input, capture_output=True, text=True, timeout=60
        )

    def join(self, *more: str, line: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.xfer("join", "-", *more, input=line or self.line)


class Team:
    """People who are invited to the servers, and what the operator does."""

    def __init__(self, servers: Servers, tmp: Path) -> None:
        self.servers, self._tmp = servers, tmp
        self._people: list[Person] = []

    def operator(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-P", "-m", "cli", *args, "--dir", str(self.servers.dir)]
        return subprocess.run(argv, env=dict(self.servers.env), capture_output=True, text=True, timeout=90)

    def invited(self, name: str) -> Person:
        told = self.operator("invite", name)
        assert told.returncode == 0, told.stderr
        assert told.stdout.count("\n") == 1
        folder = self._tmp / name
        folder.mkdir()
        person = Person(name, folder, told.stdout, alone(self.servers, folder / "home"), [])
        self._people.append(person)
        return person

    def joined(self, name: str) -> Person:
        person = self.invited(name)
        told = person.join()
        assert told.returncode == 0, told.stderr
        return person

    def close(self) -> None:
        for person in self._people:
            for started in person.started:
                started.stop()
            self.operator("user", "rm", person.name)
        Folder.at(self.servers.dir).removed.unlink(
            missing_ok=True
        )  # the next test has people of the same names


@pytest.fixture
def team(open_servers: Servers, tmp_path: Path) -> Iterator[Team]:
    team = Team(open_servers, tmp_path)
    yield team
    team.close()


async def lost(client: object, within: float = SOON) -> bool:
    deadline = time.monotonic() + within
    while client.is_connected:  # type: ignore[attr-defined]
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


# --- who is invited may send and fetch


@pytest.mark.parametrize("via", ["s3", "webrtc"])
def test_two_who_were_invited_send_and_fetch(team: Team, via: str) -> None:
    ann, bob = team.joined("ann"), team.joined("bob")
    data = write(ann.folder / "data", 3_000_000)
    sending = ann.start("send", "--json", "--via", via, data)
    fetched = bob.start("fetch", "--json", sending.ticket, "-o", "in/")
    assert fetched.summary.route == via
    assert sending.summary.outcome in ("receipt", "stored")
    assert (bob.folder / "in" / "data").read_bytes() == data.read_bytes()
    assert "eof_received" not in sending.stderr + fetched.stderr


async def test_signed_urls_name_the_advertised_address_over_tls(team: Team) -> None:
    servers = team.servers
    assert servers.nats_url.startswith(f"tls://{HOST}:")
    assert servers.s3_endpoint.startswith(f"https://{HOST}:")
    ca = servers.dir / "tls" / "ca.pem"
    client = await bus.connect(servers.nats_url, servers.creds, "local", "test", ca=ca)

    async def ask(verb: str, request: api.Request) -> bytes:
        subject = bus.api_subject("local", verb)
        return (await client.request(subject, msgspec.json.encode(request), SOON)).data

    sealer = Sealer(Ticket.new())
    await ask("create", api.Create(job=sealer.job, token_hash=sealer.token_hash(), size=1, expire=60))
    begun = msgspec.json.decode(await ask("begin", api.Begin(job=sealer.job, segment=0)), type=api.Begun)
    part = api.PartToSign(1, 1, "AAAAAA==")
    signed = msgspec.json.decode(
        await ask("sign_parts", api.SignParts(job=sealer.job, segment=0, upload=begun.upload, parts=[part])),
        type=api.SignedUrls,
    )
    await client.close()
    assert signed.urls[0].url.startswith(f"{servers.s3_endpoint}/xfer/")


# --- joining


def test_join_saves_a_context_and_keeps_its_secrets_private(team: Team) -> None:
    ann = team.invited("ann")
    shown = at_a_terminal("join", "-", env=ann.env, input=ann.line)
    assert shown == (0, f"logged in as ann, saved the context {HOST}; now `xfer send FILE`\n")
    told = ann.join()
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
    shown = json.loads(ann.xfer("context", "show", "--json").stdout)
    assert (shown["name"], shown["nats_url"], shown["user"]) == (HOST, team.servers.nats_url, "ann")
    for kind in ("nats_creds", "ca"):
        assert stat.S_IMODE(Path(shown[kind]).stat().st_mode) == 0o600
    assert Path(shown["ca"]).read_text() == (team.servers.dir / "tls" / "ca.pem").read_text()
    assert sorted(os.listdir(Path(shown["ca"]).parent)) == [f"{HOST}.nk", f"{HOST}.pem"]
    assert stat.S_IMODE(Path(shown["ca"]).parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("how", ["file", "variable", "argument"])
def test_an_invite_comes_from_a_file_a_variable_or_an_argument_too(team: Team, how: str) -> None:
    ann = team.invited("ann")
    (ann.folder / "invite").write_text(ann.line)
    args = {"file": ("--invite-file", "invite"), "variable": (), "argument": (ann.line,)}[how]
    env = {"XFER_INVITE": ann.line} if how == "variable" else {}
    joined = ann.start("join", "--json", "--name", "office", *args, env=env)
    assert joined.code == 0, joined.stderr
    said = json.loads(joined.stdout)
    assert said == {
        "context": "office",
        "user": "ann",
        "nats_url": team.servers.nats_url,
        "current": True,
        "trouble": None,
    }


def test_a_mistyped_invite_is_told_without_asking_anyone_and_nothing_is_saved(team: Team) -> None:
    ann = team.invited("ann")
    wrong = ann.line[:200] + ("q" if ann.line[200] != "q" else "p") + ann.line[201:]
    told = ann.join(line=wrong)
    assert told.returncode == 12
    assert "that invite has a typing error" in told.stderr
    assert not (ann.folder / "home").exists()
    assert ann.xfer("join").returncode == 2


def test_an_invite_does_not_replace_a_context_of_other_servers(team: Team) -> None:
    ann = team.invited("ann")
    other = ("context", "add", HOST, "--nats-url", "nats://127.0.0.1:9", "--user", "me")
    assert ann.xfer(*other).returncode == 0
    told = ann.join()
    assert told.returncode == 8
    assert "choose another name with --name" in told.stderr
    assert ann.join("--name", "office").returncode == 0
    assert json.loads(ann.xfer("context", "show", HOST, "--json").stdout)["user"] == "me"


def test_a_server_that_another_authority_vouches_for_is_not_joined(team: Team, tmp_path: Path) -> None:
    from transfer.local import authority
    from transfer.local.folder import Folder
    from transfer.local.listening import Listening

    other = Folder.at(tmp_path / "other")
    other.make()
    authority.ensure(other, Listening(HOST, HOST))
    ann = team.invited("ann")
    invite = Invite.parse(ann.line)
    false = Invite(
        invite.url, invite.user, invite.seed, ssl.PEM_cert_to_DER_cert(other.authority.read_text())
    )
    told = ann.join(line=str(false))
    assert told.returncode == 7
    assert "is not to be trusted" in told.stderr
    assert ann.xfer("context", "ls").stdout == ""
    assert os.listdir(ann.folder / "home" / "config" / "credentials") == []


def test_transfers_to_a_server_that_another_authority_vouches_for_exit_7(team: Team, tmp_path: Path) -> None:
    from transfer.local import authority
    from transfer.local.folder import Folder
    from transfer.local.listening import Listening

    other = Folder.at(tmp_path / "other")
    other.make()
    authority.ensure(other, Listening(HOST, HOST))
    ann = team.joined("ann")
    sent = ann.start("send", "--json", write(ann.folder / "f", 10), env={"XFER_CA": str(other.authority)})
    said = complaint(sent)
    assert (said.code, said.kind) == (7, "UntrustedServer")
    assert said.next.startswith(f"see whether {other.authority} holds the authority that vouches for it now")
    assert not any(event for event in sent.events if "ticket" in type(event).__name__.lower())


# --- access ends


async def test_a_rotated_key_throws_out_whoever_is_logged_in_with_the_old_one(team: Team) -> None:
    ann = team.joined("ann")
    seed, ca = (ann.folder / "home/config/credentials" / f"{HOST}.{kind}" for kind in ("nk", "pem"))
    client = await bus.connect(team.servers.nats_url, seed, "ann", "test", ca=ca)
    try:
        rotate = ("user", "rotate", "ann", "--dir", team.servers.dir)
        code, said = await asyncio.to_thread(at_a_terminal, *rotate, env=team.servers.env)
        assert code == 0, said
        assert "user ann has a new key\n" in said
        assert await lost(client)
        await asyncio.sleep(1)  # it tries to come back four times a second
        assert not client.is_connected
    finally:
        await client.close()
    with pytest.raises(NotAllowed):
        await bus.connect(team.servers.nats_url, seed, "ann", "test", ca=ca)
    told = await asyncio.to_thread(ann.join)
    assert told.returncode == 7
    assert "does not let user ann in with this invite: the user was removed, or has a new key" in told.stderr
    assert "ask for a new invite" in told.stderr
    line = (await asyncio.to_thread(team.operator, "invite", "ann")).stdout
    assert (await asyncio.to_thread(ann.join, line=line)).returncode == 0  # the same context, the new key
    client = await bus.connect(team.servers.nats_url, seed, "ann", "test", ca=ca)
    await client.close()


async def test_a_removed_user_is_thrown_out_and_the_others_stay(team: Team) -> None:
    people = {}
    for name in ("ann", "bob"):
        person = await asyncio.to_thread(team.joined, name)
        home = person.folder / "home/config/credentials"
        people[person.name] = await bus.connect(
            team.servers.nats_url, home / f"{HOST}.nk", person.name, "test", ca=home / f"{HOST}.pem"
        )
    try:
        done = await asyncio.to_thread(team.operator, "user", "rm", "bob")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert await lost(people["bob"])
        subject = bus.api_subject("ann", "info")
        answer = await people["ann"].request(subject, msgspec.json.encode(api.Info()), SOON)
        msgspec.json.decode(answer.data, type=api.BrokerInfo)
        assert people["ann"].stats["reconnects"] == 0
        assert not (team.servers.dir / "credentials" / "bob.nk").exists()
        assert [p for p in os.listdir(team.servers.dir / "credentials") if "bob" in p] == []
        invited = await asyncio.to_thread(team.operator, "invite", "bob")
        assert (invited.returncode, invited.stdout) == (2, "")
        assert "user bob was removed, and an invite does not take that back" in invited.stderr
        assert "`xfer user add bob` lets it in again, with a new key" in invited.stderr
        assert (await asyncio.to_thread(team.operator, "user", "add", "bob")).returncode == 0
        assert (await asyncio.to_thread(team.operator, "invite", "bob")).returncode == 0
    finally:
        for client in people.values():
            await client.close()


def test_a_send_whose_user_is_removed_ends_with_7_and_not_after_its_patience(team: Team) -> None:
    ann = team.joined("ann")
    write(ann.folder / "f", 64_000_000)
    sending = ann.start("send", "--json", "--via", "s3", "--bwlimit", "4M", "--concurrency", "1", "f")
    assert sending.ticket
    sending.moved(1)
    assert team.operator("user", "rm", "ann").returncode == 0
    said = complaint(sending)
    assert said.code == 7
    assert said.message == "NATS lets user ann in no more: it was removed, or has a new key"


# --- the operator's side


def test_users_are_listed_with_the_day_of_their_key(team: Team) -> None:
    team.invited("ann")
    listed = {user["name"]: user for user in json.loads(team.operator("user", "ls", "--json").stdout)}
    assert {"ann", "broker", "local"} <= set(listed)
    assert listed["ann"]["nkey"].startswith("U")
    assert time.time() - 600 < seconds(listed["ann"]["since"]) < time.time() + 60
    assert stat.S_IMODE(Path(listed["ann"]["seed"]).stat().st_mode) == 0o600
    text = team.operator("user", "ls")
    heading, ann = text.stdout.splitlines()[:2]
    assert heading.split() == ["NAME", "KEY", "MADE", "NKEY"]
    assert ann.split() == ["ann", listed["ann"]["since"], listed["ann"]["nkey"]]
    seeds = [Path(user["seed"]).read_text().strip() for user in listed.values()]
    assert not any(seed in text.stdout + json.dumps(list(listed.values())) for seed in seeds)


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        (("add", "broker"), 2, "broker is reserved"),
        (("add", "local"), 2, "local is reserved"),
        (("rm", "broker"), 2, "broker is reserved"),
        (("rm", "local"), 2, "local is reserved"),
        (("rotate", "broker"), 2, "broker is reserved"),
        (("rm", "nobody"), 2, "there is no user 'nobody'"),
        (("rotate", "nobody"), 2, "there is no user 'nobody'"),
        (("add", "a.b"), 2, "'a.b' cannot be a user on the bus"),
        (("add", "../x"), 2, "cannot be a user on the bus"),
        (("add", "--", "-ann"), 2, "'-ann' would be taken for an option"),
        (("add", "Local"), 2, "differs from the user local in letter case only"),
    ],
)
def test_what_cannot_be_done_with_users_is_said(
    open_servers: Servers, xfer: Run, args: tuple[str, ...], code: int, sentence: str
) -> None:
    verb, *name = args
    said = xfer("user", verb, "--dir", open_servers.dir, *name, env=open_servers.env)
    assert said.returncode == code
    assert sentence in said.stderr


def test_a_user_that_is_there_is_not_added_again(team: Team) -> None:
    team.invited("ann")
    again = team.operator("user", "add", "ann")
    assert again.returncode == 8
    assert "`xfer user rotate ann` gives it a new key" in again.stderr


def test_users_may_be_added_while_no_servers_run_but_not_where_there_are_none(
    xfer: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    for verb in (("ls",), ("add", "ann"), ("rm", "ann"), ("rotate", "ann")):
        refused = xfer("user", *verb, "--dir", folder)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"there are no servers in {folder};" in refused.stderr
        assert "start some with `xfer up` first, or name the folder of yours with --dir" in refused.stderr
    assert not folder.exists()
    Folder.at(folder).make()  # as an `xfer up` does that then finds no NATS
    code, said = at_a_terminal("user", "add", "ann", "--dir", folder, env=os.environ)
    assert code == 0
    assert "user ann may log in; the servers do not run, and will know when they start" in said
    invited = xfer("invite", "ann", "--dir", folder)
    assert (invited.returncode, invited.stdout) == (2, "")
    assert "start them with `xfer up --listen HOST`" in invited.stderr


@pytest.mark.long
async def test_who_was_added_before_the_start_is_let_in_and_who_was_removed_is_not(
    xfer: Run,
    tmp_path: Path,
    start_servers: Callable[..., Servers],
    stop_servers: Callable[[Servers], int],
) -> None:
    folder = tmp_path / "data"
    Folder.at(folder).make()
    for verb, name in (("add", "ann"), ("add", "bob"), ("rm", "bob")):
        old = folder / "credentials" / "bob.nk"
        kept = old.read_bytes() if old.exists() else b""
        assert (await asyncio.to_thread(xfer, "user", verb, name, "--dir", folder)).returncode == 0
    (tmp_path / "bob.nk").write_bytes(kept)
    running = await asyncio.to_thread(start_servers, tmp_path / "home", folder)
    try:
        client = await bus.connect(running.nats_url, folder / "credentials" / "ann.nk", "ann", "test")
        await client.close()
        with pytest.raises(NotAllowed):
            await bus.connect(running.nats_url, tmp_path / "bob.nk", "bob", "test")
        # On loopback there is no TLS, and an invite is for this machine's other users.
        told = await asyncio.to_thread(xfer, "invite", "ann", "--dir", folder)
        assert Invite.parse(told.stdout).ca is None
        assert "good on this machine only" in told.stderr
        joined = await asyncio.to_thread(
            xfer, "join", "-", input=told.stdout, env=alone(running, tmp_path / "ann")
        )
        assert joined.returncode == 0, joined.stderr
    finally:
        await asyncio.to_thread(stop_servers, running)


# --- what others can reach


def test_only_nats_and_s3_are_open_and_both_want_tls(open_servers: Servers) -> None:
    block = ports.remembered(open_servers.dir / "ports.json")
    assert block is not None
    reached = []
    for port in block.all():
        with socket.socket() as attempt:
            attempt.settimeout(5)
            if attempt.connect_ex((HOST, port)) == 0:
                reached.append(port)
    assert reached == [block.nats, block.s3, block.s3 + ports.GRPC]
    with socket.create_connection((HOST, block.s3), 10) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/1.1 200")
    with socket.create_connection((HOST, block.nats), 10) as plain:
        said = plain.recv(4096)
        assert b'"tls_required":true' in said
        plain.sendall(b'CONNECT {"verbose":true}\r\nPING\r\n')
        assert b"PONG" not in b"".join(iter(lambda: _received(plain), b""))


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except OSError:
        return b""


def test_the_gateways_inner_port_lets_nobody_in_without_a_certificate_of_ours(open_servers: Servers) -> None:
    block = ports.remembered(open_servers.dir / "ports.json")
    assert block is not None
    trust = ssl.create_default_context(cafile=open_servers.dir / "tls" / "ca.pem")
    trust.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((HOST, block.s3 + ports.GRPC), 10) as plain,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
        trust.wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        secure.recv(1)  # TLS 1.3: the server's refusal comes after our side of the handshake


def test_the_certificate_authoritys_key_is_private(open_servers: Servers) -> None:
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((open_servers.dir / "tls" / name).stat().st_mode) == 0o600


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("killed", ["s3", "store", "nats"])
def test_a_killed_server_comes_back_with_tls_and_the_transfer_goes_on(team: Team, killed: str) -> None:
    ann = team.joined("ann")
    data = write(ann.folder / "f", 40_000_000)
    sending = ann.start("send", "--json", "--via", "s3", "--bwlimit", "8M", "f")
    assert sending.ticket
    sending.moved(1)
    known = json.loads((team.servers.dir / "children.json").read_text())
    os.kill(known[killed]["pid"], signal.SIGKILL)
    sending.end(200)
    assert sending.code == 0, sending.stderr
    fetched = ann.start("fetch", "--json", sending.ticket, "-o", "in/")
    assert fetched.code == 0, fetched.stderr
    assert (ann.folder / "in" / "f").read_bytes() == data.read_bytes()
