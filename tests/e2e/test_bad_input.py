"""What goes wrong before or beside a transfer: one sentence, what to do next, the right code, nothing on disk."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker_asked import SKEWED
from brokers import Place, broker_process, free_port, nats_server
from helpers import MIB, SOON, Two, complaint

from transfer import events
from transfer.local.credentials import make_nkey
from transfer.ticket import Ticket

if TYPE_CHECKING:
    from tests.conftest import Servers

WITHOUT_OVERRIDE = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH. Source: linux/capability.h
    if ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
        sys.exit("capabilities cannot be dropped")
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Root reads everything; without these two capabilities it is bound by modes like everybody."""


# --- what is to be sent


def test_a_missing_path_exits_2_before_there_is_a_ticket(two: Two) -> None:
    sent = two.send(two.file("f", 10), two.tmp / "gone")
    said = complaint(sent)
    assert (said.code, said.kind, said.message) == (2, "MissingPath", f"{two.tmp}/gone is not there")
    assert len(sent.events) == 1


@pytest.fixture
def unprivileged() -> list[str]:
    """A prefix that makes modes count, whoever runs the tests."""
    if os.geteuid() != 0:
        return []
    if sys.platform != "linux":
        pytest.skip("root reads every file, and only Linux can take that from it")
    return [sys.executable, "-c", WITHOUT_OVERRIDE]


def test_what_is_unreadable_is_named_the_rest_is_sent_and_it_exits_3(
    two: Two, unprivileged: list[str]
) -> None:
    root = two.tmp / "root"
    (root / "closed").mkdir(parents=True)
    for name in ("fine", "secret", "closed/inside"):
        (root / name).write_bytes(b"x")
    (root / "secret").chmod(0)
    (root / "closed").chmod(0)
    sent = two.send(root, "--wait", "0", prefix=unprivileged)
    said = complaint(sent)
    (root / "closed").chmod(0o700)
    assert (said.code, said.kind) == (3, "PartialSource")
    assert said.message == (
        "not sent, because not readable: root/closed (permission denied), root/secret (permission denied)"
    )
    assert isinstance(sent.events[-2], events.Summary)
    assert two.fetch(sent.ticket).code == 0
    assert os.listdir(two.out / "root") == ["fine"]


def test_when_nothing_is_readable_there_is_no_ticket(two: Two, unprivileged: list[str]) -> None:
    two.file("f", 10).chmod(0)
    sent = two.send(two.tmp / "f", prefix=unprivileged)
    assert complaint(sent).code == 3
    assert complaint(sent).message.endswith(
        "f cannot be read (permission denied), so there is nothing to send"
    )
    assert len(sent.events) == 1


def rewrite(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, 1000)


def replace(path: Path) -> None:
    twin = path.with_name("twin")
    twin.write_bytes(path.read_bytes())
    twin.replace(path)


def swap_for_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "route"),
    [(f, "webrtc") for f in (rewrite, grow, shrink, replace, Path.unlink, swap_for_a_pipe)]
    + [(shrink, "s3")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_file_that_changes_before_it_is_sent_voids_the_transfer(
    two: Two, change: Callable[[Path], None], route: str
) -> None:
    root = two.tmp / "root"
    root.mkdir()
    (root / "a").write_bytes(b"first")
    victim = two.file("root/victim", 3 * MIB)
    sending = two.send(root, "--wait", "3s" if route == "s3" else "60s")
    assert sending.ticket
    change(victim)
    if route == "s3":
        sending.end()
    got = two.fetch(sending.ticket)
    said = complaint(sending)
    assert (said.code, said.kind) == (6, "SourceChanged")
    assert said.message.startswith("root/victim ")
    assert said.next == "send it again once nothing writes to it"
    assert complaint(got).code == 6
    assert "the sender ended this transfer" in complaint(got).message
    assert os.listdir(two.out) == []


# --- tickets


def test_a_mistyped_ticket_exits_12_without_asking_anybody(two: Two) -> None:
    good = str(Ticket.new())
    nowhere = {**two.there, "NATS_URL": "nats://127.0.0.1:9"}
    swapped = good[:20] + ("q" if good[20] != "q" else "p") + good[21:]
    for wrong in (swapped, good[:-1], good + "q", "xfer1", "hello", "", good[:30].upper() + good[30:]):
        said = complaint(two.fetch(wrong, env=nowhere))
        assert said.code == 12, wrong
        assert said.next == "copy the whole ticket again; it starts with xfer1"
    assert os.listdir(two.out) == []


def test_a_wrong_secret_and_a_job_that_never_was_look_the_same(two: Two) -> None:
    real = Ticket.parse(two.store(two.file("f", 10)))
    wrong = Ticket(real.job, Ticket.new().secret)
    said = [complaint(two.fetch(str(ticket))) for ticket in (wrong, Ticket.new())]
    assert said[0] == said[1]
    assert (said[0].code, said[0].message) == (4, "there is no such job, or it has expired")
    assert said[0].next == "ask the sender for a new ticket"
    assert os.listdir(two.out) == []
    assert two.fetch(str(real)).code == 0


def test_an_expired_job_exits_4(two: Two) -> None:
    sent = two.send("--wait", "0", "--expire", "1s", two.file("f", 10))
    expires = sent.event(events.Stored).expires
    while time.time() < expires + 0.1:
        time.sleep(0.05)
    said = complaint(two.fetch(sent.ticket))
    assert (said.code, said.message) == (4, "there is no such job, or it has expired")
    assert os.listdir(two.out) == []


# --- servers


def test_nothing_configured_exits_2_and_names_xfer_up(two: Two) -> None:
    bare = {k: v for k, v in two.here.items() if not k.startswith(("NATS_", "XFER_USER"))}
    for tried in (two.send(two.file("f", 10), env=bare), two.fetch(str(Ticket.new()), env=bare)):
        said = complaint(tried)
        assert (said.code, said.kind) == (2, "NotConfigured")
        assert "`xfer up`" in said.next


def test_no_nats_exits_5_long_before_patience_is_over(two: Two) -> None:
    nowhere = f"nats://127.0.0.1:{free_port()}"
    tried = (
        two.send(two.file("f", 10), env={**two.here, "NATS_URL": nowhere}),
        two.fetch(str(Ticket.new()), env={**two.there, "NATS_URL": nowhere}),
    )
    for process in tried:
        said = complaint(process)
        assert (said.code, said.kind) == (5, "BusUnreachable")
        assert said.message.startswith(f"cannot reach NATS at {nowhere} (")
        assert "`xfer up`" in said.next
    assert os.listdir(two.out) == []


@pytest.fixture
def nowhere(two: Two, servers: Servers, tmp_path: Path) -> Place:
    """Where the machines look for NATS, which does not run yet, and what a broker on it needs to know."""
    folder = tmp_path / "alone"
    folder.mkdir()
    url = f"nats://127.0.0.1:{free_port()}"
    env = {
        **servers.env,
        "NATS_URL": url,
        "XFER_S3_ENDPOINT": servers.s3_endpoint,
        "XFER_BUCKET": "alone",
        "AWS_SHARED_CREDENTIALS_FILE": str(servers.dir / "aws_credentials"),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for machine in (two.here, two.there):
        machine.update(NATS_URL=url)
        machine.pop("NATS_CREDS")
    return Place(url, servers.s3_endpoint, env, folder)


def nats_at(place: Place) -> AbstractContextManager[str]:
    return nats_server(place.folder, int(place.nats_url.rpartition(":")[2]))


@pytest.fixture
def alone(nowhere: Place) -> Iterator[Place]:
    """The same, and NATS runs."""
    with nats_at(nowhere):
        yield nowhere


def test_patience_that_was_asked_for_holds_from_the_start(two: Two, nowhere: Place) -> None:
    """Without NATS, then without a broker; each is named while it is waited for. A fetch has it from a variable."""
    source = two.file("f", 10)
    sending = two.send("--wait", "0", "--patience", "10m", source)
    fetching = two.fetch(str(Ticket.new()), env={**two.there, "XFER_PATIENCE": "10m"})
    for run in (sending, fetching):
        waits = run.event(events.Waiting, lambda event: event.on == "bus")
        assert waits.what.startswith(f"cannot reach NATS at {nowhere.nats_url} (")
    with nats_at(nowhere):
        for run in (sending, fetching):
            run.event(events.Waiting, lambda event: event.on == "broker")
        with broker_process(nowhere, nowhere.folder / "log"):
            assert sending.summary.outcome == "stored"
            assert complaint(fetching).code == 4


def until_a_broker_answers(two: Two) -> None:
    """By what anybody can ask: a job that never was."""
    deadline = time.monotonic() + SOON
    while complaint(two.fetch(str(Ticket.new()))).code != 4:
        assert time.monotonic() < deadline


def test_no_broker_exits_5_and_says_how_to_start_one(two: Two, alone: Place) -> None:
    for tried in (two.send(two.file("f", 10)), two.fetch(str(Ticket.new()))):
        said = complaint(tried)
        assert (said.code, said.kind, said.message) == (5, "BrokerAbsent", "NATS answers, but no broker does")
        assert said.next == "start one with `xfer up` or `xfer broker`"
    assert os.listdir(two.out) == []


def test_no_store_exits_5_once_patience_is_over_and_a_rerun_carries_on(two: Two, alone: Place) -> None:
    source = two.file("f", MIB)
    log = alone.folder / "log"
    with broker_process(alone, log, XFER_S3_ENDPOINT=f"http://127.0.0.1:{free_port()}"):
        until_a_broker_answers(two)
        sent = two.send("--wait", "0", "--patience", "2s", source)
        said = complaint(sent)
        assert (said.code, said.kind) == (5, "StoreUnreachable")
        assert said.next.endswith("then run the same command again")
    with broker_process(alone, log):
        until_a_broker_answers(two)
        again = two.send("--wait", "0", source)
        assert again.summary.outcome == "stored"
        assert again.ticket == sent.ticket
        assert two.fetch(again.ticket).code == 0
    assert (two.out / "f").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("minutes", "side"),
    [(20, "20 minutes ahead of"), pytest.param(-20, "20 minutes behind", marks=pytest.mark.long)],
)
def test_a_broker_whose_clock_is_off_is_named(two: Two, alone: Place, minutes: int, side: str) -> None:
    script = alone.folder / "skewed.py"
    script.write_text(SKEWED)
    with broker_process(alone, alone.folder / "log", str(script), str(minutes * 60)):
        until_a_broker_answers(two)
        said = complaint(two.send("--wait", "0", two.file("f", 10)))
    assert (said.code, said.kind) == (5, "ClockSkew")
    assert said.message == f"the broker's clock is {side} the store's"
    assert said.next.startswith("set the clock of the broker's host")


@pytest.mark.long
@pytest.mark.parametrize("minutes", [20, -20])
def test_a_broker_whose_clock_is_off_does_not_hinder_a_direct_transfer(
    two: Two, alone: Place, minutes: int
) -> None:
    script = alone.folder / "skewed.py"
    script.write_text(SKEWED)
    with broker_process(alone, alone.folder / "log", str(script), str(minutes * 60)):
        until_a_broker_answers(two)
        sending = two.send(two.file("f", 10))
        assert two.fetch(sending.ticket).code == 0
        assert sending.summary.route == "webrtc"


def test_foreign_credentials_exit_7(two: Two) -> None:
    seed, _ = make_nkey()
    (two.tmp / "foreign.nk").write_text(seed)
    foreign = {**two.here, "NATS_CREDS": str(two.tmp / "foreign.nk")}
    said = complaint(two.send(two.file("f", 10), env=foreign))
    assert (said.code, said.kind) == (7, "NotAllowed")
    assert re.fullmatch(r"NATS at nats://\S+ does not accept these credentials", said.message)
    assert said.next == "ask whoever runs the broker"


def test_posing_as_another_user_exits_7(two: Two) -> None:
    said = complaint(two.send(two.file("f", 10), env={**two.here, "XFER_USER": "somebody"}))
    assert (said.code, said.message) == (7, "NATS does not let user somebody talk to the broker")


# --- the command line


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), "nothing to send"),
        (("f", "--wait", "soon"), "--wait"),
        (("f", "--threshold", "lots"), "--threshold"),
        (("f", "--expire", "-1s"), "--expire"),
        (("f", "--compress", "20"), "--compress '20' is not a way to compress"),
        (("f", "--via", "pigeon"), "pigeon"),
        (("f", "--fetches", "0"), "--fetches"),
        (("f", "--links", "eat"), "eat"),
        (("f", "--name", "g"), "--name goes with - or --from-command only"),
        (("f", "--nonsense"), "no such option: --nonsense"),
        (("f", "--ticket-file", "no/such"), "its folder is not there"),
    ],
)
def test_a_command_that_makes_no_sense_exits_2(two: Two, args: tuple[str, ...], sentence: str) -> None:
    two.file("f", 10)
    sent = two.send(*args)
    assert complaint(sent).code == 2
    assert sentence.lower() in complaint(sent).message.lower()
    assert len(sent.events) == 1
