"""Processes that die at the very moment that hurts most, and outages that last: the same commands end well."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import MIB, SOON, Background, Two, complaint, same_tree
from orphans import live_jobs, objects_of, orphans_within
from proofs import SWEPT_WITHIN, rows_in
from stage import SIDES, Stage
from taps import Count, Hold

from transfer import events
from transfer.api import JobState

if TYPE_CHECKING:
    from conftest import Servers

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and SIGSTOP"),
]
PACE = 12_000_000.0
"""Bytes a second: slow enough that what is said to happen midway does."""


def slowed(stage: Stage, pace: float = PACE) -> None:
    for side in SIDES:
        stage.wires[side, "store"].rate = pace


def killed(*processes: Background) -> None:
    for process in processes:
        process.signal(signal.SIGKILL)
    for process in processes:
        assert process.code == -signal.SIGKILL


def ended_well(apart: Two, stage: Stage, source: Path) -> None:
    """Everything arrived, and nobody keeps anything any more."""
    assert (apart.arrived, apart.left_over) == ([source.name], [])
    if source.is_dir():
        same_tree(source, apart.out / source.name)
    else:
        assert subprocess.run(["cmp", source, apart.out / source.name], check=False).returncode == 0
    for env in (apart.here, apart.there):
        assert rows_in(Path(env["XFER_HOME"])) == {}
    assert orphans_within(stage.servers, SWEPT_WITHIN) == []


def gone(stage: Stage, job: str) -> bool:
    """Neither a live record nor an object, after the time that a sweep may take."""
    deadline = time.monotonic() + SWEPT_WITHIN
    while time.monotonic() < deadline:
        if job not in live_jobs(stage.servers) and not objects_of(stage.servers, job):
            return True
        time.sleep(0.3)
    return False


def until(true: Callable[[], bool], what: str, every: float = 0.001) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline, f"not within {SOON} s: {what}"
        time.sleep(every)


# --- outages


@pytest.fixture
def short_lived(
    tmp_path: Path, start_servers: Callable[..., Servers], stop_servers: Callable[[Servers], int]
) -> Iterator[Stage]:
    """Servers on which an unfinished job expires after a few seconds without progress."""
    stage = Stage(tmp_path / "short-lived", start_servers, stop_servers, XFER_UNFINISHED_LIFE="8")
    yield stage
    stage.close()


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_machine_that_loses_power_carries_on_when_it_is_up_again(
    apart: Two, stage: Stage, share: float
) -> None:
    """Both ends and all servers, at once; the disk keeps what the system had taken."""
    slowed(stage)
    source = apart.file("f", 60 * MIB)
    first = apart.send("--via", "s3", "--fetches", "1", source)
    got = apart.fetch(first.ticket)
    first.moved(int(share * 60 * MIB))
    safe = max((e.done for e in first.events if isinstance(e, events.Progress)), default=0)
    stage.signal("up", signal.SIGKILL)
    killed(first, got)
    stage.up()
    slowed(stage, 100 * MIB)
    second = apart.send("--via", "s3", "--fetches", "1", source)
    assert second.ticket == first.ticket
    got = apart.fetch(second.ticket)
    assert second.summary.outcome == "stored"
    assert second.summary.wire < 60 * MIB - safe + 33 * MIB, "what was stored was stored again"
    assert got.code == 0
    ended_well(apart, stage, source)
    assert gone(stage, second.summary.job)


@pytest.mark.parametrize("how", ["cut", "stall"])
@pytest.mark.parametrize("side", SIDES)
def test_a_network_that_is_away_for_a_while_costs_time_and_nothing_else(
    apart: Two, stage: Stage, side: str, how: str
) -> None:
    slowed(stage)
    source = apart.file("f", 60 * MIB)
    sending = apart.send("--via", "s3", source)
    got = apart.fetch(sending.ticket)
    (sending if side == "sender" else got).moved(20 * MIB)
    wires = [stage.wires[side, server] for server in ("nats", "store")]
    for wire in wires:
        (wire.cut if how == "cut" else wire.stall)()
    time.sleep(10)
    assert (sending if side == "sender" else got).running
    for wire in wires:
        wire.mend()
    sending.end(90)
    got.end(90)
    assert sending.summary.outcome == "stored"
    assert got.code == 0
    ended_well(apart, stage, source)
    if how == "cut":
        waited = [
            e.what for e in (sending if side == "sender" else got).events if isinstance(e, events.Waiting)
        ]
        assert any("store" in what or "NATS" in what for what in waited), waited


def test_a_send_that_lost_its_power_while_the_store_was_down_too_is_not_lost(
    apart: Two, stage: Stage
) -> None:
    """The store goes first, the sender gives up with 5; both come back."""
    slowed(stage)
    source = apart.file("f", 40 * MIB)
    first = apart.send("--via", "s3", "--patience", "2s", source)
    first.moved(10 * MIB)
    stage.signal("up", signal.SIGKILL)
    said = complaint(first)
    assert said.code == 5
    stage.up()
    second = apart.send("--via", "s3", source)
    assert second.ticket == first.ticket
    assert second.summary.wire < 40 * MIB
    assert apart.fetch(second.ticket).code == 0
    ended_well(apart, stage, source)


def test_what_was_asked_in_vain_during_an_outage_is_not_asked_all_at_once_after_it(
    apart: Two, stage: Stage
) -> None:
    """A broker that begins the same segment several times at once leaves the sender with an upload that is gone."""
    wire = stage.wires["sender", "nats"]
    first = apart.send("--wait", "1s", apart.file("f", 1000))
    assert first.ticket
    wire.cut()
    time.sleep(5)
    counted = wire.tap = Count(b"xfer.api.local.begin ")
    wire.mend()
    assert first.summary.outcome == "stored"
    assert counted.seen <= 2


# --- the sender's moments


def test_a_sender_killed_between_its_last_segment_and_the_end_of_the_job_says_stored_next_time(
    apart: Two, stage: Stage
) -> None:
    source = apart.file("f", 20 * MIB)
    hold = stage.wires["sender", "nats"].tap = Hold(b"xfer.api.local.finish")
    first = apart.send("--via", "s3", "--fetches", "1", source)
    assert hold.held.wait(SOON)
    killed(first)
    job = live_jobs(stage.servers)[first.event(events.TicketReady).job]
    assert (job.state, job.uploads) == (JobState.OPEN, {})
    stage.wires["sender", "nats"].tap = None
    second = apart.send("--via", "s3", "--fetches", "1", source)
    assert second.ticket == first.ticket
    assert second.summary.outcome == "stored"
    assert second.summary.wire < MIB, "only the trailer is made again"
    assert apart.fetch(second.ticket).code == 0
    ended_well(apart, stage, source)
    assert gone(stage, second.summary.job)


def test_a_sender_killed_before_it_hears_that_its_job_is_stored_makes_no_second_one(
    apart: Two, stage: Stage
) -> None:
    source = apart.file("f", 20 * MIB)
    hold = stage.wires["sender", "nats"].tap = Hold(b"xfer.api.local.finish", answer=True)
    first = apart.send("--via", "s3", source)
    assert hold.held.wait(SOON)
    job = first.event(events.TicketReady).job
    until(lambda: live_jobs(stage.servers)[job].state is JobState.STORED, "stored", 0.1)
    killed(first)
    stage.wires["sender", "nats"].tap = None
    second = apart.send("--via", "s3", source)
    assert (second.ticket, second.summary.outcome) == (first.ticket, "stored")
    assert second.summary.wire == 0
    assert apart.fetch(second.ticket).code == 0
    ended_well(apart, stage, source)


@pytest.mark.parametrize("answer", [False, True], ids=["before the request", "before the answer"])
@pytest.mark.parametrize("verb", ["create", "begin", "sign_parts", "complete"])
def test_a_sender_killed_at_any_word_to_the_broker_leaves_nothing_that_nobody_owns(
    apart: Two, stage: Stage, verb: str, answer: bool
) -> None:
    source = apart.file("f", 20 * MIB)
    hold = stage.wires["sender", "nats"].tap = Hold(f"xfer.api.local.{verb} ".encode(), answer=answer)
    first = apart.send("--via", "s3", "--fetches", "1", source)
    assert hold.held.wait(SOON)
    time.sleep(0.1)  # so that the request is carried out
    killed(first)
    stage.wires["sender", "nats"].tap = None
    second = apart.send("--via", "s3", "--fetches", "1", source)
    assert second.summary.outcome == "stored"
    if verb != "create":
        assert second.ticket == first.ticket
    assert apart.fetch(second.ticket).code == 0
    ended_well(apart, stage, source)
    assert gone(stage, second.summary.job)


def test_a_stream_whose_sender_died_expires_and_its_receiver_is_told(
    apart: Two, short_lived: Stage, tmp_path: Path
) -> None:
    """It cannot be sent again: what came of it goes, at the store and, with the next fetch, at the receiver."""
    env = [short_lived.environment(side, tmp_path / f"{side}-short") for side in SIDES]
    sending = apart.start("send", "--json", "-", "--name", "s", env=env[0], stdin=subprocess.PIPE)
    sending.feed(os.urandom(28 * MIB))
    got = apart.fetch(sending.ticket, env=env[1])
    got.moved(8 * MIB)
    killed(sending, got)
    assert len(apart.left_over) == 1
    job = sending.event(events.TicketReady).job
    assert gone(short_lived, job)
    assert orphans_within(short_lived.servers, SWEPT_WITHIN) == []
    said = complaint(apart.fetch(sending.ticket, env=env[1]))
    assert said.code == 4
    assert (apart.arrived, apart.left_over) == ([], [])
    assert rows_in(tmp_path / "receiver-short") == {}


# --- the receiver's moments


@pytest.mark.parametrize("answer", [False, True], ids=["before it was given", "before that was heard"])
def test_a_receiver_killed_at_its_receipt_gives_it_next_time(apart: Two, stage: Stage, answer: bool) -> None:
    source = apart.file("f", 3 * MIB)
    sent = apart.send("--via", "s3", "--fetches", "1", source)
    assert sent.summary.outcome == "stored"
    hold = stage.wires["receiver", "nats"].tap = Hold(b"xfer.api.local.receipt ", answer=answer)
    first = apart.fetch(sent.ticket)
    assert hold.held.wait(SOON)
    time.sleep(0.1)
    killed(first)
    assert (apart.arrived, apart.left_over) == (["f"], [])
    stage.wires["receiver", "nats"].tap = None
    again = apart.fetch(sent.ticket)
    assert (again.summary.wire, again.summary.digest) == (0, sent.summary.digest)
    ended_well(apart, stage, source)
    assert gone(stage, sent.summary.job)


def test_a_receiver_killed_while_it_publishes_publishes_the_rest_next_time(apart: Two, stage: Stage) -> None:
    """Into a folder that is there, file by file; stopped to look, then killed, several times."""
    source = apart.tmp / "tree"
    source.mkdir()
    for number in range(1500):
        (source / f"{number:04d}").write_bytes(number.to_bytes(2, "big") * 100)
    (apart.out / "tree").mkdir()
    sent = apart.send("--via", "s3", "--fetches", "1", source)
    assert sent.summary.outcome == "stored"
    here, midway = apart.out / "tree", 0
    for _ in range(5):
        before = len(os.listdir(here))
        got = apart.fetch(sent.ticket)
        until(lambda before=before, got=got: len(os.listdir(here)) > before or not got.running, "publishing")  # type: ignore[misc]
        killed_midway = got.running
        got.signal(signal.SIGKILL)
        got.end()
        if not killed_midway:
            break
        midway += 0 < len(os.listdir(here)) < 1500
    assert midway, "it was never caught in the act"
    if apart.left_over:
        assert apart.fetch(sent.ticket).code == 0
    os.utime(here, ns=(0, source.stat().st_mtime_ns))
    ended_well(apart, stage, source)
    assert gone(stage, sent.summary.job)


def test_a_receiver_killed_while_it_makes_its_temporary_folder_leaves_none_behind(
    apart: Two, stage: Stage
) -> None:
    """Thousands of folders take a while, and only then is the ledger told where they are."""
    source = apart.tmp / "tree"
    for number in range(3000):
        (source / f"{number // 100:02d}" / f"{number % 100:02d}").mkdir(parents=True)
    sent = apart.send("--via", "s3", "--fetches", "1", source)
    assert sent.summary.outcome == "stored"
    for _ in range(3):
        got = apart.fetch(sent.ticket)
        until(lambda: bool(apart.left_over), "a temporary folder")
        killed(got)
    assert len(apart.left_over) == 1, "each run removes what the one before forgot"
    assert apart.fetch(sent.ticket).code == 0
    ended_well(apart, stage, source)


# --- the broker's moments


@pytest.mark.parametrize("sender_too", [False, True], ids=["the broker", "broker and sender"])
def test_who_dies_between_the_stores_complete_and_its_record_leaves_no_orphan(
    apart: Two, stage: Stage, sender_too: bool
) -> None:
    """NATS is stopped while the broker is at the store, so that it cannot write down what the store then has."""
    for number in range(10):
        source = apart.file(f"f{number}", 1 * MIB)
        hold = stage.wires["sender", "nats"].tap = Hold(b"xfer.api.local.complete ", answer=True)
        first = apart.send("--via", "s3", "--fetches", "1", source)
        job = first.event(events.TicketReady).job
        assert hold.held.wait(SOON)
        time.sleep(0.002 + number * 0.001)
        stage.signal("nats", signal.SIGSTOP)
        time.sleep(0.3)
        stored = objects_of(stage.servers, job)
        stage.signal("broker", signal.SIGKILL)
        if sender_too:
            killed(first)
        stage.wires["sender", "nats"].tap = None
        stage.signal("nats", signal.SIGCONT)
        caught = bool(stored) and not live_jobs(stage.servers)[job].has(0)
        if caught:
            break
        first.stop()
        stage.refreshed()
    else:
        pytest.skip("the broker was never caught between the two")
    if sender_too:
        first = apart.send("--via", "s3", "--fetches", "1", source)
    else:
        stage.wires["sender", "nats"].cut()  # what was held is lost: the connection is made anew
        stage.wires["sender", "nats"].mend()
    assert first.summary.outcome == "stored"
    assert first.event(events.TicketReady).job == job
    assert apart.fetch(first.ticket).code == 0
    assert gone(stage, job)
    ended_well(apart, stage, source)


# --- a full disk


@pytest.mark.root
def test_a_full_disk_under_the_senders_ledger_is_told_and_a_rerun_carries_on(
    apart: Two, stage: Stage
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    home = Path(apart.here["XFER_HOME"])
    home.mkdir(exist_ok=True)
    slowed(stage)
    source = apart.file("f", 60 * MIB)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "xfer-test", home], check=True)
    try:
        first = apart.send("--via", "s3", source)
        first.moved(10 * MIB)
        fill(home / "ballast")
        said = complaint(first.end(60))
        assert (said.code, said.kind) == (5, "DiskFull")
        (home / "ballast").unlink()
        second = apart.send("--via", "s3", source)
        assert second.ticket == first.ticket
        assert second.summary.wire < 60 * MIB
        assert apart.fetch(second.ticket).code == 0
        ended_well(apart, stage, source)
    finally:
        subprocess.run(["umount", "--lazy", home], check=True)


def fill(path: Path) -> None:
    """Until there is no room left."""
    with open(path, "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            return


# --- what the ledger itself survives


def test_a_ledger_that_lost_its_last_commits_costs_a_resend_and_no_wrong_byte(
    apart: Two, stage: Stage
) -> None:
    """As after a power cut, which may take the last ones (synchronous = NORMAL)."""
    slowed(stage, 2 * PACE)
    source = apart.file("f", 120 * MIB)
    first = apart.send("--via", "s3", "--fetches", "1", source)
    got = apart.fetch(first.ticket)
    got.moved(6 * MIB)
    killed(first, got)
    for env, statement in (
        (apart.here, "DELETE FROM parts WHERE part % 2 = 0"),
        (apart.there, "DELETE FROM frames WHERE kind = 1 AND idx % 2 = 0"),
    ):
        ledger = sqlite3.connect(Path(env["XFER_HOME"]) / "state" / "ledger.db")
        with ledger:
            ledger.execute(statement)
        ledger.close()
    slowed(stage, 100 * MIB)
    second = apart.send("--via", "s3", "--fetches", "1", source)
    assert second.ticket == first.ticket
    assert second.summary.outcome == "stored"
    assert apart.fetch(second.ticket).code == 0
    ended_well(apart, stage, source)
