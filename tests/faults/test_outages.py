"""What is down for a while, or full: power, network, servers, disks. The same commands end well afterwards."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import MIB, SOON, Two, complaint
from stage import SIDES, Stage
from steps import PACE, ended_well, gone, killed, slowed
from taps import Count, Hold

from tests.orphans import objects_of
from transfer import events

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and SIGSTOP"),
]


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_machine_that_loses_power_carries_on_when_it_is_up_again(
    apart: Two, stage: Stage, share: float
) -> None:
    """Both ends and all servers, at once; the disk keeps what the system had taken."""
    slowed(stage)
    source = apart.file("f", 120 * MIB)
    first = apart.send("--via", "s3", "--fetches", "1", source)
    got = apart.fetch(first.ticket)
    first.moved(int(share * 120 * MIB))
    safe = max((e.done for e in first.events if isinstance(e, events.Progress)), default=0)
    stage.signal("up", signal.SIGKILL)
    killed(first, got)
    stage.up()
    slowed(stage, 100 * MIB)
    second = apart.send("--via", "s3", "--fetches", "1", source)
    assert second.ticket == first.ticket
    got = apart.fetch(second.ticket)
    assert second.summary.outcome == "stored"
    assert second.summary.wire < 120 * MIB - safe + 33 * MIB, "what was stored was stored again"
    assert got.code == 0
    ended_well(apart, stage, source)
    assert gone(stage, second.summary.job)


@pytest.mark.parametrize("how", ["cut", "stall"])
@pytest.mark.parametrize("side", SIDES)
def test_a_network_that_is_away_for_a_while_costs_time_and_nothing_else(
    apart: Two, stage: Stage, side: str, how: str
) -> None:
    slowed(stage)
    source = apart.file("f", 120 * MIB)
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
    source = apart.file("f", 120 * MIB)
    first = apart.send("--via", "s3", "--patience", "2s", source)
    first.moved(10 * MIB)
    stage.signal("up", signal.SIGKILL)
    said = complaint(first)
    assert said.code == 5
    stage.up()
    second = apart.send("--via", "s3", source)
    assert second.ticket == first.ticket
    assert second.summary.wire < 120 * MIB
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


@pytest.mark.parametrize("command", ["send", "fetch"])
def test_a_network_that_stalls_just_as_one_connects_is_no_refusal(
    apart: Two, stage: Stage, command: str
) -> None:
    """NATS gives whoever does not log in within two seconds up, and calls that an authentication timeout."""
    source = apart.file("f", 1000)
    ticket = apart.store(source)
    stage.wires["receiver", "nats"].stall()
    words = ("--wait", "0", source) if command == "send" else (ticket, "-o", apart.out)
    run = apart.start(command, "--json", *words, env=apart.there)
    time.sleep(3)
    stage.wires["receiver", "nats"].mend()
    assert run.code in (0, 5)
    assert apart.fetch(ticket, *(() if command == "send" or run.code else ("--rename",))).code == 0


def test_a_receipt_that_cannot_be_given_is_given_by_the_next_run(apart: Two, stage: Stage) -> None:
    source = apart.file("f", 3 * MIB)
    sent = apart.send("--via", "s3", "--fetches", "1", source)
    assert sent.summary.outcome == "stored"
    wire = stage.wires["receiver", "nats"]
    hold = wire.tap = Hold(b"xfer.api.local.receipt ")
    first = apart.fetch(sent.ticket, "--patience", "1s")
    assert hold.held.wait(SOON)
    wire.cut()
    assert first.summary.outcome == "fetched"
    assert any(
        "the same command gives it later" in e.text for e in first.events if isinstance(e, events.Notice)
    )
    assert len(objects_of(stage.servers, sent.summary.job)) == 1
    wire.tap = None
    wire.mend()
    again = apart.fetch(sent.ticket)
    assert (again.summary.wire, again.summary.digest) == (0, first.summary.digest)
    ended_well(apart, stage, source)
    assert gone(stage, sent.summary.job)


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
    source = apart.file("f", 120 * MIB)
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
        assert second.summary.wire < 120 * MIB
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
    source = apart.file("f", 240 * MIB)
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
