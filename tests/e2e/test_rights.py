"""Who may do what on the bus: a user with a raw NATS client, against another, on our server and on one of others."""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import nats.errors
import nkeys
import pytest
import urllib3
from attacks import JOB, SOON, Raw, everything_is_refused, raw
from brokers import HTTP, Place, broker_process, free_port, nats_server, until_said
from helpers import Two, complaint
from jwts import operator_mode

from transfer import api
from transfer.bus import control_subject
from transfer.local.credentials import make_nkey
from transfer.seal import Sealer
from transfer.ticket import Ticket

if TYPE_CHECKING:
    from tests.conftest import Servers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="local servers need Linux or macOS")
Run = Callable[..., subprocess.CompletedProcess[str]]


FORGOTTEN = {"deaf": "_INBOX_deaf.>", "alone": "xfer.peer.alone.>"}
"""What a user may not subscribe to, and should."""


@dataclass(frozen=True)
class Bus:
    """A NATS server with a broker, and the seeds of two users."""

    url: str
    victim: str
    victim_seed: Path
    mallory_seed: Path


@pytest.fixture(scope="module")
def embedded(servers: Servers) -> Iterator[Bus]:
    """The worker's servers, with a user more."""

    def user(verb: str) -> None:
        argv = [sys.executable, "-P", "-m", "cli", "user", verb, "mallory", "--dir", str(servers.dir)]
        subprocess.run(argv, env=dict(servers.env), check=True, capture_output=True, timeout=60)

    user("add")
    yield Bus(servers.nats_url, "local", servers.creds, servers.dir / "credentials" / "mallory.nk")
    user("rm")


def permitted(servers: Servers, *words: str) -> str:
    """What `xfer broker permissions` prints."""
    argv = [sys.executable, "-P", "-m", "cli", "broker", "permissions", *words]
    told = subprocess.run(argv, env=dict(servers.env), check=True, capture_output=True, text=True, timeout=60)
    return told.stdout


def without(block: str, *subjects: str) -> str:
    """The same permissions, but for these; each stands there once."""
    for each in subjects:
        assert block.count(f'"{each}"') == 1
        block = block.replace(f'"{each}"', '"nothing"')
    return block


@contextmanager
def server_of_others(servers: Servers, folder: Path, block: str, suffix: str, **more: str) -> Iterator[Bus]:
    """A plain nats-server with that block, and a broker that is ready, beside the worker's store."""
    with nats_server(folder, free_port(), block) as url:
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "AWS_", "XFER_"))},
            "PYTHONPATH": servers.env["PYTHONPATH"],
            "NATS_URL": url,
            "NATS_CREDS": str(folder / f"broker{suffix}"),
            "XFER_S3_ENDPOINT": servers.s3_endpoint,
            "XFER_BUCKET": "foreign",
            "AWS_SHARED_CREDENTIALS_FILE": str(servers.dir / "aws_credentials"),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            **more,
        }
        with broker_process(Place(url, servers.s3_endpoint, env, folder), folder / "broker.log"):
            until_said(folder / "broker.log", "ready, bucket foreign")
            yield Bus(url, "ann", folder / f"ann{suffix}", folder / f"mallory{suffix}")


@pytest.fixture(scope="module")
def foreign(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """With the printed block in its configuration."""
    folder = tmp_path_factory.mktemp("foreign")
    named = {}
    for user in ("broker", "ann", "mallory", *FORGOTTEN):
        seed, named[user] = make_nkey()
        (folder / f"{user}.nk").write_text(seed)
    given = [f"{user}={named[user]}" for user in ("ann", "broker", *FORGOTTEN)]
    block = permitted(servers, *given, "mallory")
    for subjects in FORGOTTEN.values():
        block = without(block, subjects)
    # The key that was not given stands there as a variable.
    with server_of_others(
        servers, folder, block.replace("$XFER_NKEY_MALLORY", named["mallory"]), ".nk"
    ) as bus:
        yield bus


@pytest.fixture(scope="module")
def operated(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """In operator mode, with JWTs of what the printed commands say."""
    folder = tmp_path_factory.mktemp("operated")
    block = operator_mode(folder, permitted(servers, "ann", "mallory", "--form", "nsc"))
    with server_of_others(servers, folder, block, ".creds") as bus:
        yield bus


@pytest.fixture(params=["embedded", "foreign", "operated"])
def where(request: pytest.FixtureRequest) -> Bus:
    found: Bus = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def people(where: Bus) -> AsyncIterator[tuple[Raw, Raw]]:
    """Mallory and the victim."""
    async with (
        raw(where.url, "mallory", where.mallory_seed) as mallory,
        raw(where.url, where.victim, where.victim_seed) as victim,
    ):
        yield mallory, victim


async def test_a_user_can_neither_say_nor_hear_what_is_anothers_or_the_brokers(
    people: tuple[Raw, Raw],
) -> None:
    """API, inbox, peer subjects, events, control, JetStream, KV, work and dead letters, answers to requests."""
    await everything_is_refused(*people)


async def test_anothers_job_looks_like_one_that_never_was(people: tuple[Raw, Raw]) -> None:
    mallory, victim = people
    sealer = Sealer(Ticket.new())
    create = api.Create(job=sealer.job, token_hash=sealer.token_hash(), size=1, expire=60)
    msgspec.json.decode((await victim.ask("create", create)).data, type=api.Created)
    wrong = secrets.token_urlsafe(32)
    for verb, real, none in (
        ("status", api.Status(job=sealer.job), api.Status(job=JOB)),
        ("open", api.Open(job=sealer.job, token=wrong), api.Open(job=JOB, token=wrong)),
        ("begin", api.Begin(job=sealer.job, segment=0), api.Begin(job=JOB, segment=0)),
        (
            "finish",
            api.Finish(job=sealer.job, outcome=api.JobState.VOID),
            api.Finish(job=JOB, outcome=api.JobState.VOID),
        ),
    ):
        told = [await mallory.ask(verb, request) for request in (real, none)]
        refusals = [msgspec.json.decode(answer.data, type=api.ApiError) for answer in told]
        assert refusals[0] == refusals[1]
        assert refusals[0].code is api.ErrorCode.NOT_FOUND
    status = msgspec.json.decode(
        (await victim.ask("status", api.Status(job=sealer.job))).data, type=api.JobStatus
    )
    assert status.state is api.JobState.OPEN


async def test_a_reply_subject_cannot_make_the_broker_say_it_for_them(people: tuple[Raw, Raw]) -> None:
    """The broker may publish there; it answers nowhere but into the asker's inbox."""
    mallory, victim = people
    heard = await victim.client.subscribe(control_subject(victim.user, "*"))
    await victim.client.flush()
    for reply in (
        control_subject(victim.user, JOB),
        "$JS.API.STREAM.DELETE.KV_xfer_jobs",
        "$KV.xfer_jobs.a.b",
    ):
        await mallory.client.publish("xfer.api.mallory.info", msgspec.json.encode(api.Info()), reply=reply)
    await mallory.ask("info", api.Info())  # the brokers have taken the others by then
    sealer = Sealer(Ticket.new())
    create = api.Create(job=sealer.job, token_hash=sealer.token_hash(), size=1, expire=60)
    msgspec.json.decode((await victim.ask("create", create)).data, type=api.Created)  # the records are there
    with pytest.raises(nats.errors.TimeoutError):
        await heard.next_msg(timeout=0.5)


@pytest.mark.parametrize("via", ["s3", "webrtc"])
@pytest.mark.parametrize("kind", ["foreign", "operated"])
def test_two_users_of_a_foreign_server_with_the_printed_permissions_move_files(
    request: pytest.FixtureRequest, two: Two, kind: str, via: str
) -> None:
    foreign: Bus = request.getfixturevalue(kind)
    here = {**two.here, "NATS_URL": foreign.url, "NATS_CREDS": str(foreign.victim_seed), "XFER_USER": "ann"}
    there = {
        **two.there,
        "NATS_URL": foreign.url,
        "NATS_CREDS": str(foreign.mallory_seed),
        "XFER_USER": "mallory",
    }
    sending = two.send("--via", via, two.file("f", 300_000), env=here)
    assert two.fetch(sending.ticket, env=there).code == 0
    assert sending.summary.route == via
    assert (two.out / "f").read_bytes() == (two.tmp / "f").read_bytes()


def test_on_a_foreign_server_too_a_forbidden_request_is_exit_7_at_once(foreign: Bus, two: Two) -> None:
    posing = {
        **two.here,
        "NATS_URL": foreign.url,
        "NATS_CREDS": str(foreign.mallory_seed),
        "XFER_USER": "ann",
    }
    said = complaint(two.send("--patience", "10m", two.file("f", 10), env=posing))
    assert (said.code, said.message) == (7, "NATS does not let user ann talk to the broker")


def test_an_inbox_that_was_forgotten_in_the_permissions_is_exit_7_and_named(foreign: Bus, two: Two) -> None:
    seed = foreign.victim_seed.with_name("deaf.nk")
    deaf = {**two.here, "NATS_URL": foreign.url, "NATS_CREDS": str(seed), "XFER_USER": "deaf"}
    for said in (
        complaint(two.send(two.file("f", 10), env=deaf)),
        complaint(two.fetch(str(Ticket.new()), env=deaf)),
    ):
        assert (said.code, said.message) == (7, "NATS does not let user deaf talk to the broker")
        assert "xfer broker permissions" in said.next


def test_a_user_whose_permissions_lack_the_peers_signals_is_told_by_doctor_and_by_send(
    foreign: Bus, two: Two, xfer: Run
) -> None:
    seed = foreign.victim_seed.with_name("alone.nk")
    alone = {**two.here, "NATS_URL": foreign.url, "NATS_CREDS": str(seed), "XFER_USER": "alone"}
    said = xfer("doctor", "--json", env=alone)
    assert said.returncode == 7
    checks = {row["check"]: row for row in json.loads(said.stdout)["checks"]}
    assert checks["rights"]["said"] == "NATS does not let user alone subscribe to xfer.peer.alone.>"
    assert "`xfer broker permissions`" in checks["rights"]["next"]
    assert (checks["NATS"]["state"], checks["broker"]["state"]) == ("ok", "ok")
    sending = xfer("send", "--wait", "0", str(two.file("f", 10)), env=alone)
    assert sending.returncode == 0
    assert "NATS does not let user alone hear other users" in sending.stderr
    ann = {**alone, "NATS_CREDS": str(foreign.victim_seed), "XFER_USER": "ann"}
    checks = {row["check"]: row for row in json.loads(xfer("doctor", "--json", env=ann).stdout)["checks"]}
    assert checks["rights"]["state"] == "ok"


def test_a_broker_whose_permissions_are_of_an_older_version_names_them_in_log_health_and_doctor(
    servers: Servers, two: Two, xfer: Run, tmp_path: Path
) -> None:
    lacks = ("xfer.pages.>", "$KV.xfer_rooms.>")
    named = {}
    for user in ("broker", "ann"):
        seed, named[user] = make_nkey()
        (tmp_path / f"{user}.nk").write_text(seed)
    block = permitted(servers, *(f"{user}={public}" for user, public in named.items()))
    for each in lacks:
        assert block.count(f'"{each}"') == 2  # said and heard
        block = block.replace(f'"{each}"', '"nothing"')
    port = free_port()
    with server_of_others(servers, tmp_path, block, ".nk", XFER_METRICS=str(port)) as bus:
        health = f"http://127.0.0.1:{port}/healthz"
        missing = ", ".join(
            f"{verb} to {subjects}"
            for verb, named in (("subscribe", lacks[::-1]), ("publish", lacks[::-1]))
            for subjects in named
        )
        deadline = time.monotonic() + SOON
        while (answer := answered(health)) != (503, f"NATS does not let the broker {missing}\n"):
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
        assert (
            f"NATS does not let the broker {missing}; print and install"
            in (tmp_path / "broker.log").read_text()
        )
        ann = {**two.here, "NATS_URL": bus.url, "NATS_CREDS": str(bus.victim_seed), "XFER_USER": "ann"}
        said = xfer("doctor", "--json", env=ann)
    found = {row["check"]: row for row in json.loads(said.stdout)["checks"]}["broker"]
    assert (said.returncode, found["state"]) == (7, "fail")
    assert found["said"].startswith(f"NATS does not let the broker {missing} (the broker on ")


def answered(url: str) -> tuple[int, str]:
    """Status and body; nothing while nobody listens."""
    try:
        answer = HTTP.request("GET", url)
    except urllib3.exceptions.HTTPError:
        return 0, ""
    return answer.status, answer.data.decode()


def test_printed_permissions_go_to_stdout_and_the_broker_without_a_word_still_runs(xfer: Run) -> None:
    printed = xfer("broker", "permissions", "ann", "--form", "nsc")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "nsc add user --account XFER --name ann --allow-pub" in printed.stdout
    ran = xfer("broker")
    assert ran.returncode == 2
    assert "the broker needs NATS_URL" in ran.stderr


def test_a_key_for_a_server_of_others_is_made_once_and_its_public_half_printed(
    xfer: Run, tmp_path: Path
) -> None:
    made = xfer("broker", "key", str(tmp_path / "ann.nk"))
    assert (made.returncode, made.stderr) == (0, "")
    public = made.stdout.strip()
    assert public in xfer("broker", "permissions", f"ann={public}").stdout
    seed = tmp_path / "ann.nk"
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    assert nkeys.from_seed(seed.read_bytes()).public_key.decode() == public
    again = xfer("broker", "key", str(seed))
    assert (again.returncode, again.stdout) == (8, "")
    assert nkeys.from_seed(seed.read_bytes()).public_key.decode() == public
