"""Processes that die at the very moment that hurts most: the same command again ends well and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import MIB, SOON, Two, complaint
from material import rows_in
from proofs import SWEPT_WITHIN
from stage import SIDES, Stage
from steps import ended_well, gone, killed, until
from taps import Hold

from tests.orphans import live_jobs, objects_of, orphans_within
from transfer import events
from transfer.api import JobState
from transfer.ledger import JobRow, Ledger

if TYPE_CHECKING:
    from tests.conftest import Servers

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and SIGSTOP"),
]


@pytest.fixture
def short_lived(
    tmp_path: Path, start_servers: Callable[..., Servers], stop_servers: Callable[[Servers], int]
) -> Iterator[Stage]:
    """Servers on which an unfinished job expires after a few seconds without progress."""
    stage = Stage(tmp_path / "short-lived", start_servers, stop_servers, XFER_UNFINISHED_LIFE="8")
    yield stage
    stage.close()


# --- the sender's moments


def test_a_sender_killed_between_its_last_segment_and_the_end_of_the_job_says_stored_next_time(
    apart: Two, stage: Stage
) -> None:
    source = apart.file("f", 20 * MIB)
    hold = stage.wires["sender", "nats"].tap = Hold(b"xfer.api.local.finish")
    first = apart.send("--via", "s3", "--fetches", "1", source)
    assert hold.held.wait(SOON)
    killed(first)
    name = first.event(events.TicketReady).job
    found = live_jobs(stage.servers)
    while (
        name not in found
    ):  # under load a listing may say none while there are; the test's own time is the limit
        found = live_jobs(stage.servers)
    job = found[name]
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


DYING = """
import asyncio, os, sys
from transfer import fetch, send

def listen(event):
    if type(event).__name__ == sys.argv[1]:
        os._exit(9)

if sys.argv[2] == "send":
    asyncio.run(send([sys.argv[3]], via="s3", fetches=1, on_event=listen))
else:
    asyncio.run(fetch(sys.argv[3], sys.argv[4], on_event=listen))
"""


@pytest.mark.parametrize("event", ["TicketReady", "RouteChosen", "Stored", "Summary"])
def test_a_sender_that_dies_as_it_says_something_goes_on_under_the_same_ticket(
    apart: Two, stage: Stage, event: str
) -> None:
    source = apart.file("f", 3 * MIB)
    words = [sys.executable, "-c", DYING, event, "send", str(source)]
    assert subprocess.run(words, env=apart.here, timeout=60, check=False).returncode == 9
    (job,) = (row.job for row in unfinished(apart.here))
    sent = apart.send("--via", "s3", "--fetches", "1", source)
    assert (sent.summary.job, sent.summary.outcome) == (job, "stored")
    assert apart.fetch(sent.ticket).code == 0
    ended_well(apart, stage, source)
    assert gone(stage, job)


@pytest.mark.parametrize("event", ["RouteChosen", "Summary"])
def test_a_receiver_that_dies_as_it_says_something_ends_well_next_time(
    apart: Two, stage: Stage, event: str
) -> None:
    source = apart.file("f", 3 * MIB)
    sent = apart.send("--via", "s3", "--fetches", "1", source)
    assert sent.summary.outcome == "stored"
    words = [sys.executable, "-c", DYING, event, "fetch", sent.ticket, f"{apart.out}/"]
    assert subprocess.run(words, env=apart.there, timeout=60, check=False).returncode == 9
    assert apart.fetch(sent.ticket, "-o", f"{apart.out}/").summary.digest == sent.summary.digest
    ended_well(apart, stage, source)
    assert gone(stage, sent.summary.job)


def unfinished(env: Mapping[str, str]) -> list[JobRow]:
    ledger = Ledger(Path(env["XFER_HOME"]) / "state" / "ledger.db")
    try:
        return ledger.unfinished("send")
    finally:
        ledger.close()


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


@pytest.mark.parametrize("via", ["webrtc", "s3"])
def test_a_receipt_of_what_an_earlier_run_sent_ends_the_next_one(apart: Two, stage: Stage, via: str) -> None:
    """The receiver has everything and is about to say so when its sender dies; the next run has read nothing yet."""
    source = apart.file("f", 20 * MIB)
    first = apart.send("--via", "webrtc", "--bwlimit", "10M", "--fetches", "1", source)
    got = apart.fetch(first.ticket)
    got.moved(1)
    stage.wires["receiver", "nats"].stall()
    until(lambda: apart.arrived == ["f"], "everything is there", 0.05)
    killed(first)
    stage.wires["sender", "store"].rate = 1.0 * MIB
    second = apart.send("--via", via, "--wait", "30s", "--fetches", "1", source)
    assert second.ticket == first.ticket
    if via == "webrtc":
        second.event(events.Waiting)
    time.sleep(1)
    stage.wires["receiver", "nats"].mend()
    assert got.summary.outcome == "fetched"
    assert second.end(20).summary.outcome == "receipt"
    ended_well(apart, stage, source)
    assert gone(stage, second.summary.job)


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
        shutil.rmtree(Path(apart.here["XFER_HOME"]) / "state")  # what it began is not what this is about
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
