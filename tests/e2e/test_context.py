"""`xfer context`, as typed, and `xfer broker` beside servers that run already."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bare import posix_only
from brokers import until_said
from helpers import at_a_terminal

from transfer.local.credentials import make_nkey

if TYPE_CHECKING:
    from tests.conftest import Servers

Run = Callable[..., subprocess.CompletedProcess[str]]
ADD = ("context", "add")
OFFICE = ("--nats-url", "nats://bus.example:4222", "--user", "ann")


def test_contexts_are_added_listed_chosen_shown_and_forgotten(xfer: Run) -> None:
    added = xfer(*ADD, "office", *OFFICE)
    assert (added.returncode, added.stdout, added.stderr) == (0, "", "")
    assert xfer(*ADD, "home", "--nats-url", "tls://home.example", "--user", "ann").returncode == 0
    assert xfer("context", "ls").stdout == (
        "   NAME    USER  NATS\n*  office  ann   nats://bus.example:4222\n   home    ann   tls://home.example\n"
    )
    assert xfer("context", "use", "home").returncode == 0
    assert "tls://home.example" in xfer("context", "show").stdout
    assert xfer("context", "rm", "home").returncode == 0
    shown = json.loads(xfer("context", "ls", "--json").stdout)
    assert [(c["name"], c["current"]) for c in shown] == [("office", False)]


@posix_only
def test_an_added_context_says_whether_it_is_current_and_else_how_it_becomes_so(
    env: Mapping[str, str],
) -> None:
    assert at_a_terminal(*ADD, "office", *OFFICE, env=env) == (0, "saved the context office; it is current\n")
    told = "saved the context home; `xfer context use home` makes it current\n"
    assert at_a_terminal(*ADD, "home", *OFFICE, env=env) == (0, told)


def test_who_a_context_is_comes_from_its_credentials_or_is_asked_for(xfer: Run, tmp_path: Path) -> None:
    seed = tmp_path / "me.nk"
    seed.write_text(make_nkey()[0])
    told = xfer(*ADD, "office", "--nats-url", "nats://bus.example", "--nats-creds", str(seed))
    assert told.returncode == 2
    assert told.stderr.endswith(
        "does not say who you are on the bus; name the user in XFER_USER, or with --user of `xfer context add`\n"
    )
    assert xfer(*ADD, "office", "--nats-url", "nats://hal:pw@bus.example").returncode == 0
    [shown] = json.loads(xfer("context", "ls", "--json").stdout)
    assert shown["user"] == "hal"


def test_a_password_in_an_address_is_in_no_error_and_no_finding(xfer: Run) -> None:
    assert xfer(*ADD, "away", "--nats-url", "nats://hal:hush@127.0.0.1:9").returncode == 0
    for words in (["ls"], ["ls", "--json"], ["doctor"], ["doctor", "--json"]):
        told = xfer(*words)
        assert told.returncode == 5
        assert "127.0.0.1:9" in told.stdout + told.stderr
        assert "hush" not in told.stdout + told.stderr


@pytest.mark.parametrize("kind", ["xfer1", "xferroom1", "xferjoin1"])
def test_a_secret_that_is_taken_for_a_name_is_in_no_error(xfer: Run, kind: str) -> None:
    secret = kind + "q" * 50
    for words in (
        ["room", "show", secret],
        ["status", secret],
        ["cancel", secret],
        ["ls", "--context", secret],
    ):
        told = xfer(*words, "--json") if words[0] != "cancel" else xfer(*words)
        assert told.returncode != 0
        assert secret not in told.stdout + told.stderr


def test_nothing_configured_exits_2_and_names_xfer_up(xfer: Run) -> None:
    shown = xfer("context", "show")
    assert shown.returncode == 2
    assert "xfer up" in shown.stderr
    assert shown.stdout == ""


@pytest.mark.parametrize("verb", ["use", "rm", "show"])
def test_an_unknown_context_exits_2(xfer: Run, verb: str) -> None:
    tried = xfer("context", verb, "nowhere")
    assert (tried.returncode, tried.stdout) == (2, "")
    assert "nowhere" in tried.stderr


def test_the_turn_password_comes_from_a_file_and_is_never_shown(xfer: Run, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    turn = ("--turn", "turn:relay.example:3478", "--turn-user", "ann", "--turn-password-file", secret)
    assert xfer(*ADD, "office", *OFFICE, *turn).returncode == 0
    saved = (tmp_path / "xfer-home" / "config" / "contexts.toml").read_text()
    assert 'password = "hunter2"' in saved
    for args in (("show",), ("show", "--json"), ("ls",), ("ls", "--json")):
        shown = xfer("context", *args)
        assert shown.returncode == 0
        assert "hunter2" not in shown.stdout + shown.stderr
    assert "turn:relay.example:3478" in xfer("context", "show").stdout


@pytest.mark.parametrize(
    ("option", "url", "next_step"),
    [
        ("--stun", "stun.example:3478", "write it as stun:HOST:3478"),
        ("--stun", "stun:stun.example:99999", "write it as stun:HOST:3478"),
        ("--turn", "stun:relay.example", "write it as turn:HOST:3478"),
        ("--turn", "turn:relay.example?transport=pigeon", "write it as turn:HOST:3478"),
        ("--turn", "turn:ann:hunter2@relay.example", "--turn-password-file"),
    ],
)
def test_a_stun_or_turn_url_that_cannot_work_is_not_saved(
    xfer: Run, option: str, url: str, next_step: str
) -> None:
    tried = xfer(*ADD, "office", *OFFICE, option, url)
    assert (tried.returncode, tried.stdout) == (2, "")
    assert "is not a" in tried.stderr
    assert next_step in tried.stderr
    assert "hunter2" not in tried.stderr
    assert xfer("context", "ls").stdout == ""


def test_a_missing_password_file_is_named(xfer: Run, tmp_path: Path) -> None:
    turn = ("--turn", "turn:relay.example:3478", "--turn-password-file", tmp_path / "gone")
    tried = xfer(*ADD, "office", *OFFICE, *turn)
    assert tried.returncode == 2
    assert "gone" in tried.stderr


def test_a_relative_credentials_file_is_found_from_everywhere(xfer: Run, tmp_path: Path) -> None:
    (tmp_path / "me.nk").write_text("SU")
    assert xfer(*ADD, "office", *OFFICE, "--nats-creds", "me.nk", cwd=tmp_path).returncode == 0
    assert json.loads(xfer("context", "show", "--json").stdout)["nats_creds"] == str(tmp_path / "me.nk")


@pytest.mark.skipif(sys.platform == "win32", reason="local servers need Linux or macOS")
def test_a_broker_of_ones_own_serves_beside_others_and_leaves_on_sigterm(
    servers: Servers, tmp_path: Path
) -> None:
    env = {**servers.env, "AWS_SHARED_CREDENTIALS_FILE": str(servers.dir / "aws_credentials")}
    where = ("--nats-url", servers.nats_url, "--nats-creds", str(servers.dir / "credentials" / "broker.nk"))
    command = [sys.executable, "-P", "-m", "cli", "broker", *where, "--region", "us-east-1"]
    command += ["--endpoint-url", servers.s3_endpoint, "--bucket", servers.bucket]
    log = tmp_path / "log"
    with open(log, "wb") as stderr:
        process = subprocess.Popen(command, env=env, stderr=stderr, cwd=tmp_path)
    try:
        until_said(log, "ready, bucket xfer")
        assert process.poll() is None
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def test_a_broker_without_nats_says_what_it_needs(xfer: Run) -> None:
    tried = xfer("broker")
    assert tried.returncode == 2
    assert "NATS_URL" in tried.stderr
