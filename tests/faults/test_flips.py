"""Bits that flip on the wire or in a ledger, and what must never be seen on a wire: all that crosses is sealed."""

from __future__ import annotations

import base64
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from helpers import MIB, Background, Two, complaint, same_tree
from stage import SIDES, Stage
from taps import CLIENT, SERVER, FlipBodies, FlipStream, Watch

from transfer.ticket import Ticket

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="uses the stage of the fault tests"),
]
SIZE = 20 * MIB
SHORT = 100_000
"""Bytes: below are indexes and manifests."""


def same(apart: Two, source: Path) -> bool:
    return subprocess.run(["cmp", source, apart.out / source.name], check=False).returncode == 0


# --- between a client and the store


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_bit_that_flips_on_its_way_to_the_store_is_refused_there_and_sent_again(
    apart: Two, stage: Stage, share: float
) -> None:
    """Each URL is signed for the checksum of its part."""
    flips = FlipBodies(CLIENT, lambda number, length: int(length * share) if number < 2 else None)
    stage.wires["sender", "store"].tap = flips
    source = apart.file("f", SIZE)
    sent = apart.send("--via", "s3", source)
    assert sent.summary.outcome == "stored"
    assert flips.flipped == 2
    assert apart.fetch(sent.ticket).summary.resent == 0, "what lies in the store is right"
    assert same(apart, source)


def test_a_way_to_the_store_that_spoils_everything_ends_in_5_and_stores_nothing_wrong(
    apart: Two, stage: Stage
) -> None:
    wire = stage.wires["sender", "store"]
    wire.tap = FlipBodies(CLIENT, lambda number, length: number * 977 % length)
    source = apart.file("f", SIZE)
    first = apart.send("--via", "s3", "--patience", "3s", source)
    assert complaint(first).code == 5
    wire.tap = None
    second = apart.send("--via", "s3", source)
    assert (second.ticket, second.summary.outcome) == (first.ticket, "stored")
    assert apart.fetch(second.ticket).summary.resent == 0
    assert same(apart, source)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_bit_that_flips_on_its_way_from_the_store_is_mended_by_reading_again(
    apart: Two, stage: Stage, share: float
) -> None:
    source = apart.file("f", 2 * SIZE)
    sent = apart.send("--via", "s3", source)
    assert sent.summary.outcome == "stored"
    # Short ones are indexes and the manifest, and an index is read again at once: never two in a row. What is flipped in
    # the first reading of all comes as it was sent when it is read again.
    seen = {True: 0, False: 0}

    def chosen(_number: int, length: int) -> int | None:
        seen[length < SHORT] += 1
        return int(length * share) if seen[length < SHORT] in (1, 3) else None

    flips = FlipBodies(SERVER, chosen)
    stage.wires["receiver", "store"].tap = flips
    assert apart.fetch(sent.ticket).code == 0
    assert flips.flipped == 4
    assert same(apart, source)
    assert apart.left_over == []


def test_a_way_from_the_store_that_spoils_everything_ends_in_6_with_nothing_under_the_final_name(
    apart: Two, stage: Stage
) -> None:
    source = apart.file("f", SIZE)
    sent = apart.send("--via", "s3", source)
    assert sent.summary.outcome == "stored"
    wire = stage.wires["receiver", "store"]
    for at in (0, 1000, -1):
        wire.tap = FlipBodies(SERVER, lambda number, length, at=at: at % length)  # type: ignore[misc]
        said = complaint(apart.fetch(sent.ticket))
        assert (said.code, said.kind, apart.arrived) == (6, "DamagedData", [])
    wire.tap = None
    assert apart.fetch(sent.ticket).code == 0
    assert same(apart, source)


# --- in the sender's ledger


@pytest.mark.parametrize("field", ["kind", "index", "length", "digest"])
def test_a_senders_ledger_that_says_something_else_never_makes_a_wrong_file(
    apart: Two, stage: Stage, field: str
) -> None:
    """Between a kill and the next run. The receiver compares all digests with the trailer's, and every index with its object."""
    wire = stage.wires["sender", "store"]
    wire.rate = 10.0 * MIB
    source = apart.file("f", 60 * MIB)
    first = apart.send("--via", "s3", source)
    first.moved(10 * MIB)
    first.signal(signal.SIGKILL)
    assert first.code == -signal.SIGKILL
    wire.rate = None
    assert altered_parts(Path(apart.here["XFER_HOME"]) / "state" / "ledger.db", field) > 0
    second = apart.send("--via", "s3", source)
    assert second.code in (0, 5, 6), second.stderr
    if second.code == 0:
        got = apart.fetch(second.ticket, "--patience", "5s")
        assert got.code in (0, 6), got.stderr
        assert same(apart, source) if got.code == 0 else apart.arrived == []
    third = apart.send("--via", "s3", "--no-resume", source)
    assert third.summary.outcome == "stored"
    assert apart.fetch(third.ticket, "--rename").code == 0


def altered_parts(path: Path, field: str) -> int:
    """Changes the first frame of each part; returns how many parts there were."""
    at = ("kind", "index", "length", "digest").index(field)
    ledger = sqlite3.connect(path)
    try:
        with ledger:
            rows = ledger.execute("SELECT id, segment, part, frames FROM parts").fetchall()
            for *key, packed in rows:
                frames = msgspec.msgpack.decode(packed)
                was = frames[0][at]
                frames[0][at] = bytes([was[0] ^ 1]) + was[1:] if field == "digest" else was ^ 1
                statement = "UPDATE parts SET frames = ? WHERE id = ? AND segment = ? AND part = ?"
                ledger.execute(statement, (msgspec.msgpack.encode(frames), *key))
    finally:
        ledger.close()
    return len(rows)


# --- between a client and NATS


@pytest.mark.parametrize("seed", range(12))
def test_bits_that_flip_on_the_bus_never_make_a_wrong_file(apart: Two, stage: Stage, seed: int) -> None:
    """NATS' own text is not sealed (TLS is for that), so a flip may refuse or break anything, but not alter a byte."""
    draw = random.Random(seed)
    route = draw.choice(["webrtc", "s3"])
    source = apart.file("f", 3 * MIB)
    taps = []
    for side in SIDES:
        tap = FlipStream(draw.choice([CLIENT, SERVER]), draw, draw.choice([1500, 6000]), 2)
        stage.wires[side, "nats"].tap = tap
        taps.append(tap)
    command = ("--via", route, "--wait", "6s", "--patience", "3s")
    sending = apart.send(*command, source)
    ticket = ticket_of(sending)
    got = apart.fetch(ticket, "--patience", "3s") if ticket else None
    stops(sending, got)
    if got is not None and got.code == 0:
        assert same(apart, source)
    else:
        assert apart.arrived == []
    for side in SIDES:
        stage.wires[side, "nats"].tap = None
    if got is None or got.code != 0:
        again = apart.send("--via", "s3", "--no-resume", source)
        assert again.summary.outcome == "stored"
        assert apart.fetch(again.ticket).code == 0
        assert same(apart, source)


def ticket_of(sending: Background) -> str | None:
    try:
        return sending.ticket
    except AssertionError:  # it ended before it had one
        return None


def stops(sending: Background, got: Background | None) -> None:
    for run in (got, sending):
        if run is not None:
            assert run.end(60).code in range(1, 8) or run.code == 0, run.stderr


# --- what nobody in between may see


@pytest.mark.parametrize("route", ["s3", "webrtc"])
def test_nothing_of_the_files_their_names_or_the_ticket_crosses_a_wire_in_the_clear(
    apart: Two, stage: Stage, route: str
) -> None:
    folder = apart.tmp / "name-of-the-folder"
    folder.mkdir()
    marks = [base64.b64encode(os.urandom(24)) for _ in range(4)]
    (folder / "name-of-the-file.txt").write_bytes(b"\n".join(marks) + os.urandom(2 * MIB) + marks[0])
    (folder / "name-of-the-link").symlink_to("name-of-the-target")
    texts = [*marks, b"name-of-the-folder", b"name-of-the-file", b"name-of-the-link", b"name-of-the-target"]
    texts += [base64.b16encode(text).lower() for text in texts] + [
        base64.b64encode(text)[4:-4] for text in texts
    ]
    watches = {key: Watch() for key in stage.wires}
    for key, wire in stage.wires.items():
        wire.tap = watches[key]
    sending = apart.send("--via", route, "--compress", "off", "--receipt", folder)
    got = apart.fetch(sending.ticket)
    assert got.code == 0
    assert sending.summary.outcome == "receipt"
    same_tree(folder, apart.out / folder.name)
    ticket = Ticket.parse(sending.ticket)
    texts += [
        sending.ticket.encode(),
        ticket.secret,
        ticket.secret.hex().encode(),
        base64.b64encode(ticket.secret)[:20],
    ]
    for (side, server), watch in watches.items():
        assert [text for text in texts if watch.saw(text)] == [], f"between {side} and {server}"
        if server == "nats" or route == "s3":
            assert watch.heard > 1000, "the wire was not used: this proves nothing"
    assert watches["sender", "nats"].saw(ticket.job.encode()), (
        "the job's id is no secret: were it hidden, this would be deaf"
    )
